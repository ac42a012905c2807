package updater

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/parts"
	"github.com/holdfast-os/holdfast/internal/slotfeed"
	"github.com/holdfast-os/holdfast/internal/system/sysupdate"
	"github.com/holdfast-os/holdfast/internal/update"
)

// Write is part of update.Stager. A patch that does not lead to the promised part costs
// the whole part, and not the update.
func (s *System) Write(ctx context.Context, found update.Found, progress update.Progress) error {
	return s.transfer(ctx, found, osTypes[:3], progress)
}

// transfer has systemd-sysupdate bring some parts to their places.
func (s *System) transfer(ctx context.Context, found update.Found, types []struct {
	kind   release.Type
	number int
}, progress update.Progress) (err error) {
	system, err := osParts(found.Manifest)
	if err != nil {
		return err
	}
	g, done, err := s.getter(found)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	if err := s.ready(ctx); err != nil {
		return err
	}
	for range types {
		var names []string
		for _, t := range types {
			names = append(names, system[t.kind].Name)
		}
		wrong, err := s.feed(ctx, g, found, names, progress)
		if err == nil || wrong == "" {
			return err
		}
		// One part after the other is taken whole until the rest is right.
		whole := parts.Whole(s.way(wrong).Part())
		if s.way(wrong).Kind == whole.Kind {
			return err
		}
		s.keep(wrong, whole)
		if fetchErr := g.Fetch(ctx, whole, nil); fetchErr != nil {
			return errors.Join(err, fetchErr)
		}
	}
	return errors.New("no part of the release is as it was promised")
}

// ready looks whether systemd-sysupdate will take the right slot: it goes by labels. The
// other slot, which is about to be written, is labelled empty where that is what is wrong.
func (s *System) ready(ctx context.Context) error {
	slots, err := s.slots()
	if err != nil {
		return err
	}
	err = sysupdate.Check(slots, s.Running)
	if !errors.Is(err, sysupdate.ErrLabels) {
		return err
	}
	for _, slot := range slots {
		if slot.Active || slot.Empty {
			continue
		}
		if freeErr := s.table().Free(ctx, slot); freeErr != nil {
			return errors.Join(err, freeErr)
		}
	}
	if slots, err = s.slots(); err != nil {
		return err
	}
	return sysupdate.Check(slots, s.Running)
}

func (s *System) way(name string) parts.Way {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ways[name]
}

// feed offers some parts to systemd-sysupdate. wrong names the part that was not made as
// promised.
func (s *System) feed(ctx context.Context, g *parts.Getter, found update.Found, wanted []string, progress update.Progress) (wrong string, err error) {
	files, names, err := s.files(found, wanted)
	if err != nil {
		return "", err
	}
	var mu sync.Mutex
	kernel := s.kernelImage(found)
	open := func(ctx context.Context, file string) (io.ReadCloser, error) {
		if s.way(names[file]).Part().Type == release.TypeUpdateEFI {
			return os.Open(kernel)
		}
		stream, err := g.Open(ctx, s.way(names[file]))
		if err != nil {
			return nil, err
		}
		return watched{stream, func(err error) {
			mu.Lock()
			defer mu.Unlock()
			if parts.Wrong(err) {
				wrong = names[file]
			}
		}}, nil
	}
	feed, err := slotfeed.Start(files, open, slotfeed.Progress(progress))
	if err != nil {
		return "", err
	}
	tool := sysupdate.Sysupdate{Run: s.Run, Program: s.Program, Dir: s.Definitions, Hide: feed.Token()}
	err = s.define(tool, feed.URL(), wanted, found)
	if err == nil {
		err = tool.Update(ctx, found.Manifest.Version, nil)
	}
	if feedErr := feed.Err(); err != nil && feedErr != nil {
		err = errors.Join(feedErr, err)
	}
	closeErr := feed.Close()
	mu.Lock()
	defer mu.Unlock()
	return wrong, errors.Join(err, closeErr)
}

// watched tells how a stream ends.
type watched struct {
	io.ReadCloser
	ended func(error)
}

func (w watched) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		w.ended(err)
	}
	return n, err
}

// files are the parts under the names that systemd-sysupdate asks for; names leads back.
func (s *System) files(found update.Found, wanted []string) (files []slotfeed.File, names map[string]string, err error) {
	system, err := osParts(found.Manifest)
	if err != nil {
		return nil, nil, err
	}
	uuids := map[int]string{}
	for _, t := range osTypes[:3] {
		uuid, ok := layout.PartUUID(system[t.kind].Name)
		if !ok {
			return nil, nil, fmt.Errorf("the name of %s has no UUID", system[t.kind].Name)
		}
		uuids[t.number] = uuid
	}
	offered, err := layout.TransferFiles(s.Architecture, found.Manifest.Version, uuids)
	if err != nil {
		return nil, nil, err
	}
	names = map[string]string{}
	for i, t := range osTypes {
		part := s.way(system[t.kind].Name).Part()
		if !slices.Contains(wanted, part.Name) {
			continue
		}
		names[offered[i]] = part.Name
		files = append(files, slotfeed.File{Name: offered[i], Size: part.Size, SHA256: part.SHA256, Checked: part.Type != release.TypeUpdateEFI})
	}
	if len(files) != len(wanted) {
		return nil, nil, fmt.Errorf("of release %s not every part was fetched", found.Manifest.Version)
	}
	return files, names, nil
}

// define renders the transfers of the wanted parts alone: the boot entry has its own run.
func (s *System) define(tool sysupdate.Sysupdate, url string, wanted []string, found update.Found) error {
	transfers, err := layout.RenderTransfers(layout.TransferOptions{Arch: s.Architecture, Source: url, Disk: s.Disk, ESP: s.esp(), Protect: s.Running})
	if err != nil {
		return err
	}
	withUKI := slices.ContainsFunc(found.Manifest.Parts, func(p release.Part) bool {
		return p.Type == release.TypeUpdateEFI && slices.Contains(wanted, p.Name)
	})
	for name := range transfers {
		if strings.Contains(name, "uki") != withUKI {
			delete(transfers, name)
		}
	}
	return tool.Define(transfers)
}
