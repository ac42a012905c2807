package release

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-os/holdfast/api/release"
)

// Signer puts text into an S/MIME signature. sign.OpenSSL is one.
type Signer interface {
	SignSMIME(ctx context.Context, data []byte) ([]byte, error)
}

// PublishOptions say what to publish, and where.
type PublishOptions struct {
	// Tree is the tree's directory; it is made when it is not there.
	Tree string
	// BuildDir holds the files of the build, not compressed.
	BuildDir string
	// Version is the release; default what the build says.
	Version string
	// Arch is "x86_64" or "aarch64"; default "x86_64".
	Arch string
	// Channels carry the release from now on; default "stable". A release that is
	// published again stays in those it was in.
	Channels []string
	// Severity defaults to "none".
	Severity release.Severity
	// Origin names the publisher; default "holdfast".
	Origin string
	// Signer is needed.
	Signer Signer
	// Now is the time of publication; default the clock's. A release that is
	// published again keeps its first one.
	Now time.Time
	// SecureBootKeys is a file with an archive of updates for the firmware's keys, which the
	// release brings to every node; default none.
	SecureBootKeys string
	// IncludeMedium also publishes the install medium; default false.
	IncludeMedium bool
	// Extras makes chunks and deltas of what is new; default none are made.
	Extras Extras
	// DeltaBases is how many earlier releases deltas are made from; default 5.
	DeltaBases int
	// Metadata is told which manifests a channel has; default nobody is.
	Metadata Metadata

	cut func(step string) error
}

// ErrPublished means that the tree has this release with other files. A release
// never changes: nodes may have it already. Build a new version.
var ErrPublished = errors.New("the version is already published with other content")

// staging is the prefix of directories that are not yet part of a tree.
const staging = ".new-"

// Publish brings a build into a tree and gives the release as it stands there.
// Doing it again changes no byte. A cut publication leaves the old index and the old
// metadata, and the next one cleans up. Two at the same time wait for each other.
func Publish(ctx context.Context, o PublishOptions) (release.Update, error) {
	o, err := o.withDefaults()
	if err != nil {
		return release.Update{}, fmt.Errorf("publishing: %w", err)
	}
	files, err := artifacts(o.BuildDir, o.Version, o.Arch, o.IncludeMedium)
	if err != nil {
		return release.Update{}, fmt.Errorf("publishing %s: %w", o.Version, err)
	}
	lists, err := packageLists(o.BuildDir)
	if err != nil {
		return release.Update{}, fmt.Errorf("publishing %s: %w", o.Version, err)
	}
	var keys []byte
	if o.SecureBootKeys != "" {
		if keys, err = readKeys(o.SecureBootKeys); err != nil {
			return release.Update{}, fmt.Errorf("publishing %s: %w", o.Version, err)
		}
	}
	t, err := openTree(o.Tree, o.Signer)
	if err != nil {
		return release.Update{}, fmt.Errorf("publishing %s: %w", o.Version, err)
	}
	t.metadata, t.cut = o.Metadata, o.cut
	update, err := t.publish(ctx, o, build{files, lists, keys})
	if err == nil {
		err = t.finish(ctx)
	}
	if err := errors.Join(err, t.close()); err != nil {
		return release.Update{}, fmt.Errorf("publishing %s: %w", o.Version, err)
	}
	return update, nil
}

func (o PublishOptions) withDefaults() (PublishOptions, error) {
	if o.Signer == nil {
		return o, errors.New("a signer is needed: nodes refuse a tree that is not signed")
	}
	if o.Version == "" {
		version, err := BuildVersion(o.BuildDir)
		if err != nil {
			return o, err
		}
		o.Version = version
	}
	o.Arch = cmp.Or(o.Arch, "x86_64")
	o.Severity = cmp.Or(o.Severity, release.SeverityNone)
	o.Origin = cmp.Or(o.Origin, "holdfast")
	o.DeltaBases = cmp.Or(o.DeltaBases, 5)
	if len(o.Channels) == 0 {
		o.Channels = []string{"stable"}
	}
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	o.Now = o.Now.UTC().Truncate(time.Second)
	switch {
	case !versionForm.MatchString(o.Version):
		return o, fmt.Errorf("version %q is not 12 digits", o.Version)
	case !slices.Contains(architectures, o.Arch):
		return o, fmt.Errorf("architecture %q: known are %s", o.Arch, strings.Join(architectures, ", "))
	case !o.Severity.Valid():
		return o, fmt.Errorf("severity %q: known are none, low, medium, high, critical", o.Severity)
	}
	for _, channel := range o.Channels {
		if err := checkChannel(channel); err != nil {
			return o, err
		}
	}
	return o, nil
}

