package cli

import (
	"context"
	"encoding/json"
	"path"

	"github.com/spf13/cobra"

	"github.com/holdfast-os/holdfast/client"
)

func systemCommand(n *connection) *cobra.Command {
	list := showCommand(n, "show", "List the parts of the system", "/1.0/system", as(systemView))
	list.Example = "  holdfast node system show"
	c := group("system", "Look at and change the node's system",
		"  holdfast node system storage show\n  holdfast node system update check\n  holdfast node system reboot --force",
		list,
		systemPart(n, "security", "The chain of trust, and the recovery keys", as(securityView), retrievedCommand(n)),
		systemPart(n, "storage", "Drives and pools", as(storageView)),
		systemPart(n, "network", "The network: what was asked for and what came of it", as(networkView)),
		systemPart(n, "resources", "The hardware", asPaths),
		systemPart(n, "update", "How the node updates itself", as(updateView), editCommand(n, "update"), updateCheckCommand(n)),
		systemPart(n, "provider", "Where releases come from", as(providerView), editCommand(n, "provider")),
		powerCommand(n, "poweroff", "Switch the node off", "Switch the node off?", "The node is switching off",
			(*client.Client).PowerOff),
		powerCommand(n, "reboot", "Restart the node", "Restart the node?", "The node is restarting",
			(*client.Client).Reboot),
		powerCommand(n, "suspend", "Send the node to sleep", "Send the node to sleep?", "The node is going to sleep",
			(*client.Client).Suspend))
	return c
}

// systemPart is the group of one part of the system: show, and what else it can do.
func systemPart(n *connection, name, short string, toView func(json.RawMessage) (view, error), more ...*cobra.Command) *cobra.Command {
	show := showCommand(n, "show", "Show: "+short, "/1.0/system/"+name, toView)
	show.Example = "  holdfast node system " + name + " show\n  holdfast node system " + name + " show -f yaml"
	return group(name, short, "  holdfast node system "+name+" show", append(more, show)...)
}

func systemView(urls []string) view {
	t := table{head: []string{"NAME"}}
	for _, u := range urls {
		t.rows = append(t.rows, []string{path.Base(u)})
	}
	return view{tables: []table{t}}
}

func editCommand(n *connection, name string) *cobra.Command {
	c := &cobra.Command{
		Use:   "edit",
		Short: "Change the configuration, in $EDITOR or from standard input",
		Example: "  holdfast node system " + name + " edit\n  holdfast node system " + name + " edit < " + name +
			".yaml",
		Args: args(),
	}
	c.RunE = func(c *cobra.Command, _ []string) error { return n.edit(c, "/1.0/system/"+name) }
	return c
}

func updateCheckCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:     "check",
		Short:   "Look for updates now",
		Example: "  holdfast node system update check\n  holdfast node system update check --os-only",
		Args:    args(),
	}
	osOnly := c.Flags().Bool("os-only", false, "leave the applications alone, and wait for the end")
	return actCommand(n, c, "The node has been asked to look for updates", func(c *cobra.Command, node *client.Client, _ []string) error {
		return node.CheckUpdate(c.Context(), *osOnly)
	})
}

func retrievedCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:     "retrieved",
		Short:   "Tell the node that its recovery keys are kept elsewhere",
		Example: "  holdfast node system security show -f yaml > keys.yaml\n  holdfast node system security retrieved",
		Args:    args(),
	}
	return actCommand(n, c, "The recovery keys are marked as retrieved", func(c *cobra.Command, node *client.Client, _ []string) error {
		return node.SecurityRetrieved(c.Context())
	})
}

func powerCommand(n *connection, use, short, question, done string, act func(*client.Client, context.Context) error) *cobra.Command {
	c := &cobra.Command{
		Use:     use,
		Short:   short,
		Example: "  holdfast node system " + use + "\n  holdfast node system " + use + " --force",
		Args:    args(),
	}
	c = actCommand(n, c, done, func(c *cobra.Command, node *client.Client, _ []string) error {
		return act(node, c.Context())
	})
	return confirmed(n.env, c, question)
}
