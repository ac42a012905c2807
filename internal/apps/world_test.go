package apps_test

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-os/holdfast/internal/apps"
)

// world is a node in memory, with its images in a temporary folder. It stays when the
// Manager is thrown away, as a disk does when the power is cut.
type world struct {
	t       *testing.T
	root    string
	state   apps.State
	links   map[string]string
	merged  map[string]string // content of the merged image by name
	active  map[string]string // content that the running unit was started from
	users   int               // how often the seed was applied
	release string            // newest release of the provider
	content map[string]string // published content by version
	fetches int
	os      string // release of the OS that is booted
	news    []string

	startErr map[string]error // by content
	seedErr  error
	// powerFor is how many effects happen before the power is cut; negative for ever.
	powerFor int
}

var errPowerCut = errors.New("power cut")

func newWorld(t *testing.T) *world {
	return &world{
		t: t, root: t.TempDir(), links: map[string]string{}, merged: map[string]string{}, active: map[string]string{},
		release: "202601010000", content: map[string]string{"202601010000": "signed 1", "202602010000": "signed 2", "202603010000": "signed 3"},
		startErr: map[string]error{}, powerFor: -1,
	}
}

func (w *world) manager() *apps.Manager {
	catalogue := apps.Catalogue()
	catalogue["debug"] = apps.Application{Installable: true, Weight: -1}
	return &apps.Manager{
		Store: w, Provider: w, Extensions: w, Units: w, Programs: map[string]apps.Program{"incus": w},
		Catalogue: catalogue, Root: w.root, Log: slog.New(slog.DiscardHandler), OS: w.os,
	}
}

// effect is one change of the machine; the power may be cut before it.
func (w *world) effect() {
	if w.powerFor == 0 {
		panic(errPowerCut)
	}
	w.powerFor--
}

// withPowerCut runs do until the power is cut, and says whether it was. The machine
// starts again with nothing merged and nothing running.
func (w *world) withPowerCut(after int, do func()) (cut bool) {
	w.powerFor = after
	defer func() {
		w.powerFor = -1
		if r := recover(); r != nil {
			if r != errPowerCut {
				panic(r)
			}
			cut = true
			w.merged, w.active = map[string]string{}, map[string]string{}
		}
	}()
	do()
	return false
}

func (w *world) boot() error {
	w.merged, w.active = map[string]string{}, map[string]string{}
	m := w.manager()
	err := errors.Join(m.Merge(context.Background()), m.StartAll(context.Background()))
	w.news = append(w.news, m.News()...)
	return err
}

func (w *world) Load() (apps.State, error) { return maps.Clone(w.state), nil }

func (w *world) Save(state apps.State) error {
	w.effect()
	w.state = maps.Clone(state)
	return nil
}

func (w *world) Latest(_ context.Context, file, _ string) (apps.Release, error) {
	if file != "incus.raw" && file != "debug.raw" {
		return apps.Release{}, errors.New("no such file")
	}
	return apps.Release{Version: w.release}, nil
}

// Fetch writes half of the file before the power may be cut. Content "wrong sum" stands
// for a file that the provider refuses after it wrote it.
func (w *world) Fetch(_ context.Context, release apps.Release, _, dst string, _ func(int)) error {
	w.fetches++
	content := w.content[release.Version]
	w.effect()
	if err := os.WriteFile(dst, []byte(content[:len(content)/2]), 0o644); err != nil {
		return err
	}
	w.effect()
	if err := os.WriteFile(dst, []byte(content), 0o644); err != nil {
		return err
	}
	if content == "wrong sum" || content == "too big" {
		return errors.New(content)
	}
	return nil
}

func (w *world) Verify(_ context.Context, image string) error {
	content, err := os.ReadFile(image)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(string(content), "signed ") || len(content) != len("signed 1") {
		return errors.New("not signed: " + string(content))
	}
	return nil
}

func (w *world) Same(a, b string) (bool, error) {
	one, errOne := os.ReadFile(a)
	other, errOther := os.ReadFile(b)
	return string(one) == string(other), errors.Join(errOne, errOther)
}

func (w *world) Link(name, image string) error {
	w.effect()
	w.links[name] = image
	return nil
}

func (w *world) Unlink(name string) error {
	w.effect()
	delete(w.links, name)
	return nil
}

func (w *world) Refresh(context.Context) error {
	w.effect()
	w.merged = map[string]string{}
	for name, image := range w.links {
		content, err := os.ReadFile(image)
		if err != nil {
			return err
		}
		if string(content) == "signed!" {
			return errors.New("cannot be merged")
		}
		w.merged[name] = string(content)
	}
	return nil
}

func (w *world) Start(ctx context.Context, units ...string) error {
	if w.active[units[0]] != "" {
		return nil
	}
	return w.Restart(ctx, units...)
}

func (w *world) Restart(_ context.Context, units ...string) error {
	unit := units[0]
	w.effect()
	content := w.merged["incus"]
	if content == "" {
		return errors.New("unit not found")
	}
	delete(w.active, unit)
	if err := w.startErr[content]; err != nil {
		return err
	}
	w.active[unit] = content
	return nil
}

func (w *world) Stop(_ context.Context, units ...string) error {
	w.effect()
	delete(w.active, units[0])
	return nil
}

func (w *world) IsActive(_ context.Context, unit string) (bool, error) {
	return w.active[unit] != "", nil
}

func (w *world) Ready(context.Context) error { return nil }

func (w *world) Initialize(context.Context) error {
	w.effect()
	if w.seedErr != nil {
		return w.seedErr
	}
	w.users++
	return nil
}

func (w *world) Version(context.Context) (string, error) { return "7.0.2", nil }

// files lists what is in the folder of images, with modes of the folders.
func (w *world) files() []string {
	w.t.Helper()
	base := filepath.Join(w.root, "var/lib/incus-os-extensions")
	found := []string{}
	err := filepath.WalkDir(base, func(path string, d os.DirEntry, err error) error {
		if err != nil || path == base {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(base, path)
		found = append(found, info.Mode().String()+" "+relative)
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		w.t.Fatal(err)
	}
	slices.Sort(found)
	return found
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}