func checkChannel(channel string) error {
	if !channelForm.MatchString(channel) {
		return fmt.Errorf("channel %q: small letters, digits, dot, dash and underscore are allowed", channel)
	}
	return nil
}

// build is what a publication brings: the files of the build, its package lists, and an
// archive of Secure Boot keys, nil for none.
type build struct {
	files []artifact
	lists []release.PackageList
	keys  []byte
}

// publish brings the release's directory into the tree, without the index.
func (t *tree) publish(ctx context.Context, o PublishOptions, b build) (release.Update, error) {
	stage, err := os.MkdirTemp(t.dir, staging)
	if err != nil {
		return release.Update{}, fmt.Errorf("making a place for the files: %w", err)
	}
	update, err := t.stageAndMove(ctx, o, b, stage)
	return update, errors.Join(err, os.RemoveAll(stage))
}

func (t *tree) stageAndMove(ctx context.Context, o PublishOptions, b build, stage string) (release.Update, error) {
	waiting, err := t.stageFiles(ctx, o.Arch, b.files, stage)
	if err != nil {
		return release.Update{}, err
	}
	if b.keys != nil {
		keys, err := stageKeys(ctx, o.Version, b.keys, stage)
		if err != nil {
			return release.Update{}, err
		}
		waiting = append(waiting, keys)
		slices.SortFunc(waiting, func(a, b staged) int { return cmp.Compare(a.file.Filename, b.file.Filename) })
	}
	files := make([]release.File, len(waiting))
	for i, s := range waiting {
		files[i] = s.file
	}
	old, err := t.readUpdate(o.Version)
	isNew := errors.Is(err, os.ErrNotExist)
	var update release.Update
	switch {
	case isNew:
		update = release.Update{
			Format: release.Format, Channels: union(nil, o.Channels), Files: files, Origin: o.Origin,
			PublishedAt: o.Now, Severity: o.Severity, Version: o.Version,
		}
	case err != nil:
		return release.Update{}, err
	default:
		if update, err = merged(old, o, files); err != nil {
			return release.Update{}, err
		}
		if err := forget(stage, old.Files, files); err != nil {
			return release.Update{}, err
		}
	}
	d := describer{tree: t, stage: stage, arch: o.Arch, staged: waiting, extras: o.Extras, bases: o.DeltaBases}
	if update, err = d.describe(ctx, update, b.lists); err != nil {
		return release.Update{}, err
	}
	if isNew {
		return update, t.moveNew(ctx, update, stage)
	}
	return update, t.moveInto(ctx, update, stage, o.Arch)
}

// staged is a file of a build, packed and waiting for its place.
type staged struct {
	artifact
	file  release.File
	plain packed
}

// stageFiles compresses the files of a build into stage. What an earlier release has under
// the same name and with the same content is not packed again.
func (t *tree) stageFiles(ctx context.Context, arch string, found []artifact, stage string) ([]staged, error) {
	dir := filepath.Join(stage, arch)
	// A web server under another user reads the tree.
	if err := errors.Join(os.Chmod(stage, 0o755), os.Mkdir(dir, 0o755)); err != nil {
		return nil, fmt.Errorf("making a place for the files: %w", err)
	}
	all := []staged{}
	for _, a := range found {
		p, shared, err := t.share(ctx, arch, a, filepath.Join(dir, a.name+".gz"))
		if err == nil && !shared {
			p, err = compress(ctx, a.source, filepath.Join(dir, a.name+".gz"), a.trim)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, staged{a, release.File{
			Architecture: arch, Component: a.component, Filename: arch + "/" + a.name + ".gz",
			SHA256: p.sum, Size: p.size, Type: a.kind,
		}, p})
	}
	return all, syncDir(dir)
}

