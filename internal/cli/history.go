package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/client"
)

func historyCommand(n *connection) *cobra.Command {
	list := showCommand(n, "list", "List the changes of the configuration, the newest first", "/1.0/system/history", as(historyView))
	list.Example = "  holdfast node history list\n  holdfast node history list -f csv"
	return group("history", "What was changed, by whom, and how to go back",
		"  holdfast node history list\n  holdfast node history show 4\n  holdfast node history rollback 3",
		list, historyShowCommand(n), historyDiffCommand(n), historyRollbackCommand(n))
}

func historyView(list []os.Change) view {
	t := table{head: []string{"NUMBER", "TIME", "WHO", "WHAT", "SECTIONS"}}
	for _, e := range list {
		t.rows = append(t.rows, []string{strconv.Itoa(e.Number), timeText(e.Time), shorten(e.Who, 24), e.What, strings.Join(e.Sections, ", ")})
	}
	return view{tables: []table{t}}
}

// changeArgument reads the number of a change; 0 is the configuration before the first.
func changeArgument(c *cobra.Command, text string, least int) (int, error) {
	number, err := strconv.Atoi(text)
	if err != nil || number < least {
		return 0, usage(c, fmt.Errorf("%q is not the number of a change: want a whole number, at least %d", text, least))
	}
	return number, nil
}

func historyShowCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:               "show NUMBER",
		Short:             "Show one change: who made it, when, and what it changed",
		Example:           "  holdfast node history show 4",
		Args:              args("NUMBER"),
		ValidArgsFunction: n.complete(1, changeNumbers),
	}
	out := addFormat(n.env, c)
	c.RunE = func(c *cobra.Command, args []string) error {
		number, err := changeArgument(c, args[0], 1)
		if err != nil {
			return err
		}
		return n.showChange(c, out, client.Request{Method: http.MethodGet, Path: client.ChangePath(number)}, true)
	}
	return c
}

func historyDiffCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:   "diff FROM TO",
		Short: "Show what differs between the configurations after two changes",
		Long: "Show what differs between the configurations after two changes. 0 is the configuration before\n" +
			"the first change, where that is still known.",
		Example:           "  holdfast node history diff 2 4",
		Args:              args("FROM", "TO"),
		ValidArgsFunction: n.complete(2, changeNumbers),
	}
	out := addFormat(n.env, c)
	c.RunE = func(c *cobra.Command, args []string) error {
		from, err := changeArgument(c, args[0], 0)
		if err != nil {
			return err
		}
		to, err := changeArgument(c, args[1], 0)
		if err != nil {
			return err
		}
		return n.showChange(c, out, client.Request{
			Method: http.MethodGet, Path: client.ChangePath(from), Query: url.Values{"to": {strconv.Itoa(to)}},
		}, false)
	}
	return c
}

// showChange prints a change with its difference; without head the difference alone.
func (n *connection) showChange(c *cobra.Command, out *output, r client.Request, head bool) error {
	node, err := n.open()
	if err != nil {
		return err
	}
	defer node.Close()
	answer, err := node.Do(c.Context(), r)
	if err != nil {
		return explainNumber(err)
	}
	if out.format != "table" {
		return out.print(answer.Metadata, asPaths)
	}
	var change os.Change
	if err := json.Unmarshal(answer.Metadata, &change); err != nil {
		return fmt.Errorf("the node's answer: %w", err)
	}
	if head {
		err := printView(n.env.Stdout, view{fields: []field{
			{"Number", strconv.Itoa(change.Number)}, {"Time", timeText(change.Time)}, {"Who", change.Who},
			{"What", change.What}, {"Sections", strings.Join(change.Sections, ", ")},
		}})
		if err != nil {
			return err
		}
		if change.Diff != "" {
			change.Diff = "\n" + change.Diff
		}
	}
	if change.Diff == "" {
		change.Diff = "Nothing differs."
	}
	return write(n.env.Stdout, []byte(diffText(change.Diff, "", colours(n.env))))
}

// explainNumber points to the list when there is no such change.
func explainNumber(err error) error {
	if client.IsCode(err, http.StatusNotFound) {
		return withTry(err, "holdfast node history list")
	}
	return err
}

func historyRollbackCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:   "rollback NUMBER",
		Short: "Make the configuration what it was after a change",
		Long: "Make the configuration what it was after a change; 0 is before the first. Going back is a\n" +
			"change of its own, and can be undone like any other. The plan is shown, and a person is\n" +
			"asked; --force does not ask.",
		Example:           "  holdfast node history rollback 3\n  holdfast node history rollback 3 --dry-run\n  holdfast node history rollback 3 --confirm-within 2m --force",
		Args:              args("NUMBER"),
		ValidArgsFunction: n.complete(1, changeNumbers),
	}
	flags := addChangeFlags(c)
	force := c.Flags().Bool("force", false, "do not ask")
	c.RunE = func(c *cobra.Command, args []string) error {
		number, err := changeArgument(c, args[0], 0)
		if err != nil {
			return err
		}
		node, err := n.open()
		if err != nil {
			return err
		}
		defer node.Close()
		r := client.Request{Method: http.MethodPost, Path: client.RollbackPath(number)}
		if !flags.dryRun {
			question := fmt.Sprintf("Go back to change %d?", number)
			if changes, err := agreed(c, n, node, r, question, *force); err != nil || !changes {
				return explainNumber(err)
			}
		}
		return explainNumber(flags.run(c.Context(), n, node, r))
	}
	return c
}

func changeNumbers(ctx context.Context, node *client.Client) ([]string, error) {
	list, err := node.History(ctx)
	var numbers []string
	for _, e := range list {
		numbers = append(numbers, strconv.Itoa(e.Number)+"\t"+clean(e.What))
	}
	return numbers, err
}

// complete offers what a node has to the shell, for as many arguments as there are.
func (n *connection) complete(most int, list func(context.Context, *client.Client) ([]string, error)) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		node, err := n.open()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		defer node.Close()
		names, err := list(c.Context(), node)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
