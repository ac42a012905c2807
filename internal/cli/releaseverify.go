package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	api "github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/publisher"
	"github.com/holdfast-os/holdfast/internal/release"
)

func releaseVerifyCommand(env *Env) *cobra.Command {
	c := &cobra.Command{
		Use:   "verify TREE|URL",
		Short: "Check a release tree, in a folder or behind a web server, and list its releases",
		Long: "Check a release tree, and list its releases.\n\n" +
			"In a folder, every file is compared with the signed index and with the manifests; all that\n" +
			"is wrong is listed, and the exit code is then 1. With --deep files are unpacked too.\n\n" +
			"Behind a URL, the signature is checked as a node does; with --all every file is downloaded.",
		Example: "  holdfast release verify .build/release\n" +
			"  holdfast release verify /srv/releases --ca update.crt --deep\n" +
			"  holdfast release verify https://releases.example.org --ca update.crt --all",
		Args: args("TREE or URL"),
	}
	ca := c.Flags().String("ca", "", "PEM file of the certificate that must have signed it (default .keys/update.crt of the project)")
	all := c.Flags().Bool("all", false, "behind a URL: download every file, and check its size and sum")
	deep := c.Flags().Bool("deep", false, "in a folder: unpack every file, and check what comes out")
	out := addFormat(env, c)
	c.RunE = func(c *cobra.Command, args []string) error {
		isURL := strings.Contains(args[0], "://")
		if isURL && *deep {
			return usage(c, errors.New("--deep is for a tree in a folder"))
		}
		if !isURL && *all {
			return usage(c, errors.New("--all is for a tree behind a URL: in a folder, every file is checked anyway"))
		}
		pem, err := readCA(*ca)
		if err != nil {
			return err
		}
		if !isURL {
			return verifyFolder(c.Context(), env, out, release.VerifyOptions{Tree: args[0], UpdateCA: pem, Deep: *deep, Now: env.Now()})
		}
		source, err := release.NewSource(release.Options{ServerURL: args[0], UpdateCA: pem, UserAgent: "holdfast/" + Version})
		if err != nil {
			return err
		}
		index, err := source.Index(c.Context())
		if err != nil {
			return err
		}
		if *all {
			if err := fetchAll(c.Context(), source, index); err != nil {
				return err
			}
		}
		return printIndex(out, index)
	}
	return c
}

// verifyFolder checks a tree on this computer. What is wrong goes to stderr, all of it.
func verifyFolder(ctx context.Context, env *Env, out *output, o release.VerifyOptions) error {
	last := int64(0)
	o.Progress = func(_ string, done, total int64) {
		// A tenth at a time: a tree has gigabytes, and a log keeps every line.
		if tenth := done * 10 / max(total, 1); tenth > last {
			last = tenth
			fmt.Fprintf(env.Stderr, "checked %s of %s\n", bytesText(uint64(done)), bytesText(uint64(total)))
		}
	}
	report, err := release.VerifyTree(ctx, o)
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(o.Tree, "tuf")); err == nil {
		ends, err := publisher.Metadata{Tree: o.Tree}.Check()
		if err != nil {
			report.Problems = append(report.Problems, release.VerifyProblem{Path: "tuf", Err: err})
		} else if _, err := fmt.Fprintf(env.Stderr, "the trusted metadata hold until %s\n", ends.UTC().Format("2006-01-02")); err != nil {
			return err
		}
	}
	for _, name := range report.Unnamed {
		if _, err := fmt.Fprintf(env.Stderr, "note: no index and no manifest names %s\n", clean(name)); err != nil {
			return err
		}
	}
	if len(report.Problems) > 0 {
		var text strings.Builder
		fmt.Fprintf(&text, "%d of the tree's files or documents are not as they should be:", len(report.Problems))
		errs := make([]error, 0, len(report.Problems))
		for _, problem := range report.Problems {
			fmt.Fprintf(&text, "\n  %s", clean(problem.Error()))
			errs = append(errs, problem)
		}
		return &listedError{text.String(), errors.Join(errs...)}
	}
	index, err := release.List(o.Tree)
	if err != nil {
		return err
	}
	return printIndex(out, index)
}

// listedError is several errors under a heading.
type listedError struct {
	text string
	err  error
}

func (e *listedError) Error() string { return e.text }
func (e *listedError) Unwrap() error { return e.err }

func readCA(ca string) ([]byte, error) {
	if ca == "" {
		root, err := projectRoot()
		if err != nil {
			return nil, withTry(err, "--ca FILE")
		}
		ca = filepath.Join(root, ".keys", "update.crt")
	}
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, withTry(fmt.Errorf("reading the update certificate: %w", err), "--ca FILE")
	}
	return pem, nil
}

// fetchAll downloads each file once, unpacks it and throws it away.
func fetchAll(ctx context.Context, source *release.Source, index api.Index) (err error) {
	dir, err := os.MkdirTemp("", "holdfast-verify-")
	if err != nil {
		return fmt.Errorf("making a place for downloads: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	file := filepath.Join(dir, "file")
	for _, update := range index.Updates {
		for _, f := range update.Files {
			if err := source.Fetch(ctx, update, f, file, nil); err != nil {
				return fmt.Errorf("release %s, file %s: %w", update.Version, f.Filename, err)
			}
			if err := os.Remove(file); err != nil {
				return fmt.Errorf("removing a checked download: %w", err)
			}
		}
	}
	return nil
}

func printIndex(out *output, index api.Index) error {
	raw, err := json.Marshal(index)
	if err != nil {
		return fmt.Errorf("encoding the index: %w", err)
	}
	return out.print(raw, as(indexView))
}

func indexView(index api.Index) view {
	t := table{head: []string{"VERSION", "CHANNELS", "SEVERITY", "PUBLISHED", "FILES", "SIZE"}}
	for _, u := range index.Updates {
		var size uint64
		for _, f := range u.Files {
			size += uint64(max(f.Size, 0))
		}
		t.rows = append(t.rows, []string{u.Version, strings.Join(u.Channels, " "), string(u.Severity),
			timeText(u.PublishedAt), strconv.Itoa(len(u.Files)), bytesText(size)})
	}
	return view{tables: []table{t}}
}
