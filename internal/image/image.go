// Package image builds the operating system, its install medium and its applications.
//
// The work is done by the programs in image/steps, one per step; each can be started
// again after any failure, and what it made is kept under the cache by what it was
// made of. This package knows their order, what each needs, when one has nothing to
// do, and shows how far the build is. What several parties have to agree on (the
// partition table) is rendered from internal/layout into the
// image's configuration by Render.
package image

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

// Options say what to build.
type Options struct {
	// Root is the top of the repository.
	Root string
	// Cache is where everything that can be made again lives.
	Cache string
	// Version is the release, a UTC time as YYYYMMDDhhmm; default now, or the one that
	// is there when nothing changed.
	Version string
	// Now is the clock; default time.Now.
	Now func() time.Time
	// Certificate is what the image is signed by, absolute or below Root; default
	// $HOLDFAST_SECUREBOOT_CERT, or .keys/secureboot.crt.
	Certificate string
	// ReleaseRoot is the root document by which a node trusts releases, absolute or below
	// Root; default $HOLDFAST_RELEASE_ROOT, or .keys/releases/root.json.
	ReleaseRoot string
	// Out receives one line when a step begins, each minute, and when it ends.
	Out io.Writer
	// Run starts the steps' programs; default run.Host.
	Run run.Runner
	// Every starts a clock that ticks until stop is called; default time.NewTicker.
	Every func(time.Duration) (ticks <-chan time.Time, stop func())
}

// step is one program in image/steps.
type step struct {
	name string
	// does is what the step does, as in "still building ...".
	does string
	// usually is how long it takes on two cores from nothing.
	usually time.Duration
}

var steps = []step{
	{"tools-tree", "making the tools tree (mkosi, QEMU, swtpm, ...)", 90 * time.Second},
	{"versions", "looking up Debian's versions", 10 * time.Second},
	{"keys", "making the keys of development", 5 * time.Second},
	{"zfs-modules", "building ZFS' kernel modules", 10 * time.Minute},
	{imageStep, "building the image and its applications", 6 * time.Minute},
}

// imageStep fills .build/out; the steps before it make what it needs.
const imageStep = "image"

// progressEvery is how often a step that takes long says that it is alive.
const progressEvery = time.Minute

var versionForm = regexp.MustCompile(`^[0-9]{12}$`)

// Build makes what is missing or out of date in .build/out, and says in which version
// it is there. Nothing changed means nothing done.
func Build(ctx context.Context, o Options) (string, error) {
	wanted := o.Version
	o = o.withDefaults()
	if !versionForm.MatchString(o.Version) {
		return "", fmt.Errorf("building version %q: a version is a UTC time as YYYYMMDDhhmm, 12 digits", o.Version)
	}
	if err := os.MkdirAll(o.Cache, 0o755); err != nil {
		return "", fmt.Errorf("making the cache %s: %w (set HOLDFAST_CACHE to a folder that can be written to)", o.Cache, err)
	}
	for _, s := range steps {
		if s.name == imageStep {
			return o.buildImage(ctx, s, wanted)
		}
		if err := o.do(ctx, s); err != nil {
			return "", err
		}
	}
	return "", errors.New("no step makes the image")
}

func (o Options) withDefaults() Options {
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Certificate = cmp.Or(o.Certificate, os.Getenv("HOLDFAST_SECUREBOOT_CERT"), ".keys/secureboot.crt")
	o.ReleaseRoot = cmp.Or(o.ReleaseRoot, os.Getenv("HOLDFAST_RELEASE_ROOT"), ".keys/releases/root.json")
	for _, path := range []*string{&o.Certificate, &o.ReleaseRoot} {
		if !filepath.IsAbs(*path) {
			*path = filepath.Join(o.Root, *path)
		}
	}
	if o.Version == "" {
		o.Version = o.Now().UTC().Format("200601021504")
	}
	if o.Run == nil {
		o.Run = run.Host
	}
	if o.Out == nil {
		o.Out = io.Discard
	}
	if o.Every == nil {
		o.Every = func(d time.Duration) (<-chan time.Time, func()) {
			ticker := time.NewTicker(d)
			return ticker.C, ticker.Stop
		}
	}
	return o
}

// buildImage does the last step, unless what it would make is there. The key is taken
// before the step and forgotten while it runs: a file that is changed meanwhile, or a
// step that is cut, makes the next build do it again.
func (o Options) buildImage(ctx context.Context, s step, wanted string) (string, error) {
	key, err := o.key()
	if err != nil {
		return "", err
	}
	version := o.current(key)
	if version != "" && (wanted == "" || wanted == version) {
		fmt.Fprintf(o.Out, "image %s is up to date\n", version)
		return version, nil
	}
	if err := os.Remove(o.out("key")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("forgetting the image before this one: %w", err)
	}
	if err := o.do(ctx, s); err != nil {
		return "", err
	}
	if err := os.WriteFile(o.out("key"), []byte(key), 0o644); err != nil {
		return "", fmt.Errorf("noting what the image was made of: %w", err)
	}
	return o.Version, nil
}

// stepError is a step that failed. A person wants to read what its program said last,
// in the program's own lines.
type stepError struct {
	does, log string
	err       error
}

func (e *stepError) Error() string {
	reason := e.err.Error()
	var failed *run.Error
	if errors.As(e.err, &failed) && strings.TrimSpace(failed.Stderr) != "" {
		lines := strings.Split(strings.TrimSpace(failed.Stderr), "\n")
		reason = "\n  " + strings.Join(lines[max(len(lines)-shownLines, 0):], "\n  ")
	}
	return fmt.Sprintf("%s: %s\nthe whole log is %s; run the same command again to go on from here", e.does, reason, e.log)
}

