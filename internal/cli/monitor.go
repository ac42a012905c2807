package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-os/holdfast/api/os"
)

var eventTypes = []string{os.EventTypeLogging, os.EventTypeOperation, os.EventTypeLifecycle}

func monitorCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:   "monitor",
		Short: "Show what happens on a node, as it happens, until Ctrl-C",
		Long: "Show what happens on a node, as it happens, until Ctrl-C: lines of its log, operations, and\n" +
			"what was done to objects (lifecycle). Times are in UTC. With -f json each line is one event.",
		Example: "  holdfast node monitor\n  holdfast node monitor --type lifecycle,operation\n  holdfast node monitor --type logging -n 10 -f json",
		Args:    args(),
	}
	types := c.Flags().StringSlice("type", nil, "only this type: logging, operation or lifecycle; may be repeated (default all)")
	count := c.Flags().IntP("count", "n", 0, "end after this many events (default never)")
	out := addFormats(n.env, c, "table", "json")
	complete := func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return eventTypes, cobra.ShellCompDirectiveNoFileComp
	}
	if err := c.RegisterFlagCompletionFunc("type", complete); err != nil {
		panic(err) // the flag was added above
	}
	c.RunE = func(c *cobra.Command, _ []string) error {
		for _, t := range *types {
			if !slices.Contains(eventTypes, t) {
				return usage(c, fmt.Errorf("type %q: want %s", t, strings.Join(eventTypes, ", ")))
			}
		}
		if *count < 0 {
			return usage(c, fmt.Errorf("--count %d: less than nothing", *count))
		}
		return n.monitor(c, out, *types, *count)
	}
	return c
}

func (n *connection) monitor(c *cobra.Command, out *output, types []string, count int) error {
	node, err := n.open()
	if err != nil {
		return err
	}
	defer node.Close()
	stream, err := node.Events(c.Context(), types...)
	if err != nil {
		return err
	}
	for seen := 0; count == 0 || seen < count; seen++ {
		event, err := stream.Next(c.Context())
		// Ctrl-C is how this command ends.
		if errors.Is(err, io.EOF) || c.Context().Err() != nil {
			break
		}
		if err != nil {
			return errors.Join(withTry(err, "holdfast node monitor, again; what was missed is in holdfast node log"), stream.Close())
		}
		if err := out.printEvent(event); err != nil {
			return errors.Join(err, stream.Close())
		}
	}
	// The stream may be closed already, which is what is wanted.
	_ = stream.Close()
	return nil
}

func (o *output) printEvent(e os.Event) error {
	if o.format == "json" {
		line, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("encoding an event: %w", err)
		}
		return write(o.env.Stdout, append(line, '\n'))
	}
	text, err := eventText(e)
	if err != nil {
		return err
	}
	line := fmt.Sprintf("%s %s: %s", e.Timestamp.UTC().Format("2006-01-02 15:04:05.000"), e.Type, text)
	return write(o.env.Stdout, []byte(clean(line)+"\n"))
}

// eventText is what an event says, on one line.
func eventText(e os.Event) (string, error) {
	switch e.Type {
	case os.EventTypeLogging:
		return eventAs(e, loggingText)
	case os.EventTypeOperation:
		return eventAs(e, func(o os.Operation) string {
			return joinText(o.Description, o.Status, progressText(o.Metadata.Progress), o.Err, "("+o.ID+")")
		})
	case os.EventTypeLifecycle:
		return eventAs(e, func(l os.EventLifecycle) string {
			by := ""
			if l.Requestor != nil {
				by = "by " + l.Requestor.Username
			}
			return joinText(l.Action, l.Source, by)
		})
	}
	return string(e.Metadata), nil // of a newer release
}

func eventAs[T any](e os.Event, text func(T) string) (string, error) {
	var value T
	if err := json.Unmarshal(e.Metadata, &value); err != nil {
		return "", fmt.Errorf("an event of the type %s: %w", e.Type, err)
	}
	return text(value), nil
}

func loggingText(l os.EventLogging) string {
	words := []string{l.Level, l.Message}
	for _, key := range slices.Sorted(maps.Keys(l.Context)) {
		words = append(words, key+"="+l.Context[key])
	}
	return joinText(words...)
}

// joinText joins what is not empty.
func joinText(words ...string) string {
	return strings.Join(slices.DeleteFunc(words, func(word string) bool { return word == "" }), " ")
}
