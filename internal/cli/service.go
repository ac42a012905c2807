package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/holdfast-os/holdfast/client"
)

func serviceCommand(n *connection) *cobra.Command {
	c := group("service", "The services of a node, as iscsi or ovn",
		"  holdfast node service list\n  holdfast node service show iscsi",
		serviceListCommand(n), serviceShowCommand(n), serviceEditCommand(n), serviceResetCommand(n))
	c.Aliases = []string{"services"}
	return c
}

func serviceNames(ctx context.Context, node *client.Client) ([]string, error) {
	return node.Services(ctx)
}

// listedService is one line of the list.
type listedService struct {
	Name   string `json:"name"`
	Config struct {
		Enabled bool `json:"enabled"`
	} `json:"config"`
}

func serviceListCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:     "list",
		Short:   "List the services, and whether they are on",
		Example: "  holdfast node service list",
		Args:    args(),
	}
	out := addFormat(n.env, c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		node, err := n.open()
		if err != nil {
			return err
		}
		defer node.Close()
		names, err := node.Services(c.Context())
		if err != nil {
			return err
		}
		list := make([]listedService, len(names))
		for i, name := range names {
			raw, _, err := node.Service(c.Context(), name)
			if err != nil {
				return err
			}
			if list[i], err = decoded[listedService](raw); err != nil {
				return fmt.Errorf("service %s: %w", name, err)
			}
			list[i].Name = name
		}
		raw, err := json.Marshal(list)
		if err != nil {
			return fmt.Errorf("encoding the list: %w", err)
		}
		return out.print(raw, as(servicesView))
	}
	return c
}

func servicesView(list []listedService) view {
	t := table{head: []string{"NAME", "ENABLED"}}
	for _, s := range list {
		t.rows = append(t.rows, []string{s.Name, yesNo(s.Config.Enabled)})
	}
	return view{tables: []table{t}}
}

func serviceShowCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:               "show SERVICE",
		Short:             "Show one service",
		Example:           "  holdfast node service show iscsi\n  holdfast node service show iscsi -f yaml",
		Args:              args("SERVICE"),
		ValidArgsFunction: n.complete(1, serviceNames),
	}
	out := addFormat(n.env, c)
	c.RunE = func(c *cobra.Command, args []string) error {
		node, err := n.open()
		if err != nil {
			return err
		}
		defer node.Close()
		raw, _, err := node.Service(c.Context(), args[0])
		if err != nil {
			return explainService(err, args[0])
		}
		return out.print(raw, asPaths)
	}
	return c
}

func serviceEditCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:   "edit SERVICE",
		Short: "Change the configuration of a service, in $EDITOR or from standard input",
		Long: "Change the configuration of a service, in $EDITOR or from standard input. --dry-run and\n" +
			"--confirm-within are as those of `holdfast node system SECTION edit`.",
		Example: "  holdfast node service edit iscsi\n  holdfast node service edit iscsi --dry-run < iscsi.yaml\n" +
			"  echo 'config: {enabled: true, targets: []}' | holdfast node service edit iscsi",
		Args:              args("SERVICE"),
		ValidArgsFunction: n.complete(1, serviceNames),
	}
	flags := addChangeFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		path, err := client.ServicePath(args[0])
		if err != nil {
			return usage(c, err)
		}
		return explainService(n.edit(c, path, flags), args[0])
	}
	return c
}

func serviceResetCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:               "reset SERVICE",
		Short:             "Start a service anew; its configuration stays",
		Example:           "  holdfast node service reset lvm",
		Args:              args("SERVICE"),
		ValidArgsFunction: n.complete(1, serviceNames),
	}
	c = actCommand(n, c, "Service %s is started anew", func(c *cobra.Command, node *client.Client, args []string) error {
		return explainService(node.ResetService(c.Context(), args[0]), args[0])
	})
	return confirmed(n.env, c, "Start service %s anew? What uses it is interrupted.")
}

// explainService points to the list when the name is not known.
func explainService(err error, name string) error {
	if client.IsCode(err, http.StatusNotFound) {
		return withTry(fmt.Errorf("service %q: %w", name, err), "holdfast node service list")
	}
	return err
}
