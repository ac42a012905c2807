package image_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/image"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

// project is a repository and a cache, small, with a builder that takes no time.
type project struct {
	t           *testing.T
	root, cache string
	now         time.Time
	steps       []string // that ran, in order
	breaks      string   // the step that fails
	out         bytes.Buffer
}

func newProject(t *testing.T) *project {
	t.Helper()
	t.Setenv("HOLDFAST_SECUREBOOT_CERT", "")
	t.Setenv("HOLDFAST_RELEASE_ROOT", "")
	p := &project{t: t, root: t.TempDir(), cache: t.TempDir(), now: time.Date(2026, 11, 22, 1, 4, 30, 0, time.UTC)}
	for _, name := range []string{"image/mkosi.conf", "image/steps/image", "bin/holdfast", "bin/holdfastd", "bin/holdfast-initrd", "bin/holdfast-proxy", ".keys/secureboot.crt", ".keys/releases/root.json", "README.md"} {
		p.write(name, name)
	}
	p.link("holdfastd.service", "image/base/wanted")
	if err := os.WriteFile(filepath.Join(p.cache, "versions"), []byte("KERNEL=6.12\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *project) write(name, content string) {
	p.t.Helper()
	path := filepath.Join(p.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		p.t.Fatal(err)
	}
}

func (p *project) link(target, name string) {
	p.t.Helper()
	path := filepath.Join(p.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Symlink(target, path); err != nil {
		p.t.Fatal(err)
	}
}

// run stands for the programs in image/steps; each takes 90 seconds.
func (p *project) run(_ context.Context, c run.Command) (run.Result, error) {
	name := filepath.Base(c.Name)
	p.steps = append(p.steps, name)
	p.now = p.now.Add(90 * time.Second)
	result := run.Result{Stdout: []byte("said by " + name + "\n"), Stderr: []byte("complained\n")}
	if name == p.breaks {
		return result, &run.Error{Args: []string{name}, ExitCode: 1, Err: errBroken}
	}
	if name == "image" {
		for _, variable := range c.Env {
			if version, found := strings.CutPrefix(variable, "VERSION="); found {
				p.write(".build/out/version", version+"\n")
			}
		}
	}
	return result, nil
}

var errBroken = errors.New("it broke")

func (p *project) options() image.Options {
	return image.Options{Root: p.root, Cache: p.cache, Now: func() time.Time { return p.now }, Out: &p.out, Run: p.run}
}

// build gives the steps that ran.
func (p *project) build(o image.Options) (string, []string, error) {
	p.steps = nil
	p.out.Reset()
	version, err := image.Build(p.t.Context(), o)
	return version, p.steps, err
}

var (
	preparation = []string{"tools-tree", "versions", "keys", "zfs-modules"}
	everything  = append(append([]string{}, preparation...), "image")
)

// Somebody starts a build and looks at the screen: what is done, how long it may
// take, and what came of it.
func TestBuild_FromNothing_RunsEachStepAndSaysSo(t *testing.T) {
	p := newProject(t)
	version, steps, err := p.build(p.options())
	if err != nil || version != "202611220104" {
		t.Fatalf("got %q, %v", version, err)
	}
	if diff := cmp.Diff(everything, steps); diff != "" {
		t.Error(diff)
	}
	want := `making the tools tree (mkosi, QEMU, swtpm, ...) (usually up to 1m30s) ...
making the tools tree (mkosi, QEMU, swtpm, ...): done in 1m30s
looking up Debian's versions (usually up to 10s) ...
looking up Debian's versions: done in 1m30s
making the keys of development (usually up to 5s) ...
making the keys of development: done in 1m30s
building ZFS' kernel modules (usually up to 10m0s) ...
building ZFS' kernel modules: done in 1m30s
building the image and its applications (usually up to 6m0s) ...
building the image and its applications: done in 1m30s
`
	if diff := cmp.Diff(want, p.out.String()); diff != "" {
		t.Error(diff)
	}
	log, err := os.ReadFile(filepath.Join(p.root, ".build/log/zfs-modules.log"))
	if err != nil || string(log) != "said by zfs-modules\ncomplained\n" {
		t.Errorf("the log has %q, %v", log, err)
	}
}

// Ten minutes without a word look like a hang.
func TestBuild_LongStep_SaysEachMinuteThatItIsAlive(t *testing.T) {
	p := newProject(t)
	o := p.options()
	ticks := make(chan time.Time)
	o.Every = func(every time.Duration) (<-chan time.Time, func()) {
		if every != time.Minute {
			t.Errorf("it would speak every %s", every)
		}
		return ticks, func() {}
	}
	o.Run = func(_ context.Context, c run.Command) (run.Result, error) {
		if filepath.Base(c.Name) != "tools-tree" {
			return run.Result{}, errBroken
		}
		for minute := range 2 {
			ticks <- p.now.Add(time.Duration(minute+1) * time.Minute)
		}
		return run.Result{}, nil
	}
	if _, err := image.Build(t.Context(), o); !errors.Is(err, errBroken) {
		t.Fatalf("got %v", err)
	}
	got := strings.SplitAfter(p.out.String(), "\n")[:3]
	want := []string{
		"making the tools tree (mkosi, QEMU, swtpm, ...) (usually up to 1m30s) ...\n",
		"still making the tools tree (mkosi, QEMU, swtpm, ...), 1m0s of usually up to 1m30s\n",
		"still making the tools tree (mkosi, QEMU, swtpm, ...), 2m0s of usually up to 1m30s\n",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A build that breaks says where to look and how to go on, and going on works.
func TestBuild_StepFails_StopsWithLogAndGoesOnTheNextTime(t *testing.T) {
	p := newProject(t)
	p.breaks = "zfs-modules"
	version, steps, err := p.build(p.options())
	if version != "" || !errors.Is(err, errBroken) {
		t.Errorf("got %q, %v", version, err)
	}
	if diff := cmp.Diff(preparation, steps); diff != "" {
		t.Error(diff)
	}
	want := "building ZFS' kernel modules: zfs-modules: it broke\nthe whole log is " + p.root + "/.build/log/zfs-modules.log; run the same command again to go on from here"
	if err.Error() != want {
		t.Errorf("got %q\nwant %q", err, want)
	}
	log, err := os.ReadFile(filepath.Join(p.root, ".build/log/zfs-modules.log"))
	if err != nil || string(log) != "said by zfs-modules\ncomplained\n" {
		t.Errorf("the log has %q, %v", log, err)
	}

	p.breaks = ""
	version, steps, err = p.build(p.options())
	if err != nil || version != "202611220110" {
		t.Errorf("got %q, %v", version, err)
	}
	if diff := cmp.Diff(everything, steps); diff != "" {
		t.Error(diff)
	}
}

// Building twice takes seconds, and whoever changes something gets an image with it.
func TestBuild_SecondTime_MakesTheImageOnlyWhenSomethingOfItChanged(t *testing.T) {
	const same, made = "202611220104", "202611220112"
	tests := map[string]struct {
		change func(*project)
		with   func(*image.Options)
		want   string
	}{
		"nothing":             {change: func(*project) {}, want: same},
		"a file not of it":    {change: func(p *project) { p.write("README.md", "other") }, want: same},
		"a program not of it": {change: func(p *project) { p.write("bin/holdfast", "other") }, want: same},
		"the same again":      {change: func(p *project) { p.write("image/mkosi.conf", "image/mkosi.conf") }, want: same},
		"its configuration":   {change: func(p *project) { p.write("image/mkosi.conf", "other") }, want: made},
		"a new file":          {change: func(p *project) { p.write("image/new", "") }, want: made},
		"a file that is gone": {change: func(p *project) { p.remove("image/mkosi.conf") }, want: made},
		"a file's new name": {change: func(p *project) {
			p.remove("image/mkosi.conf")
			p.write("image/mkosi.conf2", "image/mkosi.conf")
		}, want: made},
		"a mode":       {change: func(p *project) { p.chmod("image/steps/image", 0o755) }, want: made},
		"a link":       {change: func(p *project) { p.remove("image/base/wanted"); p.link("other", "image/base/wanted") }, want: made},
		"the daemon":   {change: func(p *project) { p.write("bin/holdfastd", "other") }, want: made},
		"early boot":   {change: func(p *project) { p.write("bin/holdfast-initrd", "other") }, want: made},
		"the key":      {change: func(p *project) { p.write(".keys/secureboot.crt", "other") }, want: made},
		"the versions": {change: func(p *project) { p.writeVersions("KERNEL=6.13\n") }, want: made},
		"the image is gone": {change: func(p *project) {
			p.remove(".build/out/version")
		}, want: made},
		"this version is asked for":    {change: func(*project) {}, with: func(o *image.Options) { o.Version = same }, want: same},
		"another version is asked for": {change: func(*project) {}, with: func(o *image.Options) { o.Version = "202701010000" }, want: "202701010000"},
		"another certificate": {change: func(p *project) { p.write("token.crt", "other") }, with: func(o *image.Options) {
			o.Certificate = "token.crt"
		}, want: made},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := newProject(t)
			if _, _, err := p.build(p.options()); err != nil {
				t.Fatal(err)
			}
			test.change(p)
			o := p.options()
			if test.with != nil {
				test.with(&o)
			}
			version, steps, err := p.build(o)
			if err != nil || version != test.want {
				t.Errorf("got %q, %v, want %q", version, err, test.want)
			}
			want := everything
			if test.want == same {
				want = preparation
				if !strings.HasSuffix(p.out.String(), "\nimage 202611220104 is up to date\n") {
					t.Errorf("said %q", p.out.String())
				}
			}
			if diff := cmp.Diff(want, steps); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// An image that was cut, or made while somebody still typed, must not count as done.
func TestBuild_ImageCutOrChangedMeanwhile_IsMadeAgain(t *testing.T) {
	for name, during := range map[string]func(*project) error{
		"cut":               func(*project) error { return errBroken },
		"changed meanwhile": func(p *project) error { p.write("image/mkosi.conf", "second thoughts"); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			p := newProject(t)
			if _, _, err := p.build(p.options()); err != nil {
				t.Fatal(err)
			}
			p.write("image/mkosi.conf", "first thoughts")
			o := p.options()
			o.Run = func(ctx context.Context, c run.Command) (run.Result, error) {
				result, err := p.run(ctx, c)
				if filepath.Base(c.Name) == "image" {
					err = errors.Join(err, during(p))
				}
				return result, err
			}
			if _, _, err := p.build(o); err != nil && !errors.Is(err, errBroken) {
				t.Fatal(err)
			}
			if name == "cut" { // back to what the last whole image was made of
				p.write("image/mkosi.conf", "image/mkosi.conf")
			}
			_, steps, err := p.build(p.options())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(everything, steps); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A node compares versions as numbers of twelve digits: another one is refused before
// an hour of building.
func TestBuild_OddVersion_IsRefusedAtOnce(t *testing.T) {
	p := newProject(t)
	o := p.options()
	o.Version = "1.0"
	_, steps, err := p.build(o)
	if err == nil || err.Error() != `building version "1.0": a version is a UTC time as YYYYMMDDhhmm, 12 digits` || steps != nil {
		t.Errorf("got %v after %v", err, steps)
	}
}

// The build's work folder gets the table of the medium and of the node.
func TestRender_WorkFolder_HasTheseFiles(t *testing.T) {
	dir := t.TempDir()
	if err := image.Render(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"mkosi.repart/00-esp.conf", "mkosi.repart/12-usr.conf",
		"stage/node/usr/lib/repart.d/40-root.conf",
	} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
}

func (p *project) remove(name string) {
	p.t.Helper()
	if err := os.Remove(filepath.Join(p.root, name)); err != nil {
		p.t.Fatal(err)
	}
}

func (p *project) chmod(name string, mode os.FileMode) {
	p.t.Helper()
	if err := os.Chmod(filepath.Join(p.root, name), mode); err != nil {
		p.t.Fatal(err)
	}
}

func (p *project) writeVersions(content string) {
	p.t.Helper()
	if err := os.WriteFile(filepath.Join(p.cache, "versions"), []byte(content), 0o644); err != nil {
		p.t.Fatal(err)
	}
}
