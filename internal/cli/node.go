package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/client"
)

func nodeCommand(env *Env) *cobra.Command {
	n := &connection{env: env}
	c := group("node", "Look at and change one node",
		"  holdfast node show\n  holdfast node application list --lab default",
		nodeShowCommand(n), applicationCommand(n), serviceCommand(n), systemCommand(n), configCommand(n), historyCommand(n), updateCommand(n),
		operationCommand(n), monitorCommand(n), logCommand(n), auditCommand(n), debugCommand(n), bundleCommand(n),
		textCommand(n, "metrics", "Show the node's counters, as Prometheus reads them", (*client.Client).Metrics),
		textCommand(n, "openapi", "Show the node's own description of its API (OpenAPI, YAML)", (*client.Client).OpenAPI))
	n.addFlags(c)
	return c
}

// showCommand reads one path and prints it.
func showCommand(n *connection, use, short, path string, toView func(json.RawMessage) (view, error)) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: args()}
	out := addFormat(n.env, c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		node, err := n.open()
		if err != nil {
			return err
		}
		defer node.Close()
		answer, err := node.Raw(c.Context(), http.MethodGet, path, nil)
		if err != nil {
			return err
		}
		return out.print(answer.Metadata, toView)
	}
	return c
}

// actCommand does one thing to the node and says what was asked for.
func actCommand(n *connection, c *cobra.Command, done string, act func(*cobra.Command, *client.Client, []string) error) *cobra.Command {
	c.RunE = func(c *cobra.Command, args []string) error {
		node, err := n.open()
		if err != nil {
			return err
		}
		defer node.Close()
		if err := act(c, node, args); err != nil {
			return err
		}
		words := []any{}
		for _, a := range args[:min(len(args), strings.Count(done, "%s"))] {
			words = append(words, clean(a))
		}
		_, err = fmt.Fprintf(n.env.Stdout, done+"\n", words...)
		return err
	}
	return c
}

func nodeShowCommand(n *connection) *cobra.Command {
	c := showCommand(n, "show", "Show the node's name, release and whether it is ready", "/1.0", as(serverView))
	c.Example = "  holdfast node show\n  holdfast node show -f json"
	return c
}

func serverView(s os.Server) view {
	e := s.Environment
	return view{fields: []field{
		{"Hostname", e.Hostname},
		{"Machine ID", e.MachineID},
		{"System", e.OSName + " " + e.OSVersion},
		{"After reboot", e.OSVersionNext},
		{"Other slot", e.OSVersionAlternate},
		{"Ready", yesNo(e.SystemIsReady)},
		{"Uptime", (time.Duration(e.Uptime) * time.Second).String()},
	}}
}
