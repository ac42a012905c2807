package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"github.com/holdfast-os/holdfast/internal/cloudinit"
	"github.com/holdfast-os/holdfast/internal/media"
	"github.com/holdfast-os/holdfast/internal/seed"
	"github.com/holdfast-os/holdfast/internal/seedsource"
)

func seedCommand(env *Env) *cobra.Command {
	return group("seed", "Check, show and seal what a node reads before its first start", "  holdfast seed check seeds/",
		seedCheckCommand(env), seedShowCommand(env), seedSealCommand(env), seedKeygenCommand(env))
}

// seedKey says what opens sealed documents.
type seedKey struct{ file string }

func addSeedKey(c *cobra.Command) *seedKey {
	k := &seedKey{}
	c.Flags().StringVar(&k.file, "key-file", "", "open sealed documents with this file: private keys of age, or one line with the passphrase")
	return k
}

func (k *seedKey) keys() ([]age.Identity, error) {
	if k.file == "" {
		return nil, nil
	}
	text, err := readFile(k.file, seed.MaxKey)
	if err != nil {
		return nil, fmt.Errorf("reading the key: %w", err)
	}
	keys, err := seed.ParseKeys(string(text))
	if err != nil {
		return nil, fmt.Errorf("reading the key in %s: %w", k.file, err)
	}
	return keys, nil
}

func seedCheckCommand(env *Env) *cobra.Command {
	c := &cobra.Command{
		Use:   "check FILE|DIR|IMAGE",
		Short: "Say all that a node would refuse of a seed",
		Long: "Say all that a node would refuse of a seed: of one document, of the documents in a folder, of a tar\n" +
			"archive, of the user data of a cloud (a file that begins with #cloud-config), or of an image.\n\n" +
			"Sealed documents are looked into with --key-file only.",
		Example: "  holdfast seed check network.yaml\n  holdfast seed check seeds/ --key-file seed.key\n  holdfast seed check Holdfast.img",
		Args:    args("FILE, DIR or IMAGE"),
	}
	key := addSeedKey(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		set, err := readSeed(c.Context(), env, args[0], key)
		if err != nil {
			return err
		}
		return write(env.Stdout, []byte(seedSummary(set)))
	}
	return c
}

// seedSummary names what was found.
func seedSummary(set *seed.Set) string {
	var names, sealed []string
	for _, name := range seed.Names() {
		if _, err := set.Get(name); err == nil {
			names = append(names, name)
		}
	}
	for _, m := range set.Sealed {
		name, _ := seed.NameOf(m.Name)
		sealed = append(sealed, name)
	}
	if set.Empty() {
		return "There is no seed in it\n"
	}
	text := ""
	if len(names) > 0 {
		text = "The seed is as a node takes it: " + strings.Join(names, ", ") + "\n"
	}
	if len(sealed) > 0 {
		text += "Sealed, and not looked into: " + strings.Join(sealed, ", ") + "\n"
	}
	return text
}

func seedShowCommand(env *Env) *cobra.Command {
	c := &cobra.Command{
		Use:     "show FILE|DIR|IMAGE",
		Short:   "Show a seed without its secrets",
		Long:    "Show a seed without its secrets. What may be shown is a list; all else is hidden.",
		Example: "  holdfast seed show Holdfast.img\n  holdfast seed show seeds/ --key-file seed.key -f json",
		Args:    args("FILE, DIR or IMAGE"),
	}
	key := addSeedKey(c)
	out := addFormats(env, c, "yaml", "json")
	c.RunE = func(c *cobra.Command, args []string) error {
		set, err := readSeed(c.Context(), env, args[0], key)
		if err != nil {
			return err
		}
		shown, err := media.Hidden(set)
		if err != nil {
			return err
		}
		text, err := json.Marshal(shown)
		if err != nil {
			return fmt.Errorf("encoding the seed: %w", err)
		}
		return out.print(text, nil)
	}
	return c
}

