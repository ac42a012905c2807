// Package needs is for tests against programs that a machine may lack.
//
// By hand, such a test is skipped and says what it lacks. Under make, which installs the
// packages named in test/packages, test/host/packages and test/vm/peers/packages, what
// is missing is a failure: nobody reads that a test was skipped.
package needs

import (
	"os"
	"os/exec"
	"testing"

	"github.com/holdfast-os/holdfast/internal/system/tooltree"
)

// completeVar says what has to be there: "programs" of this machine, or "all", with the
// tools tree of a build. Default nothing.
const completeVar = "HOLDFAST_TEST_COMPLETE"

// Programs is for programs on the PATH.
func Programs(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			Missing(t, "program: "+name)
		}
	}
}

// Missing is for anything else that a package of this machine brings.
func Missing(t testing.TB, what string) {
	t.Helper()
	absent(t, os.Getenv(completeVar) != "", what)
}

// Tree gives the tools tree with these programs.
func Tree(t testing.TB, programs ...string) tooltree.Tree {
	t.Helper()
	tree, err := tooltree.Default()
	if err != nil {
		MissingBuild(t, "tools tree: "+err.Error())
	}
	for _, name := range programs {
		if !tree.Has(name) {
			MissingBuild(t, "program in the tools tree: "+name)
		}
	}
	return tree
}

// MissingBuild is for anything else that `make build` brings.
func MissingBuild(t testing.TB, what string) {
	t.Helper()
	absent(t, os.Getenv(completeVar) == "all", what)
}

func absent(t testing.TB, fails bool, what string) {
	t.Helper()
	if fails {
		t.Fatal("missing " + what)
	}
	t.Skip("missing " + what)
}
