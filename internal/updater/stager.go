package updater

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/parts"
	"github.com/holdfast-os/holdfast/internal/system/bootloader"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/sysupdate"
	"github.com/holdfast-os/holdfast/internal/update"
)

// System is the machine whose slots are written. All fields are set before the first call.
type System struct {
	// Run starts programs; on a machine run.Host.
	Run run.Runner
	// Disk is the whole disk with the slots, as "/dev/vda"; Partition gives one of it.
	Disk      string
	Partition func(ctx context.Context, number int) (string, error)
	// Loader is the boot loader, with the ESP.
	Loader bootloader.Loader
	// Architecture is "x86_64" or "aarch64"; Running the release that runs.
	Architecture, Running string
	// Dir is where what is fetched is kept, 0700.
	Dir string
	// Images is the folder with the applications' images, by release.
	Images string
	// Source gives the release tree in use.
	Source func() (Source, error)
	// Program is systemd-sysupdate; default sysupdate.DefaultProgram. Definitions is where
	// its transfers are put; default sysupdate.DefaultDir.
	Program, Definitions string
	// Slots reads what the two slots hold; default the table of Disk.
	Slots func() ([]sysupdate.Slot, error)

	mu sync.Mutex
	// ways are how the parts of the release in work are got, by name; of is that release.
	ways map[string]parts.Way
	of   update.Found
}

// osTypes are the parts of the OS in the order in which systemd-sysupdate takes them, with
// the partition of slot A that each is for.
var osTypes = []struct {
	kind   release.Type
	number int
}{
	{release.TypeUpdateUsrSignature, layout.SigA}, {release.TypeUpdateUsrVerity, layout.VerityA}, {release.TypeUpdateUsr, layout.UsrA},
	{release.TypeUpdateEFI, layout.ESP},
}

// osParts gives the four parts of the OS by type; a manifest without one of them, or with
// two, is an error.
func osParts(m release.Manifest) (map[release.Type]release.Part, error) {
	found := map[release.Type]release.Part{}
	for _, p := range m.Parts {
		if p.Component != release.ComponentOS || p.Type == release.TypeUpdateSecureBoot {
			continue
		}
		if _, twice := found[p.Type]; twice {
			return nil, fmt.Errorf("release %s has two parts of the type %s", m.Version, p.Type)
		}
		found[p.Type] = p
	}
	for _, t := range osTypes {
		if _, ok := found[t.kind]; !ok {
			return nil, fmt.Errorf("release %s has no part of the type %s", m.Version, t.kind)
		}
	}
	return found, nil
}

// slots reads what the two slots hold.
func (s *System) slots() ([]sysupdate.Slot, error) {
	if s.Slots != nil {
		return s.Slots()
	}
	return s.table().Read()
}

func (s *System) table() sysupdate.Slots {
	return sysupdate.Slots{Run: s.Run, Disk: s.Disk, Name: layout.Name, Parts: []sysupdate.Parts{
		{Signature: layout.SigA, Verity: layout.VerityA, Usr: layout.UsrA},
		{Signature: layout.SigB, Verity: layout.VerityB, Usr: layout.UsrB},
	}}
}

// getter gets parts of a release; done gives the folder back.
func (s *System) getter(found update.Found) (g *parts.Getter, done func() error, err error) {
	source, err := s.Source()
	if err != nil {
		return nil, nil, err
	}
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("making the folder for updates: %w", err)
	}
	dir, err := os.OpenRoot(s.Dir)
	if err != nil {
		return nil, nil, fmt.Errorf("opening the folder for updates: %w", err)
	}
	return &parts.Getter{Downloads: source.Downloads(), Dir: dir, Version: found.Manifest.Version}, dir.Close, nil
}

// bases are the files on this machine that a part can be made out of, newest first.
func (s *System) bases(ctx context.Context, part release.Part) ([]parts.Base, error) {
	switch part.Type {
	case release.TypeUpdateUsr, release.TypeUpdateUsrVerity:
		return s.slotBase(ctx, part.Type)
	case release.TypeUpdateEFI:
		state, err := s.Loader.Read()
		if err != nil {
			return nil, err
		}
		for _, e := range state.Entries {
			if e.Version == s.Running {
				return []parts.Base{fileBase(e.Version, filepath.Join(s.esp(), bootloader.Folder, e.File), e.Size)}, nil
			}
		}
	case release.TypeApplication:
		return s.imageBases(part.Name)
	}
	return nil, nil
}

