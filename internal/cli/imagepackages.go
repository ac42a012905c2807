package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	api "github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/packages"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/tooltree"
)

// imagePackagesCommand is a step of the image build, and no command for people.
func imagePackagesCommand(env *Env) *cobra.Command {
	var cache string
	c := &cobra.Command{
		Use:   "packages MKOSI-OUTPUT DEBS OUT",
		Short: "Write the package lists of an image into its output folder",
		Long: "Write packages-os.json and, for each application, packages-NAME.json into OUT: the\n" +
			"Debian packages of each with the CVE numbers of their changelogs.\n\n" +
			"MKOSI-OUTPUT holds base/ with its dpkg database, and APPLICATION.manifest of each\n" +
			"application's mkosi build (ManifestFormat=json); DEBS the .deb files of both.",
		Example: "  holdfast image packages .build/image/mkosi.output ~/.cache/holdfast/mkosi.pkgcache/cache/apt/archives .build/out",
		Hidden:  true,
		Args:    args("MKOSI-OUTPUT", "DEBS", "OUT"),
		RunE: func(c *cobra.Command, args []string) error {
			if cache == "" {
				top, err := tooltree.CacheDir()
				if err != nil {
					return err
				}
				cache = filepath.Join(top, "packages")
			}
			if err := os.MkdirAll(cache, 0o755); err != nil {
				return fmt.Errorf("making the cache of changelogs: %w", err)
			}
			b := &debBook{dir: args[1], cache: cache, debs: packages.Debs{XZ: tarMembers(env.Run)}}
			return writePackageLists(c.Context(), env.Stderr, b, args[0], args[2])
		},
	}
	c.Flags().StringVar(&cache, "cache", "", "folder that keeps what was read from each .deb (default packages in the cache of the tools)")
	return c
}

func writePackageLists(ctx context.Context, out io.Writer, book *debBook, from, to string) error {
	lists, err := readPackageLists(ctx, out, book, from)
	if err != nil {
		return err
	}
	if err := book.addChanges(ctx, lists); err != nil {
		return err
	}
	if len(book.missing) > 0 {
		slices.Sort(book.missing)
		if _, err := fmt.Fprintf(out, "warning: %d packages have no .deb in %s, so that their CVEs are not known: %s\n",
			len(book.missing), book.dir, strings.Join(slices.Compact(book.missing), ", ")); err != nil {
			return err
		}
	}
	for _, list := range lists {
		text, err := json.MarshalIndent(list, "", " ")
		if err != nil {
			return fmt.Errorf("encoding the packages of %s: %w", list.Component, err)
		}
		name := filepath.Join(to, "packages-"+string(list.Component)+".json")
		if err := os.WriteFile(name, append(text, '\n'), 0o644); err != nil {
			return fmt.Errorf("writing the package list: %w", err)
		}
	}
	return nil
}

// readPackageLists takes the system's packages from the base tree's database, together with
// those of the initrd, and an application's from its manifest. An application without one
// has no list, which is said.
func readPackageLists(ctx context.Context, out io.Writer, book *debBook, from string) ([]api.PackageList, error) {
	status, err := os.Open(filepath.Join(from, "base/var/lib/dpkg/status"))
	if err != nil {
		return nil, withTry(fmt.Errorf("reading the packages of the system: %w", err), "holdfast image build")
	}
	defer status.Close()
	base, err := packages.FromDpkgStatus(api.ComponentOS, status)
	if err != nil {
		return nil, err
	}
	manifests, err := filepath.Glob(filepath.Join(from, "*.manifest"))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", from, err)
	}
	images, err := filepath.Glob(filepath.Join(from, "*.raw"))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", from, err)
	}
	system := base
	var lists []api.PackageList
	for _, name := range manifests {
		component, _ := strings.CutSuffix(filepath.Base(name), ".manifest")
		if component != "initrd" && !api.Component(component).Valid() {
			continue
		}
		list, err := book.fromManifest(ctx, api.Component(component), name)
		if err != nil {
			return nil, err
		}
		if component == "initrd" {
			system = packages.Union(api.ComponentOS, base, list)
		} else {
			lists = append(lists, packages.Minus(list, base))
		}
	}
	for _, name := range images {
		component, _ := strings.CutSuffix(filepath.Base(name), ".raw")
		known := slices.ContainsFunc(lists, func(l api.PackageList) bool { return string(l.Component) == component })
		if api.Component(component).Valid() && !known {
			if _, err := fmt.Fprintf(out, "warning: mkosi left no %s.manifest: its packages are not known (ManifestFormat=json in its mkosi.conf makes one)\n", component); err != nil {
				return nil, err
			}
		}
	}
	return append([]api.PackageList{system}, lists...), nil
}

