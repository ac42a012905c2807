package bootloader

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// Bless ends the trial of the image that runs: it becomes good for ever. No trial is no
// error, so that it can be done again.
func (l Loader) Bless(ctx context.Context) error {
	state, err := l.Read()
	if err != nil {
		return fmt.Errorf("blessing the release that runs: %w", err)
	}
	if !state.Counted {
		return nil
	}
	if err := l.mark(ctx, "good"); err != nil {
		return fmt.Errorf("blessing the release that runs: %w", err)
	}
	return nil
}

// MarkBad takes all tries from the image that runs, so that the next start takes another
// one. It is refused while there is no other image that could be started: a machine that
// is bad is better than one that is bad and counts down.
func (l Loader) MarkBad(ctx context.Context) error {
	state, err := l.Read()
	if err != nil {
		return fmt.Errorf("marking the release that runs as bad: %w", err)
	}
	booted, others := Entry{}, 0
	for _, entry := range state.Entries {
		switch {
		case entry.Booted:
			booted = entry
		case !entry.Bad():
			others++
		}
	}
	switch {
	case booted.File == "":
		err = errors.New("its image is not on the ESP")
	case others == 0:
		err = errors.New("there is no other release that could be started")
	case booted.Bad():
		return nil
	case state.Counted:
		err = l.mark(ctx, "bad")
	default: // systemd-bless-boot knows only starts that were counted
		err = l.rename(booted.File, strings.TrimSuffix(booted.File, ".efi")+"+0.efi")
	}
	if err != nil {
		return fmt.Errorf("marking the release that runs as bad: %w", err)
	}
	return nil
}

func (l Loader) mark(ctx context.Context, verb string) error {
	program := l.Program
	if program == "" {
		program = DefaultProgram
	}
	_, err := l.Run(ctx, run.Command{
		Name: program, Args: []string{"--path=" + l.esp(), verb},
		Env: []string{"SYSTEMD_LOG_TARGET=console", "SYSTEMD_LOG_COLOR=0", "SYSTEMD_COLORS=0", "SYSTEMD_EMOJI=0"},
	})
	return err
}

func (l Loader) rename(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, filepath.Join(l.folder(), from), unix.AT_FDCWD, filepath.Join(l.folder(), to), unix.RENAME_NOREPLACE)
	if err != nil {
		return fmt.Errorf("renaming %s to %s: %w", from, to, err)
	}
	return l.flush()
}

// Remove takes an image off the ESP, by its file name, and flushes. The one that runs is
// refused with ErrBooted; one that is not there is no error.
func (l Loader) Remove(file string) error {
	state, err := l.Read()
	if err != nil {
		return fmt.Errorf("removing kernel image %s: %w", file, err)
	}
	for _, entry := range state.Entries {
		if entry.File != file {
			continue
		}
		if entry.Booted {
			return fmt.Errorf("removing kernel image %s: %w", file, ErrBooted)
		}
		if err := os.Remove(filepath.Join(l.folder(), file)); err != nil {
			return fmt.Errorf("removing kernel image: %w", err)
		}
		return l.flush()
	}
	return nil
}

// Clean removes the unfinished files that a cut update left, and flushes.
func (l Loader) Clean() error {
	state, err := l.Read()
	if err != nil {
		return fmt.Errorf("clearing up the ESP: %w", err)
	}
	if len(state.Temporary) == 0 {
		return nil
	}
	for _, name := range state.Temporary {
		if err := os.Remove(filepath.Join(l.folder(), name)); err != nil {
			return fmt.Errorf("clearing up the ESP: %w", err)
		}
	}
	return l.flush()
}

// flush makes the change durable: FAT has no journal.
func (l Loader) flush() error {
	dir, err := os.Open(l.folder())
	if err != nil {
		return fmt.Errorf("flushing the ESP: %w", err)
	}
	err = errors.Join(dir.Sync(), unix.Syncfs(int(dir.Fd())), dir.Close())
	if err != nil {
		return fmt.Errorf("flushing the ESP: %w", err)
	}
	return nil
}
