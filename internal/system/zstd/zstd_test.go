package zstd

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	decoder "github.com/klauspost/compress/zstd"

	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/test/needs"
)

func needsZstd(t *testing.T) {
	t.Helper()
	needs.Programs(t, "zstd")
}

func random(n int) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data) // cannot fail
	return data
}

func unpack(t *testing.T, window, frame []byte) []byte {
	t.Helper()
	options := []decoder.DOption{decoder.WithDecoderMaxWindow(1 << 28)}
	if len(window) > 0 {
		options = append(options, decoder.WithDecoderDictRaw(0, window))
	}
	d, err := decoder.NewReader(nil, options...)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	data, err := d.DecodeAll(frame, nil)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// What the program packs when a release is published, the Go package unpacks on a node,
// and old content costs next to nothing.
func TestPatch_ContentOfTheWindow_IsSmallAndUnpacks(t *testing.T) {
	needsZstd(t)
	old := random(8 << 20)
	z := Zstd{Run: run.Host, Dir: t.TempDir()}
	for name, c := range map[string]struct {
		window, segment []byte
		most            int
	}{
		"the same":         {old, old, 2000},
		"moved":            {old, append(bytes.Clone(old[5<<20+3:]), old[:5<<20+3]...), 2000},
		"without a window": {nil, bytes.Repeat([]byte("text "), 100_000), 1000},
		"nothing known":    {old[:1<<20], old[1<<20 : 2<<20], 1<<20 + 100},
		"one byte":         {old, []byte("x"), 20},
		"a tiny window":    {[]byte("x"), old[:1000], 1020},
	} {
		t.Run(name, func(t *testing.T) {
			frame, err := z.Patch(context.Background(), c.window, c.segment)
			if err != nil {
				t.Fatal(err)
			}
			if len(frame) > c.most {
				t.Errorf("the frame has %d bytes, want at most %d", len(frame), c.most)
			}
			if !bytes.Equal(unpack(t, c.window, frame), c.segment) {
				t.Error("it unpacks to something else")
			}
		})
	}
}

// fake stands for the program: it notes its arguments and what it could see, and writes
// frame.
type fake struct {
	frame []byte
	err   error

	args   []string
	window []byte
	modes  []os.FileMode
}

func (f *fake) run(_ context.Context, c run.Command) (run.Result, error) {
	f.args = append([]string{c.Name}, c.Args...)
	out := c.Args[len(c.Args)-1]
	dir := filepath.Dir(out)
	for i, a := range f.args {
		if path, is := strings.CutPrefix(a, "--patch-from="); is {
			f.window, _ = os.ReadFile(path) // empty when it is not there, which fails the test
		}
		f.args[i] = strings.ReplaceAll(a, dir, "DIR")
	}
	for _, path := range []string{dir, filepath.Join(dir, "segment"), filepath.Join(dir, "window")} {
		if info, err := os.Stat(path); err == nil {
			f.modes = append(f.modes, info.Mode().Perm())
		}
	}
	if f.err != nil {
		return run.Result{}, f.err
	}
	return run.Result{}, os.WriteFile(out, f.frame, 0o600)
}

// Two publishers get the same frame only if neither threads nor the machine's memory
// decide; and nobody else on the publisher's machine reads along.
func TestPatch_Program_IsRunTheSameWayInAPrivateFolder(t *testing.T) {
	f := &fake{frame: []byte("frame")}
	frame, err := Zstd{Run: f.run, Dir: t.TempDir(), Level: 12}.Patch(context.Background(), []byte("window"), []byte("segment"))
	if err != nil {
		t.Fatal(err)
	}
	type seen struct {
		Args          []string
		Frame, Window string
		Modes         []os.FileMode
	}
	want := seen{
		Args: []string{"zstd", "--quiet", "--single-thread", "--no-check", "-12", "--patch-from=DIR/window",
			"DIR/segment", "-o", "DIR/frame"},
		Frame: "frame", Window: "window", Modes: []os.FileMode{0o700, 0o600, 0o600},
	}
	if diff := cmp.Diff(want, seen{f.args, string(frame), string(f.window), f.modes}); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A publisher that fails a hundred times must not fill its disk.
func TestPatch_AnyEnd_LeavesNoFiles(t *testing.T) {
	broken := errors.New("killed")
	for name, f := range map[string]*fake{
		"well":              {frame: []byte("frame")},
		"program fails":     {err: broken},
		"program gone wild": {frame: make([]byte, 10_000)},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			_, err := Zstd{Run: f.run, Dir: dir}.Patch(context.Background(), []byte("w"), []byte("s"))
			if (err == nil) != (name == "well") || (f.err != nil && !errors.Is(err, broken)) {
				t.Errorf("got %v", err)
			}
			left, err := os.ReadDir(dir)
			if err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}