// readSeed reads a seed in any of its forms. All that is wrong with it is in the error.
func readSeed(ctx context.Context, env *Env, path string, key *seedKey) (*seed.Set, error) {
	keys, err := key.keys()
	if err != nil {
		return nil, err
	}
	members, err := seedMembers(ctx, env, path)
	var userData *seed.Set
	if errors.Is(err, errUserData) {
		userData, err = readUserData(path)
		if userData != nil && len(keys) > 0 {
			err = errors.Join(err, userData.Open(keys...))
		}
		if err == nil {
			err = media.CheckSet(userData, nil).Err()
		}
		return userData, wrongDocuments(path, err)
	}
	var files []media.File
	var problems media.Problems
	if err != nil && !errors.As(err, &problems) {
		return nil, wrongDocuments(path, err)
	}
	for _, m := range members {
		if seed.SealedName(m.Name) && len(keys) > 0 {
			data, err := seed.Unseal(seed.Member{Name: filepath.Base(m.Name), Data: m.Data}, keys...)
			if err != nil {
				problems = append(problems, seedProblems(err, m.Name)...)
				continue
			}
			m = seed.Member{Name: strings.TrimSuffix(m.Name, ".age"), Data: data}
		}
		files = append(files, media.File{Name: m.Name, Data: m.Data})
	}
	set, err := media.Documents(files)
	var more media.Problems
	if errors.As(err, &more) {
		problems = append(problems, more...)
	}
	return set, wrongDocuments(path, problems.Err())
}

// errUserData means that a file is the user data of a cloud, and not a document.
var errUserData = errors.New("these are user data")

// seedMembers gives the files of a seed: those of a folder, those in an archive or image,
// or the one. With media.Problems it gives those that can be read all the same.
func seedMembers(ctx context.Context, env *Env, path string) ([]seed.Member, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return folderMembers(path)
	}
	if name, _ := seed.NameOf(filepath.Base(path)); name != "" {
		data, err := readFile(path, seed.MaxMember)
		return []seed.Member{{Name: path, Data: data}}, err
	}
	head, err := readFile(path, 511)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(string(head), "#cloud-config") || strings.HasPrefix(strings.ToLower(string(head)), "content-type:") {
		return nil, errUserData
	}
	if len(head) > 262 && string(head[257:262]) == "ustar" {
		return archiveMembers(path)
	}
	return imageMembers(ctx, env, path)
}

func folderMembers(path string) ([]seed.Member, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, fmt.Errorf("reading the folder of seeds: %w", err)
	}
	var all []seed.Member
	for _, entry := range entries {
		if name, _ := seed.NameOf(entry.Name()); name == "" || entry.IsDir() {
			continue
		}
		file := filepath.Join(path, entry.Name())
		data, err := readFile(file, seed.MaxMember)
		if err != nil {
			return nil, fmt.Errorf("reading a seed: %w", err)
		}
		all = append(all, seed.Member{Name: file, Data: data})
	}
	return all, nil
}

func archiveMembers(path string) (all []seed.Member, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if all, err = seed.ReadMembers(f); err != nil {
		return nil, err
	}
	return ours(all)
}

func imageMembers(ctx context.Context, env *Env, path string) (all []seed.Member, err error) {
	image, err := openImage(ctx, env, path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, image.close()) }()
	table, err := media.ReadTable(image, image.size)
	if err != nil {
		return nil, err
	}
	at, err := media.SeedPlace(table)
	if err != nil {
		return nil, err
	}
	all, err = seed.ReadMembers(io.NewSectionReader(image, at.Offset, at.Size))
	if errors.Is(err, seed.Missing) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return ours(all)
}

// ours leaves out the files of an archive that are no seeds. Those that look like one and
// are not read as one, by their whole name, are in the error, media.Problems.
func ours(all []seed.Member) (some []seed.Member, err error) {
	var problems media.Problems
	for _, m := range all {
		switch name, known := seed.NameOf(m.Name); {
		case known:
			some = append(some, m)
		case name != "":
			problems = append(problems, seedProblems((&seed.Set{}).Decode(m.Name, nil), m.Name)...)
		}
	}
	return some, problems.Err()
}

func readUserData(path string) (*seed.Set, error) {
	data, err := readFile(path, cloudinit.MaxUserData)
	if err != nil {
		return nil, err
	}
	set, err := cloudinit.Parse(path, data)
	if errors.Is(err, seed.Missing) {
		return set, nil
	}
	return set, err
}

// seedProblems makes of what package seed says what a person reads. file is the path that
// the person knows.
func seedProblems(err error, file string) (all media.Problems) {
	for _, p := range seedsource.Problems(err) {
		all = append(all, media.Problem{File: file, Line: p.Line, Path: p.Path, Rule: p.Rule, Text: p.Text})
	}
	return all
}

// wrongDocuments puts a heading over all that is wrong; nil stays nil.
func wrongDocuments(path string, err error) error {
	if err == nil {
		return nil
	}
	var problems media.Problems
	if !errors.As(err, &problems) {
		if problems = seedProblems(err, path); len(problems) == 0 {
			return fmt.Errorf("looking into %s: %w", path, err)
		}
	}
	lines := strings.ReplaceAll(problems.Error(), "\n", "\n  ")
	return withTry(&listedError{"the seed is not as a node takes it:\n  " + lines, err}, "mend the files, then run the same command again")
}

