package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-os/holdfast/internal/media"
	"github.com/holdfast-os/holdfast/internal/seed"
	"github.com/holdfast-os/holdfast/internal/system/block"
	"github.com/holdfast-os/holdfast/internal/system/disks"
)

type imageSeedFlags struct {
	add, remove  []string
	from, output string
	show         bool
}

func imageSeedCommand(env *Env) *cobra.Command {
	f := imageSeedFlags{}
	c := &cobra.Command{
		Use:   "seed IMAGE|DEVICE",
		Short: "Write the seed into an image or onto a medium, or show it",
		Long: "Write the seed into an image or onto a medium, or show it.\n\n" +
			"Documents are checked as a node does, and nothing is written unless all of them are right.\n" +
			"A packed image (.gz) stays as it is: the changed one is written to --output, and packed\n" +
			"when that name ends in .gz.\n\n" +
			"--show leaves secrets out.",
		Example: "  holdfast image seed Holdfast.img --add install.yaml --add network.yaml\n" +
			"  holdfast image seed /dev/sdb --from seeds/\n" +
			"  holdfast image seed Holdfast.img.gz --remove install --output other.img.gz\n" +
			"  holdfast image seed Holdfast.img --show",
		Args: args("IMAGE or DEVICE"),
	}
	c.Flags().StringArrayVar(&f.add, "add", nil, "seed file, named install.yaml for example; takes the place of that document; may be repeated")
	c.Flags().StringVar(&f.from, "from", "", "folder of seed files, which take the place of the whole seed")
	c.Flags().StringArrayVar(&f.remove, "remove", nil, "name of a document to remove, as install; may be repeated")
	c.Flags().BoolVar(&f.show, "show", false, "show the seed, after the change if there is one")
	c.Flags().StringVar(&f.output, "output", "", "write the changed image to this new file (default in place)")
	out := addFormats(env, c, "yaml", "json")
	c.RunE = func(c *cobra.Command, args []string) error {
		changes := len(f.add)+len(f.remove) > 0 || f.from != ""
		if !changes && !f.show {
			return usage(c, errors.New("nothing to do: --add, --from, --remove or --show is missing"))
		}
		if !changes && f.output != "" {
			return usage(c, errors.New("--output is for a changed image"))
		}
		where := args[0]
		if changes {
			change, err := readChange(f.add, f.from, f.remove)
			if err != nil {
				return err
			}
			if where, err = changeSeed(c.Context(), env, where, f.output, change); err != nil {
				return err
			}
		}
		if !f.show {
			return nil
		}
		return showSeed(c.Context(), env, out, where)
	}
	return c
}

// readChange reads seed files.
func readChange(add []string, from string, remove []string) (media.Change, error) {
	change := media.Change{Remove: remove, Only: from != ""}
	var paths []string
	if from != "" {
		entries, err := os.ReadDir(from)
		if err != nil {
			return change, fmt.Errorf("reading the folder of seeds: %w", err)
		}
		for _, e := range entries {
			if name, _ := seed.NameOf(e.Name()); name != "" {
				paths = append(paths, filepath.Join(from, e.Name()))
			}
		}
		if len(paths) == 0 {
			return change, withTry(fmt.Errorf("the folder %s has no seed: no file ends in .yaml, .yml or .json", from), "--remove NAME to take documents out")
		}
	}
	set, err := readDocuments(append(paths, add...))
	change.Add = set
	return change, err
}

// readDocuments reads seed files; all that is wrong with them is in the error.
func readDocuments(paths []string) (*seed.Set, error) {
	var files []media.File
	for _, path := range paths {
		data, err := readFile(path, seed.MaxMember)
		if err != nil {
			return nil, fmt.Errorf("reading a seed: %w", err)
		}
		files = append(files, media.File{Name: path, Data: data})
	}
	set, err := media.Documents(files)
	return set, wrongSeed(err)
}

// wrongSeed puts a heading over all that is wrong.
func wrongSeed(err error) error {
	var problems media.Problems
	if !errors.As(err, &problems) {
		return err
	}
	lines := strings.ReplaceAll(problems.Error(), "\n", "\n  ")
	return withTry(&listedError{"the seed is not as a node takes it, nothing was written:\n  " + lines, err}, "mend the files, then run the same command again")
}

// readFile reads at most limit+1 bytes; what is more shows as a document that is too long.
func readFile(path string, limit int64) (data []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return io.ReadAll(io.LimitReader(f, limit+1))
}

// changeSeed changes the seed in place, or on the way to another file, and gives the path
// of what has the new seed.
func changeSeed(ctx context.Context, env *Env, path, output string, change media.Change) (string, error) {
	if output != "" {
		return output, rewriteImage(ctx, path, output, func(t media.Table) (media.Plan, error) {
			return media.Customize(t, change, false)
		})
	}
	f, kind, err := openSource(path)
	if err != nil {
		return "", err
	}
	if err := f.Close(); err != nil {
		return "", err
	}
	if kind != formRaw {
		return "", withTry(fmt.Errorf("%s is packed (%s) and cannot be changed in place", path, kind), "--output FILE")
	}
	return path, seedInPlace(path, change)
}

// rewriteImage copies an image and changes it on the way.
func rewriteImage(ctx context.Context, from, to string, plan func(media.Table) (media.Plan, error)) (err error) {
	in, done, err := openStream(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	return newImage(to, func(out io.Writer) error {
		_, err := media.Stream(ctx, in, out, plan)
		if err != nil {
			return cutImage(fmt.Errorf("changing %s: %w", from, wrongSeed(err)))
		}
		return nil
	})
}

func seedInPlace(path string, change media.Change) (err error) {
	f, err := openToChange(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, _, err := block.Size(f)
	if err != nil {
		return err
	}
	table, err := media.ReadTable(f, size)
	if err != nil {
		return fmt.Errorf("looking into %s: %w", path, err)
	}
	at, err := media.SeedPlace(table)
	if err != nil {
		return fmt.Errorf("looking into %s: %w", path, err)
	}
	archive, err := change.Archive(io.NewSectionReader(f, at.Offset, at.Size))
	if err != nil {
		return fmt.Errorf("changing the seed of %s: %w", path, wrongSeed(err))
	}
	if err := media.WriteSeed(f, at, archive); err != nil {
		return fmt.Errorf("changing %s: %w", path, err)
	}
	return nil
}

// openToChange opens an image, or takes a device, for nobody else to change meanwhile.
func openToChange(path string) (*os.File, error) {
	device, err := disks.IsDevice(path)
	if err != nil {
		return nil, err
	}
	if device {
		taken, err := disks.Take(path)
		return taken.File, err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the image: %w", err)
	}
	if err := block.Lock(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func showSeed(ctx context.Context, env *Env, out *output, path string) (err error) {
	image, err := openImage(ctx, env, path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, image.close()) }()
	table, err := media.ReadTable(image, image.size)
	if err != nil {
		return fmt.Errorf("looking into %s: %w", path, err)
	}
	at, err := media.SeedPlace(table)
	if err != nil {
		return fmt.Errorf("looking into %s: %w", path, err)
	}
	set, wrong := media.ReadSeed(image, at)
	shown, err := media.Hidden(set)
	if err != nil {
		return err
	}
	text, err := json.Marshal(shown)
	if err != nil {
		return fmt.Errorf("encoding the seed: %w", err)
	}
	if err := out.print(text, nil); err != nil {
		return err
	}
	if wrong != nil {
		return fmt.Errorf("the seed of %s has more, which nodes refuse: %w", path, wrong)
	}
	return nil
}
