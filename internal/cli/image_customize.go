package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	api "github.com/holdfast-os/holdfast/api/seed"
	"github.com/holdfast-os/holdfast/internal/media"
)

// maxChoice bounds a file of options, in bytes.
const maxChoice = 1 << 20

type customizeFlags struct {
	in, out, options, kind, network string
	applications, target, trust     []string
	seeds                           []string
	force, interactive              bool
}

// anyDisk is the --install-target that describes no disk: there must be one alone.
const anyDisk = "any"

func imageCustomizeCommand(env *Env) *cobra.Command {
	f := customizeFlags{}
	c := &cobra.Command{
		Use:   "customize",
		Short: "Make an image of your own: options in, image out",
		Long: "Make an image of your own: options in, image out. The seed of the input is not taken over.\n\n" +
			"Options come from flags, or as a document (YAML or JSON) with the fields architecture, type,\n" +
			"channel, version, applications, install_target, force_install, network,\n" +
			"trusted_certificates and seeds; flags win. Without secrets the choice has an identifier,\n" +
			"which is the same wherever it is made.",
		Example: "  holdfast image customize --in Holdfast.img.gz --out node.img --application incus --install-target bus=nvme --trust client.crt\n" +
			"  holdfast image customize --in Holdfast.img.gz --out node.iso --type iso --options node.yaml\n" +
			"  holdfast image customize --interactive",
		Args: args(),
	}
	fs := c.Flags()
	fs.StringVar(&f.in, "in", "", "image to begin with, raw or .gz")
	fs.StringVar(&f.out, "out", "", "image to write, packed when the name ends in .gz")
	fs.StringVar(&f.options, "options", "", "file with the choice")
	fs.StringVar(&f.kind, "type", "", "raw or iso (default raw)")
	fs.StringArrayVar(&f.applications, "application", nil, "application to install; may be repeated")
	fs.StringSliceVar(&f.target, "install-target", nil, "install on the disk with bus=, id=, min_size=, max_size=, sort_order=; any is the only one that is there")
	fs.BoolVar(&f.force, "force-install", false, "install over what is on the disk")
	fs.StringVar(&f.network, "network", "", "file with the network configuration")
	fs.StringArrayVar(&f.trust, "trust", nil, "PEM certificate of a client to trust; may be repeated")
	fs.StringArrayVar(&f.seeds, "seed", nil, "seed file, named provider.yaml for example; may be repeated")
	fs.BoolVarP(&f.interactive, "interactive", "i", false, "ask for what the flags do not say, and show the command line that does the same")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if f.interactive {
			if err := askCustomize(c.Context(), env, c, &f); err != nil {
				return err
			}
		}
		if f.in == "" || f.out == "" {
			return usage(c, errors.New("--in and --out are needed, or --interactive"))
		}
		return customizeImage(c, env, f)
	}
	return c
}

// customizeImage writes the image that the flags describe.
func customizeImage(c *cobra.Command, env *Env, f customizeFlags) error {
	options, choice, err := f.choice(c)
	if err != nil {
		return err
	}
	err = rewriteImage(c.Context(), f.in, f.out, func(t media.Table) (media.Plan, error) {
		kind, err := t.KindOf()
		if err != nil {
			return media.Plan{}, err
		}
		if options.Architecture != "" && choice.Architecture != kind.Architecture || choice.Version != "" && choice.Version != kind.Version {
			return media.Plan{}, fmt.Errorf("the choice is for %s %s, and the image is release %s for %s", choice.Version, choice.Architecture, kind.Version, kind.Architecture)
		}
		if choice.Type != media.TypeISO && t.Sector != 512 {
			return media.Plan{}, fmt.Errorf("%s is a CD: begin with the raw image, or make another CD with --type iso", f.in)
		}
		choice.Architecture, choice.Version = kind.Architecture, kind.Version
		return media.Customize(t, media.Change{Add: &choice.Seeds, Only: true}, choice.Type == media.TypeISO)
	})
	if err != nil {
		return err
	}
	return tellChoice(env, f.out, choice)
}