type sealFlags struct {
	recipients []string
	passphrase string
	force      bool
}

func seedSealCommand(env *Env) *cobra.Command {
	f := sealFlags{}
	c := &cobra.Command{
		Use:   "seal FILE...",
		Short: "Encrypt documents of a seed, so that a medium gives no secrets away",
		Long: "Encrypt documents of a seed: FILE.age is written beside each FILE, which stays. A document is checked\n" +
			"first. The node needs the key at its first start: see the page \"seal a seed\" of the documentation.",
		Example: "  holdfast seed seal network.yaml --recipient age1...\n  holdfast seed seal incus.yaml services.yaml --passphrase-file passphrase",
		Args: func(c *cobra.Command, given []string) error {
			if len(given) == 0 {
				return usage(c, errors.New("FILE is missing"))
			}
			return nil
		},
	}
	c.Flags().StringArrayVar(&f.recipients, "recipient", nil, "encrypt to this public key of age, as age1...; may be repeated")
	c.Flags().StringVar(&f.passphrase, "passphrase-file", "", "encrypt with the first line of this file")
	c.Flags().BoolVar(&f.force, "force", false, "replace files that are there")
	exclusive(c, "recipient", "passphrase-file")
	c.RunE = func(c *cobra.Command, paths []string) error {
		to, err := f.to(c)
		if err != nil {
			return err
		}
		return sealFiles(env, paths, to, f.force)
	}
	return c
}

func (f sealFlags) to(c *cobra.Command) ([]age.Recipient, error) {
	if len(f.recipients) == 0 && f.passphrase == "" {
		return nil, usage(c, errors.New("--recipient or --passphrase-file is missing"))
	}
	passphrase := ""
	if f.passphrase != "" {
		var err error
		if passphrase, err = firstLine(f.passphrase); err != nil {
			return nil, err
		}
		if passphrase == "" {
			return nil, fmt.Errorf("the first line of %s is empty: it should be the passphrase", f.passphrase)
		}
	}
	return seed.Recipients(f.recipients, passphrase)
}

// sealFiles seals all files or none: the first problem is found before anything is written.
func sealFiles(env *Env, paths []string, to []age.Recipient, force bool) error {
	if _, err := readDocuments(paths); err != nil {
		return err
	}
	sealed := map[string][]byte{}
	for _, path := range paths {
		data, err := readFile(path, seed.MaxMember)
		if err != nil {
			return fmt.Errorf("reading a seed: %w", err)
		}
		m, err := seed.Seal(filepath.Base(path), data, to...)
		if err != nil {
			return err
		}
		target := path + ".age"
		if _, err := os.Lstat(target); !force && !errors.Is(err, fs.ErrNotExist) {
			if err == nil {
				err = fmt.Errorf("%s is there already", target)
			}
			return withTry(err, "--force")
		}
		sealed[target] = m.Data
	}
	for _, path := range paths {
		if err := os.WriteFile(path+".age", sealed[path+".age"], 0o600); err != nil {
			return fmt.Errorf("writing the sealed seed: %w", err)
		}
		if err := write(env.Stdout, []byte("Sealed into "+clean(path)+".age\n")); err != nil {
			return err
		}
	}
	return nil
}

func seedKeygenCommand(env *Env) *cobra.Command {
	return &cobra.Command{
		Use:   "keygen FILE",
		Short: "Make a pair of keys for sealed seeds",
		Long: "Make a pair of keys for sealed seeds. The private one is written to FILE, which must not be there\n" +
			"yet and which nobody else may read; name it " + seedsource.FileKey + " to put it onto a medium labelled " + seedsource.LabelKey + ".\n" +
			"The public one is printed, for holdfast seed seal --recipient.",
		Example: "  holdfast seed keygen " + seedsource.FileKey,
		Args:    args("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			private, public, err := seed.NewKey()
			if err != nil {
				return err
			}
			f, err := os.OpenFile(args[0], os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return fmt.Errorf("writing the private key: %w", err)
			}
			_, err = f.WriteString("# public key: " + public + "\n" + private + "\n")
			if err := errors.Join(err, f.Close()); err != nil {
				return fmt.Errorf("writing the private key: %w", err)
			}
			return write(env.Stdout, []byte(public+"\n"))
		},
	}
}
