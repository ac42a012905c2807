package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/client"
)

func applicationCommand(n *connection) *cobra.Command {
	c := group("application", "Manage the applications of a node",
		"  holdfast node application list\n  holdfast node application add incus",
		applicationListCommand(n), applicationShowCommand(n), applicationAddCommand(n), applicationEditCommand(n),
		applicationRestartCommand(n), applicationRemoveCommand(n), applicationCheckCommand(n), applicationSwitchCommand(n), applicationBackupCommand(n), applicationRestoreCommand(n), applicationResetCommand(n))
	c.Aliases = []string{"applications", "app"}
	return c
}

// listedApplication is one line of the list: the API's struct with its name.
type listedApplication struct {
	Name string `json:"name"`
	os.Application
}

func applicationListCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:     "list",
		Short:   "List the installed applications",
		Example: "  holdfast node application list\n  holdfast node application list -f csv",
		Args:    args(),
	}
	out := addFormat(n.env, c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		node, err := n.open()
		if err != nil {
			return err
		}
		defer node.Close()
		names, err := node.Applications(c.Context())
		if err != nil {
			return err
		}
		list := make([]listedApplication, len(names))
		for i, name := range names {
			list[i].Name = name
			if list[i].Application, _, err = node.Application(c.Context(), name); err != nil {
				return err
			}
		}
		raw, err := json.Marshal(list)
		if err != nil {
			return fmt.Errorf("encoding the list: %w", err)
		}
		return out.print(raw, as(applicationsView))
	}
	return c
}

func applicationsView(list []listedApplication) view {
	t := table{head: []string{"NAME", "VERSION", "PRIMARY", "INITIALIZED"}}
	for _, a := range list {
		t.rows = append(t.rows, []string{a.Name, a.State.Version, yesNo(a.State.IsPrimary), yesNo(a.State.Initialized)})
	}
	return view{tables: []table{t}}
}

func applicationShowCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:               "show APPLICATION",
		Short:             "Show one application",
		Example:           "  holdfast node application show incus\n  holdfast node application show incus -f yaml",
		Args:              args("APPLICATION"),
		ValidArgsFunction: n.completeApplications,
	}
	out := addFormat(n.env, c)
	c.RunE = func(c *cobra.Command, args []string) error {
		node, err := n.open()
		if err != nil {
			return err
		}
		defer node.Close()
		path, err := client.ApplicationPath(args[0])
		if err != nil {
			return err
		}
		answer, err := node.Raw(c.Context(), http.MethodGet, path, nil)
		if err != nil {
			return explainApplication(err, args[0])
		}
		return out.print(answer.Metadata, as(func(a os.Application) view { return applicationView(args[0], a) }))
	}
	return c
}

func applicationView(name string, a os.Application) view {
	v := view{fields: []field{
		{"Name", name},
		{"Version", a.State.Version},
		{"Program", a.State.FriendlyVersion},
		{"On disk", strings.Join(a.State.AvailableVersions, ", ")},
		{"Primary", yesNo(a.State.IsPrimary)},
		{"Initialized", yesNo(a.State.Initialized)},
	}}
	if a.State.LastRestored != nil {
		v.fields = append(v.fields, field{"Last restored", timeText(*a.State.LastRestored)})
	}
	if l := a.Config.LXCFS; l != nil {
		v.fields = append(v.fields,
			field{"LXCFS CPU shares", yesNo(l.CPUShares)}, field{"LXCFS load average", yesNo(l.LoadAverage)})
	}
	return v
}

func applicationAddCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:     "add APPLICATION",
		Short:   "Install an application, and wait until it runs",
		Example: "  holdfast node application add incus",
		Args:    args("APPLICATION"),
	}
	return actCommand(n, c, "Application %s is installed", func(c *cobra.Command, node *client.Client, args []string) error {
		err := node.AddApplication(c.Context(), args[0])
		if client.IsCode(err, http.StatusConflict) {
			return withTry(err, "holdfast node application show "+args[0])
		}
		return explainApplication(err, args[0])
	})
}

func applicationEditCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:   "edit APPLICATION",
		Short: "Change the configuration of an application",
		Example: "  holdfast node application edit incus\n" +
			"  echo 'config: {lxcfs: {load_average: true}}' | holdfast node application edit incus",
		Args:              args("APPLICATION"),
		ValidArgsFunction: n.completeApplications,
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		path, err := client.ApplicationPath(args[0])
		if err != nil {
			return err
		}
		return n.edit(c, path, &changeFlags{})
	}
	return c
}

func applicationRestartCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:               "restart APPLICATION",
		Short:             "Restart an application",
		Example:           "  holdfast node application restart incus",
		Args:              args("APPLICATION"),
		ValidArgsFunction: n.completeApplications,
	}
	c = actCommand(n, c, "Application %s is being restarted", onApplication((*client.Client).RestartApplication))
	return confirmed(n.env, c, "Restart application %s?")
}

func applicationRemoveCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:               "remove APPLICATION",
		Short:             "Remove an application",
		Example:           "  holdfast node application remove debug --force",
		Args:              args("APPLICATION"),
		ValidArgsFunction: n.completeApplications,
	}
	c = actCommand(n, c, "Application %s is removed", onApplication((*client.Client).RemoveApplication))
	return confirmed(n.env, c, "Remove application %s?")
}

func applicationSwitchCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:   "switch-version APPLICATION [VERSION]",
		Short: "Go to another version of an application that the node has, by default the one before",
		Long: "Go to another version of an application that the node has, by default the newest that is\n" +
			"older than the one that runs. It stays there until a newer release comes.",
		Example:           "  holdfast node application switch-version incus\n  holdfast node application switch-version incus 202611220104",
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: n.completeApplications,
	}
	return actCommand(n, c, "The node switches %s", func(c *cobra.Command, node *client.Client, args []string) error {
		return node.SwitchApplication(c.Context(), args[0], strings.Join(args[1:], ""))
	})
}

func applicationCheckCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:               "check-update APPLICATION",
		Short:             "Look for a newer version of an application, and take it",
		Example:           "  holdfast node application check-update incus",
		Args:              args("APPLICATION"),
		ValidArgsFunction: n.completeApplications,
	}
	return actCommand(n, c, "The node looks for a newer version of %s", onApplication((*client.Client).CheckApplication))
}

func onApplication(act func(*client.Client, context.Context, string) error) func(*cobra.Command, *client.Client, []string) error {
	return func(c *cobra.Command, node *client.Client, args []string) error {
		return explainApplication(act(node, c.Context(), args[0]), args[0])
	}
}

// explainApplication points to the list when the name is not known.
func explainApplication(err error, name string) error {
	if client.IsCode(err, http.StatusNotFound) {
		return withTry(fmt.Errorf("application %q: %w", name, err), "holdfast node application list")
	}
	return err
}

// completeApplications offers the names of the installed applications to the shell.
func (n *connection) completeApplications(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	node, err := n.open()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	defer node.Close()
	names, err := node.Applications(c.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