// forget takes out of the stage what the tree has already.
func forget(stage string, old, files []release.File) error {
	for _, f := range files {
		if slices.Contains(old, f) {
			if err := os.Remove(filepath.Join(stage, f.Filename)); err != nil {
				return fmt.Errorf("clearing the place for the files: %w", err)
			}
		}
	}
	return nil
}

// merged is a release that is already in the tree, with what is new about it: more
// channels, another severity, more files. A file of another content, or a second one
// for the same part of the OS, is ErrPublished.
func merged(old release.Update, o PublishOptions, files []release.File) (release.Update, error) {
	update := old
	update.Channels = union(old.Channels, o.Channels)
	update.Severity = o.Severity
	update.Files = slices.Clone(old.Files)
	for _, f := range files {
		clash := slices.IndexFunc(old.Files, func(k release.File) bool {
			system := f.Component == release.ComponentOS && k.Type == f.Type && k.Component == f.Component
			return k.Filename == f.Filename || (k.Architecture == f.Architecture && system)
		})
		if clash < 0 && f.Type == release.TypeUpdateSecureBoot {
			return release.Update{}, fmt.Errorf("%w: it was published without %s: build a new version that has it", ErrPublished, f.Filename)
		}
		if clash < 0 {
			update.Files = append(update.Files, f)
		} else if old.Files[clash] != f {
			return release.Update{}, fmt.Errorf("%w: build a new version (%s differs)", ErrPublished, f.Filename)
		}
	}
	slices.SortFunc(update.Files, func(a, b release.File) int { return cmp.Compare(a.Filename, b.Filename) })
	return update, nil
}

func union(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// moveNew signs a new release and moves it to its place by one rename.
func (t *tree) moveNew(ctx context.Context, update release.Update, stage string) error {
	if err := t.writeSigned(ctx, stage, "update", update); err != nil {
		return err
	}
	if err := t.step("release"); err != nil {
		return err
	}
	target := filepath.Join(t.dir, update.Version)
	// What lies there without an update.json is a rest that no index names.
	if err := os.RemoveAll(target); err != nil {
		return fmt.Errorf("clearing %s: %w", target, err)
	}
	if err := os.Rename(stage, target); err != nil {
		return fmt.Errorf("moving the release into the tree: %w", err)
	}
	return syncDir(t.dir)
}

// moveInto brings a release up to date that is in the tree already: first the files
// that are new, then the manifests that name them, then the release's own document.
func (t *tree) moveInto(ctx context.Context, update release.Update, stage string, arches ...string) error {
	dir := filepath.Join(t.dir, update.Version)
	for _, arch := range arches {
		if err := ignore(os.Mkdir(filepath.Join(dir, arch), 0o755), os.ErrExist); err != nil {
			return fmt.Errorf("making a place for the files: %w", err)
		}
		entries, err := os.ReadDir(filepath.Join(stage, arch))
		if ignore(err, os.ErrNotExist) != nil {
			return fmt.Errorf("reading the new files: %w", err)
		}
		// The manifest names the others, so it is the last.
		slices.SortStableFunc(entries, func(a, b os.DirEntry) int {
			return cmp.Compare(rank(a.Name()), rank(b.Name()))
		})
		for _, entry := range entries {
			name := filepath.Join(arch, entry.Name())
			if err := t.step(entry.Name()); err != nil {
				return err
			}
			if err := os.Rename(filepath.Join(stage, name), filepath.Join(dir, name)); err != nil {
				return fmt.Errorf("moving %s into the tree: %w", name, err)
			}
		}
		if err := syncDir(filepath.Join(dir, arch)); err != nil {
			return err
		}
	}
	return t.writeSigned(ctx, dir, "update", update)
}

func rank(name string) int {
	if name == manifestName {
		return 1
	}
	return 0
}