// debBook knows what stands in .deb files, each read once and kept in the cache by name.
type debBook struct {
	dir, cache string
	debs       packages.Debs
	missing    []string
}

// debNote is what is kept of a .deb. Size ties it to the file.
type debNote struct {
	Size    int64               `json:"size"`
	Package api.Package         `json:"package"`
	Changes []api.PackageChange `json:"changes"`
	// HasChangelog is false for a .deb whose documents are another's.
	HasChangelog bool `json:"has_changelog"`
	// ChangesRead is false while only the control file was read.
	ChangesRead bool `json:"changes_read"`
}

// file is where the .deb of a package lies: apt writes the colon of an epoch as %3a.
func (b *debBook) file(p api.Package) string {
	return p.Name + "_" + strings.ReplaceAll(p.Version, ":", "%3a") + "_" + p.Architecture + ".deb"
}

func (b *debBook) fromManifest(ctx context.Context, component api.Component, name string) (api.PackageList, error) {
	f, err := os.Open(name)
	if err != nil {
		return api.PackageList{}, fmt.Errorf("reading a manifest of mkosi: %w", err)
	}
	defer f.Close()
	list, err := packages.FromManifest(component, f)
	if err != nil {
		return api.PackageList{}, fmt.Errorf("reading %s: %w", name, err)
	}
	for i, p := range list.Packages {
		note, err := b.note(ctx, p, false)
		if errors.Is(err, fs.ErrNotExist) {
			continue // addChanges names it
		}
		if err != nil {
			return api.PackageList{}, err
		}
		list.Packages[i].Source, list.Packages[i].SourceVersion = note.Package.Source, note.Package.SourceVersion
	}
	return list, nil
}

// note gives what stands in the .deb of a package; fs.ErrNotExist when there is none.
func (b *debBook) note(ctx context.Context, p api.Package, changes bool) (debNote, error) {
	deb := filepath.Join(b.dir, b.file(p))
	info, err := os.Stat(deb)
	if err != nil {
		return debNote{}, err
	}
	kept := filepath.Join(b.cache, b.file(p)+".json")
	var note debNote
	if text, err := os.ReadFile(kept); err == nil && json.Unmarshal(text, &note) == nil && note.Size == info.Size() && (note.ChangesRead || !changes) {
		return note, nil
	}
	f, err := os.Open(deb)
	if err != nil {
		return debNote{}, err
	}
	defer f.Close()
	note = debNote{Size: info.Size(), ChangesRead: changes}
	if note.Package, err = b.debs.ControlOf(ctx, f); err != nil {
		return debNote{}, fmt.Errorf("reading %s: %w", deb, err)
	}
	if note.Package.Name != p.Name || note.Package.Version != p.Version {
		return debNote{}, fmt.Errorf("reading %s: it is %s %s", deb, note.Package.Name, note.Package.Version)
	}
	if changes {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return debNote{}, fmt.Errorf("reading %s: %w", deb, err)
		}
		if note.Changes, note.HasChangelog, err = b.debs.ChangelogOf(ctx, f); err != nil {
			return debNote{}, fmt.Errorf("reading %s: %w", deb, err)
		}
	}
	text, err := json.Marshal(note)
	if err != nil {
		return debNote{}, fmt.Errorf("encoding what stands in %s: %w", deb, err)
	}
	return note, replaceNote(kept, text)
}

