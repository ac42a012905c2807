package earlyboot

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/holdfast-os/holdfast/internal/seed"
	"github.com/holdfast-os/holdfast/internal/seedsource"
	"github.com/holdfast-os/holdfast/internal/system/seedmedia"
)

// HasInstallSeed tells whether the seed asks for an installation: whether there is a
// document install, in the partition or, with media, on what package seedsource puts
// before and behind it. What the document says does not matter here. A broken one counts
// too: the installer says what is wrong with it, and a medium that meant to install must
// not start to live on its own disk instead. So does one that is not read for its folder or
// upper case, unless the system lives on its disk already (media is false). An archive that breaks off before such a
// member is an error.
//
// The disk of a machine that was just installed has a mark in its archive: a stick that is
// still plugged in does not make a medium of it.
func (h Host) HasInstallSeed(ctx context.Context, device string, media bool) (bool, error) {
	own, err := readOwnSeed(device)
	if !media {
		return own.install, err
	}
	found, mediaErr := h.onMedia(ctx, seedsource.FindMedium)
	if found.Origin != "" || mediaErr != nil {
		wants, err := wantsInstall(found, mediaErr)
		return wants && !own.installed, err
	}
	if own.install || own.meant || own.any || own.installed || err != nil {
		return own.install || own.meant && !own.installed, err
	}
	return wantsInstall(h.onMedia(ctx, seedsource.FindCloud))
}

// onMedia looks on media with find. They have had their time to appear.
func (h Host) onMedia(ctx context.Context, find func(context.Context, seedsource.Media) (seedsource.Found, error)) (seedsource.Found, error) {
	media := seedmedia.Host{Dev: h.paths.Dev, Run: h.paths.Run, Sys: h.paths.Sys, Mounts: h.mounts}
	if err := media.Settle(ctx); err != nil {
		return seedsource.Found{}, err
	}
	if err := h.settle(ctx); err != nil {
		return seedsource.Found{}, err
	}
	return find(ctx, media)
}

func wantsInstall(found seedsource.Found, err error) (bool, error) {
	if err != nil && found.Origin == "" {
		return false, err
	}
	// What is wrong with other documents is for the daemon to say.
	return seedsource.WantsInstall(found, err), nil
}

// ownSeed is what early boot wants to know of the archive in the seed partition.
type ownSeed struct {
	// install is true for a document install, any for a document at all.
	install, any bool
	// meant is true for a document install that is not read where it stands.
	meant bool
	// installed is true on a disk that an installation has written.
	installed bool
}

func readOwnSeed(device string) (ownSeed, error) {
	if device == "" {
		return ownSeed{}, errors.New("the system disk has no partition 2 (seed-data): it was not written by Holdfast")
	}
	f, err := os.Open(device)
	if err != nil {
		return ownSeed{}, fmt.Errorf("opening the seed partition: %w", err)
	}
	defer f.Close()
	return scanOwnSeed(bufio.NewReaderSize(f, 1<<20))
}

func scanOwnSeed(r *bufio.Reader) (found ownSeed, err error) {
	// The magic word is at byte 257; without it there is no archive, only old bytes.
	head, err := r.Peek(262)
	if err != nil && !errors.Is(err, io.EOF) {
		return found, err
	}
	if len(head) < 262 || string(head[257:]) != "ustar" {
		return found, nil
	}
	archive := tar.NewReader(io.LimitReader(r, seed.MaxArchive))
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil && found.install {
			return found, nil // what is damaged behind it is for the installer to say
		}
		if err != nil {
			return found, fmt.Errorf("the archive is damaged: write it again: %w", err)
		}
		name, known := seed.NameOf(header.Name)
		found.install = found.install || known && name == "install"
		found.meant = found.meant || !known && name == "install"
		found.any = found.any || name != ""
		found.installed = found.installed || strings.TrimPrefix(header.Name, "./") == seed.InstalledMark
	}
}