func tellChoice(env *Env, path string, choice media.Choice) error {
	text := fmt.Sprintf("Wrote %s (release %s for %s)\n", path, choice.Version, choice.Architecture)
	secrets, err := choice.Secrets()
	if err != nil {
		return err
	}
	if len(secrets) == 0 {
		id, err := choice.ID()
		if err != nil {
			return err
		}
		text += "The choice is " + id + "\n"
	}
	return write(env.Stdout, []byte(cleanLines(text)))
}

func wrongChoice(err error) error {
	var problems media.Problems
	if !errors.As(err, &problems) {
		return err
	}
	return &listedError{"the choice is not as a node takes it, nothing was written:\n  " + strings.ReplaceAll(problems.Error(), "\n", "\n  "), err}
}

// choice joins the document and the flags, and gives what is wrong with them as a person
// reads it.
func (f customizeFlags) choice(c *cobra.Command) (media.ChoiceOptions, media.Choice, error) {
	options, err := f.joined(c)
	if err != nil {
		return options, media.Choice{}, wrongChoice(err)
	}
	choice, err := options.Choice()
	if err != nil {
		return options, choice, wrongChoice(err)
	}
	return options, choice, nil
}

func (f customizeFlags) joined(c *cobra.Command) (media.ChoiceOptions, error) {
	choice := media.ChoiceOptions{}
	if f.options != "" {
		var err error
		if choice, err = readOptions(f.options); err != nil {
			return choice, err
		}
	}
	if f.kind != "" {
		choice.Type = f.kind
	}
	choice.Applications = append(choice.Applications, f.applications...)
	choice.ForceInstall = choice.ForceInstall || f.force
	if len(f.target) > 0 {
		target, err := parseTarget(f.target)
		if err != nil {
			return choice, usage(c, err)
		}
		choice.InstallTarget = target
	}
	for _, path := range f.trust {
		text, err := readFile(path, maxChoice)
		if err != nil {
			return choice, fmt.Errorf("reading a certificate: %w", err)
		}
		choice.TrustedCertificates = append(choice.TrustedCertificates, string(text))
	}
	if f.network != "" {
		text, err := readJSONFile(f.network)
		if err != nil {
			return choice, err
		}
		choice.Network = text
	}
	return choice, f.addSeeds(&choice)
}

// readOptions reads a choice as a person wrote it, YAML or JSON.
func readOptions(path string) (media.ChoiceOptions, error) {
	text, err := readFile(path, maxChoice)
	if err != nil {
		return media.ChoiceOptions{}, fmt.Errorf("reading the options: %w", err)
	}
	if len(text) > maxChoice {
		return media.ChoiceOptions{}, fmt.Errorf("reading %s: it has more than %d bytes", path, maxChoice)
	}
	return media.DecodeOptions(media.File{Name: path, Data: text})
}

func readJSONFile(path string) ([]byte, error) {
	text, err := readFile(path, maxChoice)
	if err != nil {
		return nil, fmt.Errorf("reading the options: %w", err)
	}
	if len(text) > maxChoice {
		return nil, fmt.Errorf("reading %s: it has more than %d bytes", path, maxChoice)
	}
	document, err := yamlToJSON(text)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return document, nil
}

// addSeeds takes the seed files into the choice, after they were read on their own: so what
// is wrong is told with file and line.
func (f customizeFlags) addSeeds(choice *media.ChoiceOptions) error {
	set, err := readDocuments(f.seeds)
	if err != nil {
		return err
	}
	return choice.Add(set)
}

func parseTarget(words []string) (*api.InstallTarget, error) {
	target := &api.InstallTarget{}
	if len(words) == 1 && words[0] == anyDisk {
		return target, nil
	}
	fields := map[string]*string{"bus": &target.Bus, "id": &target.ID, "min_size": &target.MinSize, "max_size": &target.MaxSize, "sort_order": &target.SortOrder}
	for _, word := range words {
		name, value, ok := strings.Cut(word, "=")
		field := fields[name]
		if !ok || field == nil {
			return nil, fmt.Errorf("--install-target %q: want bus=, id=, min_size=, max_size= or sort_order=, or any alone", word)
		}
		*field = value
	}
	return target, nil
}
