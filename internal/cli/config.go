package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/client"
)

func configCommand(n *connection) *cobra.Command {
	return group("config", "The whole configuration of a node as one document",
		"  holdfast node config get > node.yaml\n  holdfast node config diff node.yaml\n  holdfast node config try node.yaml --within 2m",
		configGetCommand(n), configDiffCommand(n), configApplyCommand(n), configTryCommand(n), configStatusCommand(n),
		configConfirmCommand(n), configRevertCommand(n))
}

func configGetCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:   "get",
		Short: "Print the configuration, as diff, apply and try read it",
		Long: "Print the configuration, as diff, apply and try read it. Secrets are not in it: where one is\n" +
			"kept it says \"(kept secret)\", and a document that says so leaves it as it is.",
		Example: "  holdfast node config get > node.yaml\n  holdfast node config get -f json",
		Args:    args(),
	}
	out := addFormats(n.env, c, "yaml", "json")
	c.RunE = func(c *cobra.Command, _ []string) error {
		node, err := n.open()
		if err != nil {
			return err
		}
		defer node.Close()
		answer, err := node.Raw(c.Context(), http.MethodGet, client.ConfigPath, nil)
		if err != nil {
			return err
		}
		var whole struct {
			Config json.RawMessage `json:"config"`
		}
		if err := json.Unmarshal(answer.Metadata, &whole); err != nil || len(whole.Config) == 0 {
			return errors.Join(errors.New("the node's answer holds no configuration"), err)
		}
		kept, err := json.Marshal(whole)
		if err != nil {
			return fmt.Errorf("encoding the configuration: %w", err)
		}
		return out.print(kept, asPaths)
	}
	return c
}

func configDiffCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:   "diff FILE",
		Short: "Show what a document would change; exit code 3 if anything",
		Long: "Show what a document would change, and change nothing. Sections that are not in it stay as\n" +
			"they are. \"-\" reads standard input.\n\n" +
			"The exit code is 0 when the node is already so, 3 when something would change, 1 for an\n" +
			"error and 2 for a command line that makes no sense.",
		Example: "  holdfast node config diff node.yaml\n  holdfast node config diff node.yaml -f json",
		Args:    args("FILE"),
	}
	out := addFormats(n.env, c, "table", "json", "yaml")
	c.RunE = func(c *cobra.Command, args []string) error {
		body, err := readDocument(n.env, args[0])
		if err != nil {
			return err
		}
		node, err := n.open()
		if err != nil {
			return err
		}
		defer node.Close()
		answer, err := node.Plan(c.Context(), client.Request{Method: http.MethodPut, Path: client.ConfigPath, Body: body})
		if err != nil {
			return err
		}
		return out.printPlan(answer.Metadata)
	}
	return c
}

// printPlan writes a plan, and ends with ExitDiffers when it would change something.
func (o *output) printPlan(raw json.RawMessage) error {
	var plan api.Plan
	var err error
	if o.format == "table" {
		plan, err = printPlan(o.env, raw)
	} else {
		err = errors.Join(json.Unmarshal(raw, &plan), o.print(raw, asPaths))
	}
	if err == nil && plan.Changes {
		return exitError(ExitDiffers)
	}
	return err
}

func configApplyCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:   "apply FILE",
		Short: "Make the configuration what a document says: all of it or nothing",
		Long: "Make the configuration what a document says: all of it or nothing. The plan is shown, and a\n" +
			"person is asked; --force does not ask. Sections that are not in the document stay as they are.\n" +
			"\"-\" reads standard input. When the configuration changes between the plan and the change,\n" +
			"nothing is done.",
		Example: "  holdfast node config apply node.yaml\n  holdfast node config apply node.yaml --force",
		Args:    args("FILE"),
	}
	force := c.Flags().Bool("force", false, "do not ask")
	c.RunE = func(c *cobra.Command, args []string) error {
		body, err := readDocument(n.env, args[0])
		if err != nil {
			return err
		}
		node, err := n.open()
		if err != nil {
			return err
		}
		defer node.Close()
		r := client.Request{Method: http.MethodPut, Path: client.ConfigPath, Body: body}
		if r.ETag, err = currentETag(c.Context(), node, r.Path); err != nil {
			return err
		}
		if changes, err := agreed(c, n, node, r, "Change the node?", *force); err != nil || !changes {
			return err
		}
		return (&changeFlags{}).run(c.Context(), n, node, r)
	}
	return c
}

func configStatusCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:     "status",
		Short:   "Show which change is in effect, and whether one waits to be confirmed",
		Example: "  holdfast node config status",
		Args:    args(),
	}
	out := addFormat(n.env, c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		node, err := n.open()
		if err != nil {
			return err
		}
		defer node.Close()
		document, _, err := node.Config(c.Context())
		if err != nil {
			return err
		}
		raw, err := json.Marshal(document.State)
		if err != nil {
			return fmt.Errorf("encoding the state: %w", err)
		}
		return out.print(raw, as(configStatusView))
	}
	return c
}

func configStatusView(s api.ConfigurationState) view {
	v := view{fields: []field{{"Last change", strconv.Itoa(s.Number)}}}
	p := s.Pending
	if p == nil {
		v.fields = append(v.fields, field{"Under way", "nothing"})
		return v
	}
	deadline := "it is being applied"
	if p.Deadline != nil {
		deadline = "at " + timeText(*p.Deadline) + ", unless it is confirmed"
	}
	v.fields = append(v.fields, field{"Under way", p.What}, field{"By", shorten(p.Who, 24)}, field{"Since", timeText(p.Since)},
		field{"Sections", strings.Join(p.Sections, ", ")}, field{"Goes back", deadline})
	return v
}

func configConfirmCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:     "confirm",
		Short:   "Keep the change that waits to be confirmed",
		Example: "  holdfast node config confirm",
		Args:    args(),
	}
	c.RunE = func(c *cobra.Command, _ []string) error {
		node, err := n.open()
		if err != nil {
			return err
		}
		defer node.Close()
		number, err := node.ConfirmConfig(c.Context())
		if err != nil {
			return explainPending(err)
		}
		_, err = fmt.Fprintf(n.env.Stdout, "The change is kept, number %d of the history\n", number)
		return err
	}
	return c
}

func configRevertCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:     "revert",
		Short:   "Take back the change that waits to be confirmed",
		Example: "  holdfast node config revert",
		Args:    args(),
	}
	return actCommand(n, c, "The change is taken back", func(c *cobra.Command, node *client.Client, _ []string) error {
		return explainPending(node.RevertConfig(c.Context()))
	})
}

// explainPending points to the history when nothing waits: the change was confirmed, or
// has gone back.
func explainPending(err error) error {
	if client.IsCode(err, http.StatusBadRequest) {
		return withTry(err, "holdfast node history list")
	}
	return err
}

// readDocument reads a document as `config get` writes it; "-" is standard input.
func readDocument(env *Env, file string) (json.RawMessage, error) {
	from, name := env.Stdin, "standard input"
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("reading the document: %w", err)
		}
		defer f.Close()
		from, name = io.Reader(f), file
	}
	const form = "a document as `holdfast node config get` writes it"
	text, err := readInput(from)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	body, err := yamlToJSON(text)
	if err != nil {
		return nil, withTry(fmt.Errorf("%s: %w", name, err), form)
	}
	var shape map[string]json.RawMessage
	if err := json.Unmarshal(body, &shape); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if _, ok := shape["config"]; !ok {
		return nil, withTry(fmt.Errorf("%s: the field \"config\" is missing, which holds the sections", name), form)
	}
	return body, nil
}

// configYAML is the half of a resource that can be changed, as YAML.
func configYAML(current json.RawMessage) ([]byte, error) {
	node, err := jsonNode(current)
	if err != nil {
		return nil, fmt.Errorf("the node's answer: %w", err)
	}
	kept := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for i := 0; i+1 < len(node.Content) && node.Kind == yaml.MappingNode; i += 2 {
		if node.Content[i].Value == "config" {
			kept.Content = append(kept.Content, node.Content[i], node.Content[i+1])
		}
	}
	return yaml.Dump(kept)
}
