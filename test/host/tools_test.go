//go:build linux

package host

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/tooltree"
)

// needTree gives the tools tree, or skips with what is missing of it.
func needTree(t *testing.T, programs ...string) tooltree.Tree {
	t.Helper()
	tree, err := tooltree.Default()
	if err != nil {
		t.Skipf("missing: %v", err)
	}
	for _, name := range programs {
		if !tree.Has(name) {
			t.Skipf("missing program in the tools tree: %s", name)
		}
	}
	return tree
}

// runTool runs a program of the tools tree to its end.
func runTool(t *testing.T, command run.Command) (string, error) {
	t.Helper()
	result, err := run.Host(t.Context(), command)
	return string(result.Stdout), err
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
