package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/client"
)

func operationCommand(n *connection) *cobra.Command {
	return group("operation", "What goes on behind the answers of a node",
		"  holdfast node operation list\n  holdfast node operation wait 1e0b4c39-8d29-4d0b-9a58-6f0a8a1f3c11",
		operationListCommand(n), operationShowCommand(n), operationWaitCommand(n), operationCancelCommand(n))
}

func operationListCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:     "list",
		Short:   "List what goes on, and what ended a short while ago",
		Example: "  holdfast node operation list",
		Args:    args(),
	}
	out := addFormat(n.env, c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		node, err := n.open()
		if err != nil {
			return err
		}
		defer node.Close()
		list, err := node.Operations(c.Context())
		if err != nil {
			return err
		}
		raw, err := json.Marshal(list)
		if err != nil {
			return fmt.Errorf("encoding the list: %w", err)
		}
		return out.print(raw, as(operationsView))
	}
	return c
}

func operationsView(list []os.Operation) view {
	t := table{head: []string{"ID", "DESCRIPTION", "STATUS", "PROGRESS", "SINCE", "CANCELLABLE"}}
	for _, o := range list {
		t.rows = append(t.rows, []string{o.ID, o.Description, o.Status, progressText(o.Metadata.Progress),
			timeText(o.CreatedAt), yesNo(o.MayCancel)})
	}
	return view{tables: []table{t}}
}

// progressText is how far an operation is, as "download 45%: image.raw".
func progressText(p *os.OperationProgress) string {
	if p == nil {
		return ""
	}
	text := p.Stage
	if p.Total > 0 {
		// In floating point, since sizes in bytes times 100 may not fit.
		text += fmt.Sprintf(" %d%%", int(100*float64(p.Done)/float64(p.Total)))
	}
	if p.Text != "" {
		text += ": " + p.Text
	}
	return strings.TrimSpace(text)
}

func operationView(o os.Operation) view {
	v := view{fields: []field{
		{"ID", o.ID}, {"Description", o.Description}, {"Status", o.Status},
		{"Progress", progressText(o.Metadata.Progress)}, {"Error", o.Err},
		{"Created", timeText(o.CreatedAt)}, {"Updated", timeText(o.UpdatedAt)}, {"Can be cancelled", yesNo(o.MayCancel)},
	}}
	t := table{title: "Works on", head: []string{"KIND", "PATH"}}
	for _, kind := range slices.Sorted(maps.Keys(o.Resources)) {
		for _, p := range o.Resources[kind] {
			t.rows = append(t.rows, []string{kind, p})
		}
	}
	if len(t.rows) > 0 {
		v.tables = []table{t}
	}
	return v
}

func operationShowCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:               "show ID",
		Short:             "Show one operation",
		Example:           "  holdfast node operation show 1e0b4c39-8d29-4d0b-9a58-6f0a8a1f3c11",
		Args:              args("ID"),
		ValidArgsFunction: n.complete(1, operationIDs),
	}
	out := addFormat(n.env, c)
	c.RunE = func(c *cobra.Command, args []string) error {
		path, err := client.OperationPath(args[0])
		if err != nil {
			return usage(c, err)
		}
		node, err := n.open()
		if err != nil {
			return err
		}
		defer node.Close()
		answer, err := node.Raw(c.Context(), http.MethodGet, path, nil)
		if err != nil {
			return explainOperation(err)
		}
		return out.print(answer.Metadata, as(operationView))
	}
	return c
}

func operationWaitCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:               "wait ID",
		Short:             "Wait until an operation has ended; exit code 1 unless it ended well",
		Example:           "  holdfast node operation wait 1e0b4c39-8d29-4d0b-9a58-6f0a8a1f3c11 --timeout 10m",
		Args:              args("ID"),
		ValidArgsFunction: n.complete(1, operationIDs),
	}
	timeout := c.Flags().Duration("timeout", 0, "wait no longer than this, as 10m; the operation goes on (default without limit)")
	c.RunE = func(c *cobra.Command, args []string) error {
		if _, err := client.OperationPath(args[0]); err != nil {
			return usage(c, err)
		}
		if *timeout < 0 {
			return usage(c, fmt.Errorf("--timeout %s: less than nothing", *timeout))
		}
		node, err := n.open()
		if err != nil {
			return err
		}
		defer node.Close()
		ctx, cancel := withTimeout(c.Context(), *timeout)
		defer cancel()
		operation, err := node.WaitOperation(ctx, args[0])
		switch {
		case err != nil && ctx.Err() != nil && c.Context().Err() == nil:
			return withTry(fmt.Errorf("operation %s has not ended within %s, and goes on", args[0], shortDuration(*timeout)),
				"holdfast node operation show "+args[0])
		case err != nil:
			return explainOperation(err)
		case operation.StatusCode != os.OperationSuccess:
			return &client.OperationError{Operation: operation}
		}
		_, err = fmt.Fprintf(n.env.Stdout, "%s: %s\n", clean(operation.Description), clean(operation.Status))
		return err
	}
	return c
}

// withTimeout is context.WithTimeout where 0 is no limit.
func withTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if d == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, d)
}

func operationCancelCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:               "cancel ID",
		Short:             "Ask an operation to end",
		Example:           "  holdfast node operation cancel 1e0b4c39-8d29-4d0b-9a58-6f0a8a1f3c11",
		Args:              args("ID"),
		ValidArgsFunction: n.complete(1, operationIDs),
	}
	return actCommand(n, c, "Operation %s is asked to end", func(c *cobra.Command, node *client.Client, args []string) error {
		return explainOperation(node.CancelOperation(c.Context(), args[0]))
	})
}

// explainOperation points to the list when the operation is not known.
func explainOperation(err error) error {
	if client.IsCode(err, http.StatusNotFound) {
		return withTry(err, "holdfast node operation list")
	}
	return err
}

func operationIDs(ctx context.Context, node *client.Client) ([]string, error) {
	list, err := node.Operations(ctx)
	var ids []string
	for _, o := range list {
		ids = append(ids, o.ID+"\t"+clean(o.Description))
	}
	return ids, err
}