func (s *System) esp() string {
	if s.Loader.ESP == "" {
		return bootloader.DefaultESP
	}
	return s.Loader.ESP
}

// slotBase is a partition of the running slot. Its release is proved by the hash tree that
// /usr is read through, and what a patch takes from it is compared with the patch's sums.
func (s *System) slotBase(ctx context.Context, kind release.Type) ([]parts.Base, error) {
	slots, err := s.slots()
	if err != nil {
		return nil, err
	}
	for _, slot := range slots {
		if !slot.Active || slot.Version == "" {
			continue
		}
		number := slot.Parts.Usr
		if kind == release.TypeUpdateUsrVerity {
			number = slot.Parts.Verity
		}
		device, err := s.Partition(ctx, number)
		if err != nil {
			return nil, err
		}
		return []parts.Base{fileBase(slot.Version, device, layout.Size(number))}, nil
	}
	return nil, nil
}

// imageBases are the versions of an application's image that are here.
func (s *System) imageBases(name string) ([]parts.Base, error) {
	found, err := filepath.Glob(filepath.Join(s.Images, "[0-9]*", name))
	if err != nil {
		return nil, fmt.Errorf("looking for images of %s: %w", name, err)
	}
	var bases []parts.Base
	for _, file := range slices.Backward(found) {
		info, err := os.Lstat(file)
		if err != nil {
			return nil, fmt.Errorf("looking for images of %s: %w", name, err)
		}
		if info.Mode().IsRegular() {
			bases = append(bases, fileBase(filepath.Base(filepath.Dir(file)), file, info.Size()))
		}
	}
	return bases, nil
}

func fileBase(version, file string, size int64) parts.Base {
	return parts.Base{Version: version, Size: size, Path: file, Open: func() (parts.Content, error) { return os.Open(file) }}
}

// plan chooses a way for a part and remembers it until the release in work is another one.
func (s *System) plan(ctx context.Context, g *parts.Getter, found update.Found, part release.Part) (parts.Way, error) {
	s.mu.Lock()
	if s.of.Digest != found.Digest || s.of.Manifest.Version != found.Manifest.Version {
		s.of, s.ways = found, map[string]parts.Way{}
	}
	way, known := s.ways[part.Name]
	s.mu.Unlock()
	if known {
		return way, nil
	}
	bases, err := s.bases(ctx, part)
	if err != nil {
		return parts.Way{}, err
	}
	if way, err = g.Plan(ctx, part, bases); err != nil {
		return parts.Way{}, err
	}
	s.keep(part.Name, way)
	return way, nil
}

func (s *System) keep(name string, way parts.Way) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ways[name] = way
}

// Prepare is part of update.Stager. The parts of applications that are here are among
// what it gives, though the agent stages the OS alone.
func (s *System) Prepare(ctx context.Context, found update.Found) (plans []update.PartPlan, err error) {
	if _, err := osParts(found.Manifest); err != nil {
		return nil, err
	}
	g, done, err := s.getter(found)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, done()) }()
	for _, part := range found.Manifest.Parts {
		if part.Type == release.TypeApplication {
			here, why, err := s.application(ctx, found, part)
			if err != nil {
				return nil, err
			}
			if why != "" {
				plans = append(plans, update.PartPlan{Name: part.Name, Component: part.Component, Type: part.Type, FullBytes: part.Full.Size,
					How: update.ByPresent, Why: why})
			}
			if why != "" || !here {
				continue
			}
		}
		way, err := s.plan(ctx, g, found, part)
		if err != nil {
			return nil, err
		}
		plans = append(plans, update.PartPlan{Name: part.Name, Component: part.Component, Type: part.Type,
			Bytes: way.Bytes, FullBytes: part.Full.Size, How: string(way.Kind), Why: way.Reason})
	}
	return plans, nil
}

