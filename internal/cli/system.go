package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"path"

	"github.com/spf13/cobra"

	"github.com/holdfast-os/holdfast/client"
)

func systemCommand(n *connection) *cobra.Command {
	list := showCommand(n, "show", "List the parts of the system", "/1.0/system", as(systemView))
	list.Example = "  holdfast node system show"
	edit := func(name string) *cobra.Command { return editCommand(n, name) }
	c := group("system", "Look at and change the node's system",
		"  holdfast node system storage show\n  holdfast node system update check\n  holdfast node system reboot --force",
		list,
		systemPart(n, client.SectionSecurity, "The chain of trust, and the recovery keys", as(securityView),
			edit(client.SectionSecurity), retrievedCommand(n), rebindCommand(n)),
		systemPart(n, "storage", "Drives and pools", as(storageView)),
		systemPart(n, client.SectionNetwork, "The network: what was asked for and what came of it", as(networkView),
			edit(client.SectionNetwork), networkConfirmCommand(n), flushDNSCommand(n)),
		systemPart(n, client.SectionKernel, "The kernel: modules, memory, network and devices for virtual machines", asPaths,
			edit(client.SectionKernel)),
		systemPart(n, client.SectionLogging, "Where the log goes besides the node's own disk", as(loggingView),
			edit(client.SectionLogging)),
		systemPart(n, client.SectionFallbackListener, "The second way to the API", as(listenerView),
			edit(client.SectionFallbackListener)),
		systemPart(n, "resources", "The hardware", asPaths),
		systemPart(n, client.SectionUpdate, "How the node updates itself", as(updateView),
			edit(client.SectionUpdate), updateCheckCommand(n)),
		systemPart(n, client.SectionProvider, "Where releases come from", as(providerView), edit(client.SectionProvider)),
		systemBackupCommand(n), systemRestoreCommand(n), systemResetCommand(n),
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
		Long: "Change the configuration, in $EDITOR or from standard input. What is written replaces the whole\n" +
			"configuration of the section. --dry-run shows what would be done. With --confirm-within the\n" +
			"change goes back by itself unless `holdfast node config confirm` is called in time.",
		Example: fmt.Sprintf("  holdfast node system %[1]s edit\n  holdfast node system %[1]s edit --dry-run < %[1]s.yaml\n"+
			"  holdfast node system %[1]s edit --confirm-within 2m < %[1]s.yaml", name),
		Args: args(),
	}
	flags := addChangeFlags(c)
	c.RunE = func(c *cobra.Command, _ []string) error { return n.edit(c, client.SectionPath(name), flags) }
	return c
}

func networkConfirmCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:     "confirm",
		Short:   "Keep the change that waits to be confirmed, as `config confirm` does",
		Example: "  holdfast node system network confirm",
		Args:    args(),
	}
	return actCommand(n, c, "The change is kept", func(c *cobra.Command, node *client.Client, _ []string) error {
		return explainPending(node.ConfirmNetwork(c.Context()))
	})
}

func flushDNSCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:     "flush-dns",
		Short:   "Forget what names resolve to",
		Example: "  holdfast node system network flush-dns",
		Args:    args(),
	}
	return actCommand(n, c, "The node asks for names anew", func(c *cobra.Command, node *client.Client, _ []string) error {
		return node.FlushDNS(c.Context())
	})
}

func rebindCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:   "tpm-rebind",
		Short: "Bind the encrypted volumes to the TPM as it is now",
		Long: "Bind the encrypted volumes to the TPM as it is now, after a start with the recovery key. Do so only\n" +
			"when you know why the TPM did not open the volumes, as after a change in the firmware.",
		Example: "  holdfast node system security tpm-rebind",
		Args:    args(),
	}
	c = actCommand(n, c, "The volumes are bound to the TPM", func(c *cobra.Command, node *client.Client, _ []string) error {
		return node.RebindTPM(c.Context())
	})
	return confirmed(n.env, c, "Trust the machine as it is now, and bind its volumes to the TPM?")
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
