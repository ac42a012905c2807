//go:build linux

package host

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

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
