package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"
	"github.com/spf13/cobra"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/client"
	"github.com/holdfast-os/holdfast/internal/backup"
)

// sealing says to whom a backup is encrypted.
type sealing struct {
	recipient  string
	passphrase string
	force      bool
}

func addSealing(c *cobra.Command) *sealing {
	s := &sealing{}
	c.Flags().StringVar(&s.recipient, "recipient", "", "encrypt to this public key of age, as age1...; the node does it")
	c.Flags().StringVar(&s.passphrase, "passphrase-file", "", "encrypt with the first line of this file; this program does it, and the passphrase is never sent")
	c.Flags().BoolVar(&s.force, "force", false, "replace the file if it is there")
	exclusive(c, "recipient", "passphrase-file")
	return s
}

// exclusive refuses two flags at once.
func exclusive(c *cobra.Command, one, other string) {
	c.PreRunE = func(c *cobra.Command, _ []string) error {
		if c.Flags().Changed(one) && c.Flags().Changed(other) {
			return usage(c, fmt.Errorf("--%s and --%s exclude each other", one, other))
		}
		return nil
	}
}

// post is the body of the request, and to is whom this program encrypts to when the node has
// not.
func (s *sealing) post() (post osapi.BackupPost, to age.Recipient, err error) {
	switch {
	case s.recipient != "":
		post.Recipient = s.recipient
		to, err = backup.ParseRecipient(s.recipient)
	case s.passphrase != "":
		var line string
		if line, err = firstLine(s.passphrase); err == nil {
			to, err = backup.PassphraseRecipient(line)
		}
	}
	return post, to, err
}

// firstLine is a passphrase as a file holds it.
func firstLine(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("reading the passphrase: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(f, backup.MaxPassphrase+2))
	if err = errors.Join(err, f.Close()); err != nil {
		return "", fmt.Errorf("reading the passphrase: %w", err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimSuffix(line, "\r"), nil
}

// save writes a backup to a file that only its owner may read: the whole of it, or none.
func (s *sealing) save(env *Env, file string, to age.Recipient, download func(io.Writer) error) (err error) {
	if _, err := os.Lstat(file); !s.force && !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = fmt.Errorf("%s is there already", file)
		}
		return withTry(err, "another name, or --force")
	}
	part, err := os.CreateTemp(filepath.Dir(file), ".backup-*") // mode 0600
	if err != nil {
		return fmt.Errorf("writing the backup: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(part.Name()))
		}
	}()
	sealed := &sealer{out: &doubles{env: env, w: part}, to: to}
	err = download(sealed)
	if err == nil {
		err = sealed.Close()
	}
	if err == nil {
		err = part.Sync()
	}
	if err = errors.Join(err, part.Close()); err != nil {
		return err
	}
	if err := os.Rename(part.Name(), file); err != nil {
		return fmt.Errorf("writing the backup: %w", err)
	}
	text := fmt.Sprintf("The backup is in %s\n", clean(file))
	if to == nil {
		text += "It has secrets in it, and is not encrypted: keep it where nobody else can read it\n"
	}
	return write(env.Stdout, []byte(text))
}

// sealer encrypts what is written to it, unless the node has done so: one of IncusOS does not
// know how.
type sealer struct {
	out  io.Writer
	to   age.Recipient
	head []byte
	w    io.Writer
	c    io.Closer
}

func (s *sealer) Write(p []byte) (int, error) {
	if s.w == nil {
		if s.head = append(s.head, p...); len(s.head) < backup.HeadSize {
			return len(p), nil
		}
		return len(p), s.begin()
	}
	return s.w.Write(p)
}

func (s *sealer) begin() error {
	s.w = s.out
	if s.to != nil && !backup.IsEncrypted(s.head) {
		w, err := backup.Encrypt(s.out, s.to)
		if err != nil {
			return err
		}
		s.w, s.c = w, w
	}
	_, err := s.w.Write(s.head)
	s.head = nil
	return err
}

func (s *sealer) Close() error {
	if s.w == nil {
		return errors.New("the node's backup is empty")
	}
	if s.c == nil {
		return nil
	}
	return s.c.Close()
}

// opening says how an encrypted backup is opened.
type opening struct {
	env        *Env
	passphrase string
	identity   string
	dryRun     bool
}

func addOpening(env *Env, c *cobra.Command) *opening {
	o := &opening{env: env}
	c.Flags().StringVar(&o.passphrase, "passphrase-file", "", "decrypt with the first line of this file")
	c.Flags().StringVar(&o.identity, "identity", "", "decrypt with the private keys of age in this file")
	c.Flags().BoolVar(&o.dryRun, "dry-run", false, "change nothing, show what would be done")
	exclusive(c, "passphrase-file", "identity")
	return o
}

// open gives the archive in a file, decrypted. what is said of each tenth of a large one that
// was read, as "sent".
func (o *opening) open(file *os.File, what string) (io.Reader, error) {
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("reading the backup: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading the backup: %w", err)
	}
	in := bufio.NewReaderSize(&tenths{env: o.env, what: what, r: file, total: info.Size()}, 1<<20)
	head, err := in.Peek(backup.HeadSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading the backup: %w", err)
	}
	if !backup.IsEncrypted(head) {
		return in, nil
	}
	with, err := o.identities()
	if err != nil {
		return nil, err
	}
	return backup.Decrypt(in, with...)
}