// replaceNote writes whole or not at all: a cut build must not leave half a note.
func replaceNote(name string, text []byte) error {
	temporary := name + ".new"
	if err := os.WriteFile(temporary, text, 0o644); err != nil {
		return fmt.Errorf("keeping what stands in a .deb: %w", err)
	}
	if err := os.Rename(temporary, name); err != nil {
		return fmt.Errorf("keeping what stands in a .deb: %w", err)
	}
	return nil
}

// source is a source package in a version; all packages of it have one changelog.
type source struct{ name, version string }

// addChanges fills in the changes of all packages. Of the packages of one source only the
// smallest .deb with a changelog is read: unpacking is what takes time.
func (b *debBook) addChanges(ctx context.Context, lists []api.PackageList) error {
	sources := map[source][]api.Package{}
	for _, list := range lists {
		for _, p := range list.Packages {
			if _, err := os.Stat(filepath.Join(b.dir, b.file(p))); err != nil {
				b.missing = append(b.missing, p.Name)
				continue
			}
			key := source{p.Source, p.SourceVersion}
			sources[key] = append(sources[key], p)
		}
	}
	found, err := b.readChanges(ctx, sources)
	if err != nil {
		return err
	}
	for _, list := range lists {
		for i, p := range list.Packages {
			list.Packages[i].Changes = found[source{p.Source, p.SourceVersion}]
		}
	}
	return nil
}

// readers is how many .deb files are unpacked at the same time.
const readers = 2

func (b *debBook) readChanges(ctx context.Context, sources map[source][]api.Package) (map[source][]api.PackageChange, error) {
	var (
		lock  sync.Mutex
		group sync.WaitGroup
		errs  []error
	)
	found := map[source][]api.PackageChange{}
	work := make(chan source)
	for range readers {
		group.Go(func() {
			for key := range work {
				changes, err := b.changesOf(ctx, sources[key])
				lock.Lock()
				found[key] = changes
				errs = append(errs, err)
				lock.Unlock()
			}
		})
	}
	for key := range sources {
		work <- key
	}
	close(work)
	group.Wait()
	return found, errors.Join(errs...)
}

func (b *debBook) changesOf(ctx context.Context, all []api.Package) ([]api.PackageChange, error) {
	size := func(p api.Package) int64 {
		info, err := os.Stat(filepath.Join(b.dir, b.file(p)))
		if err != nil {
			return 0
		}
		return info.Size()
	}
	all = slices.Clone(all)
	slices.SortFunc(all, func(p, q api.Package) int { return cmp.Or(cmp.Compare(size(p), size(q)), cmp.Compare(p.Name, q.Name)) })
	for _, p := range all {
		note, err := b.note(ctx, p, true)
		if err != nil {
			return nil, err
		}
		if note.HasChangelog {
			return note.Changes, nil
		}
	}
	return nil, nil
}

// tarMembers reads files of an xz-packed tar with the programs tar and xz.
func tarMembers(runner run.Runner) packages.Members {
	return func(ctx context.Context, packed io.Reader, pattern string) ([]packages.File, error) {
		result, err := runner(ctx, run.Command{
			Name: "tar",
			Args: []string{"-xJf", "-", "--wildcards", "--wildcards-match-slash",
				"--to-command", `printf '%s %s\n' "$TAR_SIZE" "$TAR_FILENAME" && cat`, pattern},
			Env:   []string{"LC_ALL=C"},
			Stdin: packed,
		})
		if err != nil {
			return nil, fmt.Errorf("unpacking with tar and xz: %w", err)
		}
		return splitMembers(result.Stdout)
	}
}

// splitMembers takes apart what tarMembers' command writes: for each file a line with its
// size and name, and the file.
func splitMembers(data []byte) ([]packages.File, error) {
	var files []packages.File
	for len(data) > 0 {
		line, rest, ok := bytes.Cut(data, []byte("\n"))
		var size int
		_, err := fmt.Sscanf(string(line), "%d ", &size)
		_, name, named := strings.Cut(string(line), " ")
		if !ok || err != nil || !named || size < 0 || size > len(rest) {
			return nil, fmt.Errorf("unpacking with tar and xz: the line %.80q is no file's", line)
		}
		files = append(files, packages.File{Name: name, Data: rest[:size]})
		data = rest[size:]
	}
	return files, nil
}