// application tells whether an application is on this node, and why nothing of this part is to be
// fetched or restarted; empty when it is.
func (s *System) application(ctx context.Context, found update.Found, part release.Part) (here bool, why string, err error) {
	bases, err := s.imageBases(part.Name)
	if err != nil || len(bases) == 0 {
		return false, "", err
	}
	if bases[0].Version == found.Manifest.Version {
		return true, "it is installed", nil
	}
	same, err := bases[0].Is(ctx, part)
	if err != nil {
		return false, "", fmt.Errorf("comparing %s with that of release %s: %w", part.Name, bases[0].Version, err)
	}
	if same {
		why = "release " + bases[0].Version + " brought the same file"
	}
	return true, why, nil
}

// Space is part of update.Stager.
func (s *System) Space(ctx context.Context, found update.Found) (_ update.Space, err error) {
	system, err := osParts(found.Manifest)
	if err != nil {
		return update.Space{}, err
	}
	state, err := s.Loader.Read()
	if err != nil {
		return update.Space{}, err
	}
	space := update.Space{ESPFree: state.Free, ESPNeed: max(system[release.TypeUpdateEFI].Size, system[release.TypeUpdateEFI].Full.Size)}
	for _, e := range state.Entries {
		if !e.Booted && e.Version != s.Running {
			space.ESPFreed += e.Size
		}
	}
	for _, t := range osTypes[:3] {
		space.Slots = append(space.Slots, update.SlotSpace{Part: system[t.kind].Name, Size: layout.Size(t.number), Need: system[t.kind].Size})
	}
	if space.StageFree, err = free(filepath.Dir(s.Dir)); err != nil {
		return update.Space{}, err
	}
	g, done, err := s.getter(found)
	if err != nil {
		return update.Space{}, err
	}
	defer func() { err = errors.Join(err, done()) }()
	for _, part := range system {
		way := s.way(part.Name)
		if way.Part().Name == "" {
			way = parts.Whole(part)
		}
		have, err := g.Have(way)
		if err != nil {
			return update.Space{}, err
		}
		space.StageNeed += max(way.Bytes-have, 0)
	}
	return space, ctx.Err()
}

func free(dir string) (int64, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return 0, fmt.Errorf("asking how much room %s has: %w", dir, err)
	}
	return int64(stat.Bavail) * stat.Bsize, nil
}

// Tidy is part of update.Stager.
func (s *System) Tidy(context.Context) (err error) {
	s.mu.Lock()
	version := s.of.Manifest.Version
	s.mu.Unlock()
	failed := s.Loader.Clean()
	dir, err := os.OpenRoot(s.Dir)
	if errors.Is(err, os.ErrNotExist) {
		return failed
	}
	if err != nil {
		return errors.Join(failed, fmt.Errorf("opening the folder for updates: %w", err))
	}
	return errors.Join(failed, parts.Tidy(dir, version), dir.Close())
}

// Fetch is part of update.Stager.
func (s *System) Fetch(ctx context.Context, found update.Found, progress update.Progress) (err error) {
	system, err := osParts(found.Manifest)
	if err != nil {
		return err
	}
	g, done, err := s.getter(found)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	var before, total int64
	ways := map[release.Type]parts.Way{}
	for _, t := range osTypes {
		if ways[t.kind], err = s.plan(ctx, g, found, system[t.kind]); err != nil {
			return err
		}
		total += ways[t.kind].Bytes
	}
	for _, t := range osTypes {
		way := ways[t.kind]
		hear := func(done, _ int64) {
			if progress != nil {
				progress(min(before+done, total), total)
			}
		}
		if err := g.Fetch(ctx, way, hear); err != nil {
			return err
		}
		if err := s.complete(ctx, g, way); err != nil {
			return err
		}
		before += way.Bytes
	}
	return s.makeKernelImage(ctx, g, found)
}

// complete finds out size and sum of a part of which the index alone has spoken.
func (s *System) complete(ctx context.Context, g *parts.Getter, way parts.Way) error {
	part := way.Part()
	if part.SHA256 != "" {
		return nil
	}
	part, err := g.Measure(ctx, part, layout.Size(layout.UsrA))
	if err != nil {
		return err
	}
	s.keep(part.Name, parts.Whole(part))
	return nil
}
