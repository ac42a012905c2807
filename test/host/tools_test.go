//go:build linux

package host

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/tooltree"
)

// completeVar is set by `make test-host`, which has installed all that can be installed:
// what is missing then is a failure.
const completeVar = "HOLDFAST_TEST_COMPLETE"

// missing skips a test whose programs are not there, or fails it where they have to be.
func missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv(completeVar) != "" {
		t.Fatalf("missing "+format+"; name its package in test/host/packages or in the tools tree", args...)
	}
	t.Skipf("missing "+format, args...)
}

// needPrograms is for programs of this machine, of the packages in test/host/packages.
func needPrograms(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			missing(t, "program: %s", name)
		}
	}
}

// needTree gives the tools tree with these programs.
func needTree(t testing.TB, programs ...string) tooltree.Tree {
	t.Helper()
	tree, err := tooltree.Default()
	if err != nil {
		missing(t, "tools tree: %v", err)
	}
	for _, name := range programs {
		if !tree.Has(name) {
			missing(t, "program in the tools tree: %s", name)
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
