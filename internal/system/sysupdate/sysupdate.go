// Package sysupdate writes releases into the other slot through systemd-sysupdate.
//
// The parties: the caller renders the transfers of one update and, where their source
// is not a folder, serves it; Define puts them into a folder of root's own under /run;
// systemd-sysupdate, with systemd-pull beside it, reads the table, makes room, writes,
// checks sums and, when every file is there, names the partitions and puts the kernel
// image onto the ESP.
//
// What version 257 of it does, in this order, and what the design rests on:
//
//  1. Room is made in all targets first: of what is not protected, the oldest label
//     becomes "_empty" and the oldest kernel image is removed. Then everything is
//     flushed: an image that could be booted never points at a slot that is being written.
//  2. Each file is written into its place and checked. The label stays "_empty" and the
//     old UUID stays, so that a cut leaves nothing that is taken for a release.
//  3. Everything is flushed. Labels and UUIDs are set, one partition after the other;
//     last, the kernel image gets its name by a rename.
//
// A cut in 3 leaves an incomplete release: it is listed as such, and the next Update to
// the same version writes what is missing and no more. An Update to a version that is
// whole does nothing, even when its contents have rotted: Verify tells that.
//
// What can fail: a full ESP, a slot that is too small, a wrong sum, a source that is
// gone. Everything is then as after a cut; the half file on the ESP is removed by whichever
// of the two programs is left, and after a power cut by Vacuum or the next Update.
package sysupdate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

const (
	// DefaultProgram is where Debian has systemd-sysupdate.
	DefaultProgram = "/usr/lib/systemd/systemd-sysupdate"
	// DefaultDir is where the transfers and the lock of an update are.
	DefaultDir = "/run/holdfast/sysupdate"
)

// ErrBusy is an Update or Vacuum while another one is under way.
var ErrBusy = errors.New("another update is under way: wait for its end")

// Sysupdate runs systemd-sysupdate.
type Sysupdate struct {
	// Run starts programs; on a machine run.Host.
	Run run.Runner
	// Program is the path of systemd-sysupdate; default DefaultProgram.
	Program string
	// Dir is a folder of this package's own, 0700; default DefaultDir.
	Dir string
	// Hide is a text that errors show as "...": the secret part of the source's URL.
	// Default nothing.
	Hide string
}

// Release is one version that systemd-sysupdate knows of.
type Release struct {
	// Version is what "@v" stands for in the names.
	Version string
	// Newest is true for the highest version of those that are installed or offered.
	Newest bool
	// Installed is true when at least one target holds the version, see Incomplete.
	Installed bool
	// Available is true when the source offers it. List does not ask the source.
	Available bool
	// Protected is true for a version that is never removed.
	Protected bool
	// Incomplete is true when a target lacks the version that another one holds.
	Incomplete bool
}

func (s Sysupdate) program() string {
	if s.Program == "" {
		return DefaultProgram
	}
	return s.Program
}

func (s Sysupdate) dir() string {
	if s.Dir == "" {
		return DefaultDir
	}
	return s.Dir
}

func (s Sysupdate) definitions() string { return filepath.Join(s.dir(), "transfers") }

var transferName = regexp.MustCompile(`^[0-9a-z-]{1,64}\.transfer$`)

// Define replaces the transfers that the other methods work with. The files are
// readable by root alone, since they name the source.
func (s Sysupdate) Define(files map[string]string) error {
	if len(files) == 0 {
		return errors.New("defining the transfers of an update: there are none")
	}
	dir := s.definitions()
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("removing the transfers of the last update: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("defining the transfers of an update: %w", err)
	}
	for name, text := range files {
		if !transferName.MatchString(name) {
			return fmt.Errorf("defining the transfers of an update: %q is not the name of one", name)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return fmt.Errorf("defining transfer %s: %w", name, err)
		}
	}
	return nil
}

// List gives what the targets hold, newest first. It does not ask the source.
func (s Sysupdate) List(ctx context.Context) ([]Release, error) {
	var overview struct {
		All []string `json:"all"`
	}
	if err := s.ask(ctx, &overview, "list"); err != nil {
		return nil, err
	}
	releases := make([]Release, 0, len(overview.All))
	for _, version := range overview.All {
		var r Release // the keys are the names of the fields in lower case
		if err := s.ask(ctx, &r, "list", version); err != nil {
			return nil, err
		}
		releases = append(releases, r)
	}
	return releases, nil
}

// ask runs a command that answers in JSON.
func (s Sysupdate) ask(ctx context.Context, answer any, args ...string) error {
	result, err := s.run(ctx, nil, append([]string{"--offline", "--json=short"}, args...)...)
	if err != nil {
		return fmt.Errorf("listing the installed releases: %w", err)
	}
	if err := json.Unmarshal(result.Stdout, answer); err != nil {
		return fmt.Errorf("reading what systemd-sysupdate says of the installed releases: %w", err)
	}
	return nil
}

// Update brings the version into the targets, from the source that the transfers name,
// and returns when all is flushed. A version that is already there is no error. progress
// hears percents of files, each file counting the same; nil hears nothing.
//
// An error holds the last lines that systemd-sysupdate wrote. The targets are then as
// they were, but for the version that made room. When ctx ends, what runs is killed.
func (s Sysupdate) Update(ctx context.Context, version string, progress func(Progress)) error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	notify, err := listen(filepath.Join(s.dir(), "notify"), progress)
	if err != nil {
		return fmt.Errorf("updating to %s: %w", version, err)
	}
	_, err = s.run(ctx, []string{"NOTIFY_SOCKET=" + notify.path}, "update", version)
	err = errors.Join(err, notify.close())
	if err != nil {
		return fmt.Errorf("updating to %s: %w", version, err)
	}
	return nil
}

// Vacuum removes half files and superfluous kernel images that a cut left. It takes no
// slot's release away.
func (s Sysupdate) Vacuum(ctx context.Context) error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := s.run(ctx, nil, "--offline", "vacuum"); err != nil {
		return fmt.Errorf("clearing up after an update: %w", err)
	}
	return nil
}

// run starts systemd-sysupdate with messages that go to its standard error, and without
// a proxy for what lies on this machine.
func (s Sysupdate) run(ctx context.Context, env []string, args ...string) (run.Result, error) {
	env = append([]string{
		"SYSTEMD_LOG_TARGET=console", "SYSTEMD_LOG_LEVEL=info", "SYSTEMD_LOG_COLOR=0", "SYSTEMD_COLORS=0", "SYSTEMD_EMOJI=0",
		"SYSTEMD_PAGER=", "LC_ALL=C.UTF-8", "no_proxy=*", "NO_PROXY=*", "NOTIFY_SOCKET=",
	}, env...)
	result, err := s.Run(ctx, run.Command{
		Name: s.program(), Env: env,
		Args: append([]string{"--definitions=" + s.definitions(), "--no-pager"}, args...),
	})
	var failed *run.Error
	if s.Hide != "" && errors.As(err, &failed) {
		hidden := *failed
		hidden.Stderr = strings.ReplaceAll(failed.Stderr, s.Hide, "...")
		err = &hidden
	}
	return result, err
}

// lock keeps a second update of this node out until it is given back.
func (s Sysupdate) lock() (func(), error) {
	if err := os.MkdirAll(s.dir(), 0o700); err != nil {
		return nil, fmt.Errorf("making the folder of updates: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(s.dir(), "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking updates: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		closed := f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrBusy
		}
		return nil, errors.Join(fmt.Errorf("locking updates: %w", err), closed)
	}
	return func() { _ = f.Close() }, nil // nothing was written to it
}