func (e *stepError) Unwrap() error { return e.err }

// shownLines is how much of what a failed program said is shown.
const shownLines = 8

// do runs one step; all that its programs say goes into a log beside the build.
func (o Options) do(ctx context.Context, s step) error {
	log := filepath.Join(o.Root, ".build", "log", s.name+".log")
	if err := os.MkdirAll(filepath.Dir(log), 0o755); err != nil {
		return fmt.Errorf("making the folder of logs: %w", err)
	}
	fmt.Fprintf(o.Out, "%s (usually up to %s) ...\n", s.does, s.usually)
	begun := o.Now()
	result, err := o.runAndTell(ctx, s, begun)
	logErr := os.WriteFile(log, append(result.Stdout, result.Stderr...), 0o644)
	if err != nil {
		return errors.Join(&stepError{does: s.does, log: log, err: err}, logErr)
	}
	if logErr != nil {
		return fmt.Errorf("writing the log of %s: %w", s.does, logErr)
	}
	fmt.Fprintf(o.Out, "%s: done in %s\n", s.does, o.Now().Sub(begun).Round(time.Second))
	return nil
}

// runAndTell runs the step's program, and says every minute that it still runs.
func (o Options) runAndTell(ctx context.Context, s step, begun time.Time) (run.Result, error) {
	type end struct {
		result run.Result
		err    error
	}
	ended := make(chan end, 1)
	ticks, stop := o.Every(progressEvery)
	defer stop()
	go func() {
		result, err := o.Run(ctx, run.Command{
			Name: filepath.Join(o.Root, "image", "steps", s.name),
			Dir:  o.Root,
			Env:  []string{"HOLDFAST_ROOT=" + o.Root, "HOLDFAST_CACHE=" + o.Cache, "VERSION=" + o.Version, "HOLDFAST_SECUREBOOT_CERT=" + o.Certificate, "HOLDFAST_RELEASE_ROOT=" + o.ReleaseRoot},
		})
		ended <- end{result, err}
	}()
	for {
		select {
		case e := <-ended:
			return e.result, e.err
		case now := <-ticks:
			fmt.Fprintf(o.Out, "still %s, %s of usually up to %s\n", s.does, now.Sub(begun).Round(time.Second), s.usually)
		}
	}
}

// out is a file beside the image.
func (o Options) out(name string) string { return filepath.Join(o.Root, ".build", "out", name) }

// current gives the version in .build/out when it was made of what has the key. A file
// that cannot be read counts as missing: the image is then made again.
func (o Options) current(key string) string {
	have, err := os.ReadFile(o.out("key"))
	if err != nil || string(have) != key {
		return ""
	}
	version, err := os.ReadFile(o.out("version"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(version))
}

// key is a digest of everything that the image is made of.
func (o Options) key() (string, error) {
	digest := sha256.New()
	for _, name := range []string{"image", "bin/holdfastd", "bin/holdfast-initrd", "bin/holdfast-proxy"} {
		if err := hashTree(digest, o.Root, name); err != nil {
			return "", err
		}
	}
	rendered, err := files()
	if err != nil {
		return "", err
	}
	for _, name := range slices.Sorted(maps.Keys(rendered)) {
		fmt.Fprintf(digest, "%s %d\n%s", name, len(rendered[name]), rendered[name])
	}
	for _, path := range []string{filepath.Join(o.Cache, "versions"), o.Certificate, o.ReleaseRoot} {
		if err := hashTree(digest, filepath.Dir(path), filepath.Base(path)); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(digest.Sum(nil)), nil
}

// hashTree adds a file, or all files and links of a folder, with their names and modes.
func hashTree(digest io.Writer, root, name string) error {
	return filepath.WalkDir(filepath.Join(root, name), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("reading what the image is made of: %w", err)
		}
		relative, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if err := hashEntry(digest, path, relative, entry.Type()); err != nil {
			return fmt.Errorf("reading what the image is made of: %w", err)
		}
		return nil
	})
}

func hashEntry(digest io.Writer, path, name string, kind fs.FileMode) error {
	if kind == fs.ModeSymlink {
		target, err := os.Readlink(path)
		fmt.Fprintf(digest, "%s -> %s\n", name, target)
		return err
	}
	if !kind.IsRegular() {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	fmt.Fprintf(digest, "%s %o %d\n", name, info.Mode().Perm(), info.Size())
	_, err = io.Copy(digest, f)
	return err
}

// Render writes the files of the image's configuration that are not written by hand
// into dir, the work folder of the build.
func Render(dir string) error {
	rendered, err := files()
	if err != nil {
		return err
	}
	for name, content := range rendered {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("rendering %s: %w", name, err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return fmt.Errorf("rendering %s: %w", name, err)
		}
	}
	return nil
}

// files are the rendered files by their path in the work folder.
func files() (map[string]string, error) {
	out := map[string]string{}
	for dir, render := range map[string]func(string) (map[string]string, error){
		"mkosi.repart":                layout.RenderMediumRepart,
		"stage/node/usr/lib/repart.d": layout.RenderRepart,
	} {
		rendered, err := render("x86_64")
		if err != nil {
			return nil, fmt.Errorf("rendering %s: %w", dir, err)
		}
		for name, content := range rendered {
			out[filepath.Join(dir, name)] = content
		}
	}
	return out, nil
}
