package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/media"
	"github.com/holdfast-os/holdfast/internal/tuf"
)

// maxManifest bounds a manifest, in bytes.
const maxManifest = 64 << 20

type imageVerifyFlags struct{ tree, manifest, root, channel string }

func imageVerifyCommand(env *Env) *cobra.Command {
	f := imageVerifyFlags{}
	c := &cobra.Command{
		Use:   "verify IMAGE",
		Short: "Compare an image with the release that it is said to be",
		Long: "Compare an image with the release that it is said to be: /usr, its hash tree and signature\n" +
			"and the UKI must be those of the release's manifest; the boot loader must be signed by who\n" +
			"signed that UKI, and the keys of Secure Boot must be that signer's. The seed may be any.\n" +
			"The exit code is 3 when something differs.\n\n" +
			"With --tree and --root the manifest is the one that the tree's trusted metadata name. With\n" +
			"--tree alone, or --manifest, the manifest is taken as it is: then trust where it comes from.",
		Example: "  holdfast image verify Holdfast.img --tree https://releases.example.org --root root.json\n" +
			"  holdfast image verify /dev/sdb --manifest manifest.json",
		Args: args("IMAGE"),
	}
	c.Flags().StringVar(&f.tree, "tree", "", "release tree, a folder or a URL")
	c.Flags().StringVar(&f.manifest, "manifest", "", "manifest of the release")
	c.Flags().StringVar(&f.root, "root", "", "root document that the tree's metadata must descend from")
	c.Flags().StringVar(&f.channel, "channel", "stable", "channel that the release must be in, with --root")
	out := addFormat(env, c)
	c.RunE = func(c *cobra.Command, args []string) (err error) {
		if (f.tree == "") == (f.manifest == "") {
			return usage(c, errors.New("one of --tree and --manifest is needed"))
		}
		if f.root != "" && f.tree == "" {
			return usage(c, errors.New("--root is for --tree"))
		}
		image, err := openImage(c.Context(), env, args[0])
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, image.close()) }()
		table, err := media.ReadTable(image, image.size)
		if err != nil {
			return fmt.Errorf("looking into %s: %w", args[0], err)
		}
		kind, err := table.KindOf()
		if err != nil {
			return fmt.Errorf("looking into %s: %w", args[0], err)
		}
		manifest, err := f.read(c.Context(), env, kind)
		if err != nil {
			return err
		}
		result, err := media.Compare(c.Context(), image, image.size, prover{}, manifest)
		if err != nil {
			return fmt.Errorf("comparing %s: %w", args[0], err)
		}
		return printCompared(env, out, result)
	}
	return c
}

func printCompared(env *Env, out *output, result []media.Compared) error {
	text, err := json.Marshal(result)
	if err != nil {
		return fmt.Errorf("encoding the result: %w", err)
	}
	err = out.print(text, as(func(list []media.Compared) view {
		t := table{head: []string{"PART", "PLACE", "RESULT"}}
		for _, r := range list {
			answer := r.Problem
			if answer == "" {
				answer = "the same"
			}
			t.rows = append(t.rows, []string{r.Name, r.Place, answer})
		}
		return view{tables: []table{t}}
	}))
	if err != nil {
		return err
	}
	for _, r := range result {
		if r.Problem != "" {
			return exitError(ExitDiffers)
		}
	}
	return nil
}

// read gets the manifest of the release that the image says it is.
func (f imageVerifyFlags) read(ctx context.Context, env *Env, kind media.Kind) (release.Manifest, error) {
	if f.manifest != "" {
		text, err := readFile(f.manifest, maxManifest)
		if err != nil {
			return release.Manifest{}, fmt.Errorf("reading the manifest: %w", err)
		}
		return parseManifest(text)
	}
	fetcher, err := treeFetcher(f.tree)
	if err != nil {
		return release.Manifest{}, err
	}
	if f.root != "" {
		return f.trusted(ctx, env, fetcher, kind)
	}
	// The version becomes a path, and comes from the image.
	if strings.Trim(kind.Version, "0123456789") != "" || kind.Version == "" {
		return release.Manifest{}, fmt.Errorf("the image says that it is release %.40q, which is no version", kind.Version)
	}
	text, err := fetcher.Fetch(ctx, kind.Version+"/"+kind.Architecture+"/manifest.json", maxManifest)
	if err != nil {
		return release.Manifest{}, fmt.Errorf("reading the manifest of the tree: %w", err)
	}
	if _, err := fmt.Fprintln(env.Stderr, "note: without --root nobody has checked who wrote this manifest"); err != nil {
		return release.Manifest{}, err
	}
	return parseManifest(text)
}

func parseManifest(text []byte) (release.Manifest, error) {
	var m release.Manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return m, fmt.Errorf("reading the manifest: %w", err)
	}
	return m, tuf.CheckManifest(m)
}

func (f imageVerifyFlags) trusted(ctx context.Context, env *Env, from tuf.Fetcher, kind media.Kind) (m release.Manifest, err error) {
	root, err := readFile(f.root, maxChoice)
	if err != nil {
		return m, fmt.Errorf("reading the root document: %w", err)
	}
	dir, err := os.MkdirTemp(env.Getenv("TMPDIR"), "holdfast-metadata-")
	if err != nil {
		return m, fmt.Errorf("making a place for metadata: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	client, err := tuf.Open(tuf.Options{Root: root, Dir: filepath.Join(dir, "metadata"), Mirrors: []tuf.Fetcher{from},
		Clock: func() (time.Time, bool) { return env.Now(), true }})
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	if _, err := client.Refresh(ctx, f.channel); err != nil {
		return m, err
	}
	return client.Manifest(ctx, f.channel, kind.Architecture, kind.Version)
}

// treeFetcher reads files of a release tree in a folder or behind a URL.
func treeFetcher(tree string) (tuf.Fetcher, error) {
	if !strings.Contains(tree, "://") {
		root, err := os.OpenRoot(tree)
		if err != nil {
			return nil, fmt.Errorf("opening the release tree: %w", err)
		}
		return folderTree{root}, nil
	}
	base, err := url.Parse(tree)
	if err != nil || base.Scheme != "https" && base.Scheme != "http" {
		return nil, fmt.Errorf("opening the release tree %q: want a folder, https:// or http://", tree)
	}
	return webTree{base}, nil
}

type folderTree struct{ root *os.Root }

func (t folderTree) Fetch(_ context.Context, path string, max int64) (data []byte, err error) {
	f, err := t.root.Open(filepath.FromSlash(path))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return io.ReadAll(io.LimitReader(f, max+1))
}

type webTree struct{ base *url.URL }

func (t webTree) Fetch(ctx context.Context, path string, max int64) (data []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, t.base.JoinPath(path).String(), nil)
	if err != nil {
		return nil, err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, answer.Body.Close()) }()
	switch answer.StatusCode {
	case http.StatusOK:
		return io.ReadAll(io.LimitReader(answer.Body, max+1))
	case http.StatusNotFound:
		return nil, fmt.Errorf("the server does not have %s: %w", path, os.ErrNotExist)
	}
	return nil, fmt.Errorf("the server answered %s for %s", answer.Status, path)
}
