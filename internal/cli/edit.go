package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/holdfast-os/holdfast/client"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

// edit changes the resource at path: from standard input, or in an editor when a
// person sits at a terminal. What is sent is exactly what was written.
func (n *connection) edit(c *cobra.Command, path string, flags *changeFlags) error {
	node, err := n.open()
	if err != nil {
		return err
	}
	defer node.Close()
	r := client.Request{Method: http.MethodPut, Path: path}
	if n.env.StdinTerminal {
		return n.editInEditor(c, node, r, flags)
	}
	text, err := readInput(n.env.Stdin)
	if err != nil {
		return err
	}
	if r.Body, err = yamlToJSON(text); err != nil {
		return withTry(err, c.CommandPath()+" < FILE, with a FILE such as `show -f yaml` writes it")
	}
	return flags.run(c.Context(), n, node, r)
}

func (n *connection) editInEditor(c *cobra.Command, node *client.Client, r client.Request, flags *changeFlags) error {
	answer, err := node.Raw(c.Context(), http.MethodGet, r.Path, nil)
	if err != nil {
		return err
	}
	r.ETag = answer.ETag
	file, changed, err := n.editor(c.Context(), answer.Metadata)
	if err != nil {
		return err
	}
	if !changed {
		_, err := fmt.Fprintln(n.env.Stdout, "No change")
		return err
	}
	retry := c.CommandPath() + " < " + file
	if r.Body, err = readYAMLFile(file); err == nil {
		err = flags.run(c.Context(), n, node, r)
	}
	if err != nil {
		return withTry(err, "put "+file+" right, then "+retry)
	}
	if flags.dryRun {
		_, err := fmt.Fprintln(n.env.Stderr, "to make the change:", retry)
		return err
	}
	return os.RemoveAll(filepath.Dir(file))
}

func readInput(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxInput+1))
	if err != nil {
		return nil, fmt.Errorf("reading the input: %w", err)
	}
	if len(text) > maxInput {
		return nil, fmt.Errorf("the input is longer than %d bytes", maxInput)
	}
	return text, nil
}

func readYAMLFile(path string) (json.RawMessage, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading what was edited: %w", err)
	}
	defer f.Close()
	text, err := readInput(f)
	if err != nil {
		return nil, err
	}
	return yamlToJSON(text)
}

// editor shows the configuration half of a resource in the person's editor. The file
// stays until the change is accepted, so that nothing typed is lost.
func (n *connection) editor(ctx context.Context, current json.RawMessage) (file string, changed bool, err error) {
	before, err := configYAML(current)
	if err != nil {
		return "", false, err
	}
	dir, err := os.MkdirTemp("", "holdfast-edit-")
	if err != nil {
		return "", false, fmt.Errorf("making a place for the editor's file: %w", err)
	}
	file = filepath.Join(dir, "edit.yaml")
	if err := os.WriteFile(file, before, 0o600); err != nil {
		return "", false, fmt.Errorf("writing the editor's file: %w", err)
	}
	// The editor talks to the terminal itself; its output is not ours to keep.
	_, err = n.env.Run(ctx, run.Command{
		Name: "sh",
		Args: []string{"-c", `exec ${VISUAL:-${EDITOR:-vi}} "$1" </dev/tty >/dev/tty 2>&1`, "editor", file},
	})
	if err != nil {
		return "", false, withTry(fmt.Errorf("editing %s: %w", file, err), "set EDITOR to an editor that is installed")
	}
	after, err := os.ReadFile(file)
	if err != nil {
		return "", false, fmt.Errorf("reading what was edited: %w", err)
	}
	if bytes.Equal(before, after) {
		return file, false, os.RemoveAll(dir)
	}
	return file, true, nil
}
