package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/client"
)

// maxAudit is the most entries that a node gives at once.
const maxAudit = 1000

func auditCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:   "audit",
		Short: "Show who asked for which change, the oldest entry first",
		Long: "Show who asked for which change, the oldest entry first: every request that changed something\n" +
			"or was refused. --verify has the node look whether its log is whole; a log that is not is an\n" +
			"error.",
		Example: "  holdfast node audit\n  holdfast node audit --since 120 -n 1000 -f json\n  holdfast node audit --verify",
		Args:    args(),
	}
	since := c.Flags().Uint64("since", 0, "only entries behind this number (default the newest)")
	entries := c.Flags().IntP("entries", "n", 50, "at most this many entries, up to 1000")
	verify := c.Flags().Bool("verify", false, "look whether the log is whole, and show no entries")
	out := addFormat(n.env, c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if *entries < 1 || *entries > maxAudit {
			return usage(c, fmt.Errorf("--entries %d: want 1 to %d", *entries, maxAudit))
		}
		if *verify && (c.Flags().Changed("since") || c.Flags().Changed("entries")) {
			return usage(c, errors.New("--verify looks at the whole log: leave --since and --entries out"))
		}
		node, err := n.open()
		if err != nil {
			return err
		}
		defer node.Close()
		if *verify {
			return verifyAudit(c.Context(), out, node)
		}
		query := client.AuditQuery{Since: *since, Limit: *entries}
		if !c.Flags().Changed("since") {
			if query.Since, err = newest(c.Context(), node, *entries); err != nil {
				return err
			}
		}
		answer, err := node.Do(c.Context(), client.Request{Method: http.MethodGet, Path: client.AuditPath, Query: query.Values()})
		if err != nil {
			return err
		}
		return out.print(answer.Metadata, as(auditView))
	}
	return c
}

// newest is the number behind which the newest entries are, that many.
func newest(ctx context.Context, node *client.Client, entries int) (uint64, error) {
	some, err := node.Audit(ctx, client.AuditQuery{Limit: 1})
	if err != nil || some.Last <= uint64(entries) {
		return 0, err
	}
	return some.Last - uint64(entries), nil
}

func auditView(a api.Audit) view {
	t := table{head: []string{"NUMBER", "TIME", "WHO", "FROM", "REQUEST", "CODE", "CHANGE", "ERROR"}}
	for _, e := range a.Entries {
		request, number := e.Method+" "+e.Path, ""
		if e.Query != "" {
			request += "?" + e.Query
		}
		if e.Change > 0 {
			number = strconv.FormatUint(e.Change, 10)
		}
		t.rows = append(t.rows, []string{strconv.FormatUint(e.Number, 10), timeText(e.Time), shorten(e.Who, 24), e.From,
			request, strconv.Itoa(e.Code), number, e.Error})
	}
	v := view{tables: []table{t}}
	if a.Damaged > 0 {
		v.fields = []field{{"Damaged", fmt.Sprintf("%d lines cannot be read: holdfast node audit --verify", a.Damaged)}}
	}
	return v
}

func verifyAudit(ctx context.Context, out *output, node *client.Client) error {
	answer, err := node.Raw(ctx, http.MethodPost, client.AuditPath+"/:verify", nil)
	if err != nil {
		return err
	}
	var found api.AuditVerification
	err = out.print(answer.Metadata, as(func(v api.AuditVerification) view {
		return view{fields: []field{
			{"Whole", yesNo(v.Good)}, {"First entry", strconv.FormatUint(v.First, 10)},
			{"Last good entry", strconv.FormatUint(v.Last, 10)}, {"Its hash", v.LastHash},
		}}
	}))
	if err != nil {
		return err
	}
	if found, err = decoded[api.AuditVerification](answer.Metadata); err != nil || found.Good {
		return err
	}
	return fmt.Errorf("the audit log is broken at entry %d in %s: %s", found.BrokenAt, clean(found.File), clean(found.Reason))
}

// textCommand prints what a node gives as text.
func textCommand(n *connection, use, short string, read func(*client.Client, context.Context) (string, error)) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Example: "  holdfast node " + use, Args: args()}
	c.RunE = func(c *cobra.Command, _ []string) error {
		node, err := n.open()
		if err != nil {
			return err
		}
		defer node.Close()
		text, err := read(node, c.Context())
		if err != nil {
			return err
		}
		return write(n.env.Stdout, []byte(cleanLines(text)))
	}
	return c
}

func bundleCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:   "support-bundle FILE",
		Short: "Write what helps to find a fault into a file (tar, packed with gzip)",
		Long: "Write what helps to find a fault into a file (tar, packed with gzip). The node leaves out what it\n" +
			"knows to be secret; addresses, names and the log are in it, so look before you pass it on.",
		Example: "  holdfast node support-bundle node1.tar.gz",
		Args:    args("FILE"),
	}
	force := c.Flags().Bool("force", false, "replace the file if it is there")
	c.RunE = func(c *cobra.Command, args []string) error {
		file := args[0]
		if _, err := os.Lstat(file); !*force && !errors.Is(err, fs.ErrNotExist) {
			if err == nil {
				err = fmt.Errorf("%s is there already", file)
			}
			return withTry(err, "another name, or --force")
		}
		node, err := n.open()
		if err != nil {
			return err
		}
		defer node.Close()
		if err := writeBundle(c.Context(), node, file); err != nil {
			return fmt.Errorf("writing the support bundle: %w", err)
		}
		_, err = fmt.Fprintf(n.env.Stdout, "The support bundle is in %s\n", clean(file))
		return err
	}
	return c
}

// writeBundle leaves either the whole file or none; only its owner may read it.
func writeBundle(ctx context.Context, node *client.Client, file string) (err error) {
	part, err := os.CreateTemp(filepath.Dir(file), ".support-bundle-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(part.Name()))
		}
	}()
	if err := errors.Join(node.SupportBundle(ctx, part), part.Close()); err != nil {
		return err
	}
	return os.Rename(part.Name(), file)
}