func (o *opening) identities() ([]age.Identity, error) {
	switch {
	case o.passphrase != "":
		line, err := firstLine(o.passphrase)
		if err != nil {
			return nil, err
		}
		identity, err := backup.PassphraseIdentity(line)
		return []age.Identity{identity}, err
	case o.identity != "":
		f, err := os.Open(o.identity)
		if err != nil {
			return nil, fmt.Errorf("reading the private keys of age: %w", err)
		}
		defer f.Close()
		return backup.ParseIdentities(io.LimitReader(f, 1<<20))
	}
	return nil, withTry(errors.New("the backup is encrypted"), "--passphrase-file FILE or --identity FILE")
}

func systemBackupCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:   "backup FILE",
		Short: "Write what the node keeps into a file: configuration, history, keys",
		Long: "Write what the node keeps into a file: its configuration, the history of it, and its keys. The data\n" +
			"of applications is in backups of their own. Whoever has the file and the disks has the node: encrypt it.",
		Example: "  holdfast node system backup node1.backup --passphrase-file passphrase\n" +
			"  holdfast node system backup node1.backup --recipient age1...\n  holdfast node system backup node1.tar.gz",
		Args: args("FILE"),
	}
	s := addSealing(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		post, to, err := s.post()
		if err != nil {
			return err
		}
		node, err := n.open()
		if err != nil {
			return err
		}
		defer node.Close()
		return s.save(n.env, args[0], to, func(w io.Writer) error { return node.BackupSystem(c.Context(), post, w) })
	}
	return c
}

func applicationBackupCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:   "backup APPLICATION FILE",
		Short: "Write the data of an application into a file",
		Long: "Write the data of an application into a file, while it runs. Of incus that is its database,\n" +
			"certificates and settings; instances and images lie in storage pools and are not in it.",
		Example:           "  holdfast node application backup incus incus.backup --passphrase-file passphrase",
		Args:              args("APPLICATION", "FILE"),
		ValidArgsFunction: n.completeApplications,
	}
	s := addSealing(c)
	complete := c.Flags().Bool("complete", false, "also what the application can fetch or make again")
	c.RunE = func(c *cobra.Command, args []string) error {
		post, to, err := s.post()
		if err != nil {
			return err
		}
		post.Complete = *complete
		node, err := n.open()
		if err != nil {
			return err
		}
		defer node.Close()
		return s.save(n.env, args[1], to, func(w io.Writer) error {
			return explainApplication(node.BackupApplication(c.Context(), args[0], post, w), args[0])
		})
	}
	return c
}

// agree shows a plan and asks; with force it does neither.
func agree(n *connection, force bool, question string, plan func() (osapi.Plan, error)) error {
	if force {
		return nil
	}
	if err := showPlan(n, plan); err != nil {
		return err
	}
	return ask(n.env, "%s", []string{question})
}

func showPlan(n *connection, plan func() (osapi.Plan, error)) error {
	p, err := plan()
	if err != nil {
		return err
	}
	return write(n.env.Stdout, []byte(planText(p, colours(n.env))))
}

func systemRestoreCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:   "restore FILE",
		Short: "Make the node what a backup says; it restarts",
		Long: "Make the node what a backup says; it restarts. The archive is checked here and on the node before\n" +
			"anything is changed, and the plan is shown before you are asked. On another machine leave out what\n" +
			"belongs to the old one: --skip local-data-encryption-key,network-macs. Cards with other names than there\n" +
			"are named with --card, or --skip network keeps the node's own network.",
		Example: "  holdfast node system restore node1.backup --passphrase-file passphrase --dry-run\n" +
			"  holdfast node system restore node1.backup --passphrase-file passphrase --skip network-macs\n" +
			"  holdfast node system restore node1.backup --skip local-data-encryption-key --card eno1=enp1s0 --card eno2=enp2s0",
		Args: args("FILE"),
	}
	o := addOpening(n.env, c)
	force := c.Flags().Bool("force", false, "do not ask")
	skip := c.Flags().StringSliceP("skip", "s", nil, "what to leave out: "+strings.Join(backup.Skips, ", "))
	cards := c.Flags().StringSlice("card", nil, "OLD=NEW: the card NEW of the node for OLD of the backup's machine, each by name or MAC address; may be repeated")
	c.RunE = func(c *cobra.Command, args []string) error {
		if _, err := backup.ParseChoice(strings.Join(*skip, ","), strings.Join(*cards, ",")); err != nil {
			return usage(c, err)
		}
		archive, err := o.system(c.Context(), args[0])
		if err != nil {
			return err
		}
		node, err := n.open()
		if err != nil {
			return err
		}
		defer node.Close()
		plan := func() (osapi.Plan, error) {
			return node.PlanRestoreSystem(c.Context(), bytes.NewReader(archive), *skip, *cards)
		}
		if o.dryRun {
			return showPlan(n, plan)
		}
		if err := agree(n, *force, "Restore this backup and restart the node?", plan); err != nil {
			return err
		}
		if err := node.RestoreSystem(c.Context(), bytes.NewReader(archive), *skip, *cards); err != nil {
			return err
		}
		return write(n.env.Stdout, []byte("The node is restarting into the restored state\n"))
	}
	return c
}

// system reads a backup of a node and checks it.
func (o *opening) system(ctx context.Context, file string) (archive []byte, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("reading the backup: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	in, err := o.open(f, "checked")
	if err != nil {
		return nil, err
	}
	if archive, err = io.ReadAll(io.LimitReader(in, backup.SystemLimits.Packed+1)); err != nil {
		return nil, fmt.Errorf("reading the backup: %w", err)
	}
	_, err = backup.ReadSystem(ctx, bytes.NewReader(archive))
	return archive, err
}

func applicationRestoreCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:   "restore APPLICATION FILE",
		Short: "Put the data of a backup in the place of an application's",
		Long: "Put the data of a backup in the place of an application's. The archive is checked here and on the\n" +
			"node before anything is changed. The application restarts; when it does not start with that data it\n" +
			"gets back what it had.",
		Example:           "  holdfast node application restore incus incus.backup --passphrase-file passphrase",
		Args:              args("APPLICATION", "FILE"),
		ValidArgsFunction: n.completeApplications,
	}
	o := addOpening(n.env, c)
	force := c.Flags().Bool("force", false, "do not ask")
	c.RunE = func(c *cobra.Command, args []string) (err error) {
		f, err := os.Open(args[1])
		if err != nil {
			return fmt.Errorf("reading the backup: %w", err)
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		if err := o.check(c.Context(), f, args[0]); err != nil {
			return err
		}
		node, err := n.open()
		if err != nil {
			return err
		}
		defer node.Close()
		return n.restoreApplication(c, node, o, f, args[0], *force)
	}
	return c
}

func (n *connection) restoreApplication(c *cobra.Command, node *client.Client, o *opening, f *os.File, name string, force bool) error {
	plan := func() (osapi.Plan, error) {
		in, err := o.open(f, "sent")
		if err != nil {
			return osapi.Plan{}, err
		}
		p, err := node.PlanRestoreApplication(c.Context(), name, in)
		return p, explainApplication(err, name)
	}
	if o.dryRun {
		return showPlan(n, plan)
	}
	// The archive may be large: what it would do is the same each time.
	if !force {
		if err := ask(n.env, "Stop the application %s and replace its data with that of the backup?", []string{name}); err != nil {
			return err
		}
	}
	in, err := o.open(f, "sent")
	if err != nil {
		return err
	}
	if err := node.RestoreApplication(c.Context(), name, in); err != nil {
		return explainApplication(err, name)
	}
	return write(n.env.Stdout, fmt.Appendf(nil, "The application %s restarts with the restored data; see holdfast node operation list\n", clean(name)))
}

// check reads an archive of an application once, before it is sent.
func (o *opening) check(ctx context.Context, f *os.File, name string) error {
	data, known := backup.DataOf(name)
	if !known {
		return nil // the node may know better
	}
	in, err := o.open(f, "checked")
	if err != nil {
		return err
	}
	found, err := backup.Scan(ctx, in, data.Rules(), nil)
	if err != nil {
		return err
	}
	return backup.CheckManifest(found.Manifest, backup.KindApplication, name)
}
