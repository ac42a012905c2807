package earlyboot

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/holdfast-os/holdfast/internal/seed"
	"github.com/holdfast-os/holdfast/internal/seedsource"
	"github.com/holdfast-os/holdfast/internal/system/efi"
	"github.com/holdfast-os/holdfast/internal/system/seedmedia"
)

// HasInstallSeed tells whether the seed asks for an installation: whether there is a
// document install, in the partition or, with media, on what package seedsource puts
// before and behind it. What the document says does not matter here. A broken one counts
// too: the installer says what is wrong with it, and a medium that meant to install must
// not start to live on its own disk instead. An archive that breaks off before such a
// member is an error.
//
// A medium that asks for an installation does not count on a machine that was just
// installed: the node's own disk would be taken for the medium as long as the stick stays.
func (h Host) HasInstallSeed(ctx context.Context, device string, media bool) (bool, error) {
	if media {
		found, err := h.onMedia(ctx, seedsource.FindMedium)
		if found.Origin != "" || err != nil {
			return h.wantsInstall(found, err)
		}
	}
	install, any, err := readInstallMember(device)
	if install || any || err != nil || !media {
		return install, err
	}
	found, err := h.onMedia(ctx, seedsource.FindCloud)
	return h.wantsInstall(found, err)
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

func (h Host) wantsInstall(found seedsource.Found, err error) (bool, error) {
	if err != nil && found.Origin == "" {
		return false, err
	}
	// What is wrong with other documents is for the daemon to say.
	if !seedsource.WantsInstall(found, err) {
		return false, nil
	}
	complete, err := efi.Vars{Dir: filepath.Join(h.paths.Sys, "firmware/efi/efivars")}.InstallComplete()
	return !complete, err
}

func readInstallMember(device string) (install, any bool, err error) {
	if device == "" {
		return false, false, errors.New("the system disk has no partition 2 (seed-data): it was not written by Holdfast")
	}
	f, err := os.Open(device)
	if err != nil {
		return false, false, fmt.Errorf("opening the seed partition: %w", err)
	}
	defer f.Close()
	return hasInstallMember(bufio.NewReaderSize(f, 1<<20))
}

// hasInstallMember looks for the document install; any is true for an archive with a
// document at all.
func hasInstallMember(r *bufio.Reader) (install, any bool, err error) {
	// The magic word is at byte 257; without it there is no archive, only old bytes.
	head, err := r.Peek(262)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, false, err
	}
	if len(head) < 262 || string(head[257:]) != "ustar" {
		return false, false, nil
	}
	archive := tar.NewReader(io.LimitReader(r, seed.MaxArchive))
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return false, any, nil
		}
		if err != nil {
			return false, any, fmt.Errorf("the archive is damaged: write it again: %w", err)
		}
		name, _ := seed.NameOf(strings.TrimPrefix(header.Name, "./"))
		if name == "install" {
			return true, true, nil
		}
		any = any || name != ""
	}
}
