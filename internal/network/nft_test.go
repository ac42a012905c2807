package network_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/holdfast-os/holdfast/test/needs"
)

// What nft does not take leaves a node without a firewall. The rules of each world are
// loaded into a network of their own, twice, as they are when a configuration changes.
func TestNewPlan_Nftables_LoadsTwice(t *testing.T) {
	needs.Programs(t, "nft", "unshare")
	worlds, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(worlds) == 0 {
		t.Fatalf("no worlds: %v", err)
	}
	for _, path := range worlds {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		rules := map[string]string{}
		for _, f := range archive.Files {
			rules[f.Name] = string(f.Data)
		}
		load := exec.CommandContext(t.Context(), "unshare", "--map-root-user", "--net", "sh", "-c", `
			rules=$(cat) && echo "$rules" | nft -f - && first=$(nft list ruleset) && echo "$rules" | nft -f - &&
			test "$first" = "$(nft list ruleset)" && test -n "$first"`)
		load.Stdin = strings.NewReader(rules["want/nftables"])
		if out, err := load.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", path, err, out)
		}
	}
}
