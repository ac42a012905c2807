//go:build linux

package host

import (
	"path/filepath"
	"testing"

	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/test/needs"
)

// A rule with a mistake in it is left out by udev, with a line in the log that nobody reads.
func TestUdev_RulesOfTheImage_AreWithoutFault(t *testing.T) {
	rules, err := filepath.Glob("../../image/*/usr/lib/udev/rules.d/*.rules")
	if err != nil || len(rules) < 3 {
		t.Fatalf("the image has the rules %q, %v", rules, err)
	}
	tools := needs.Tree(t, "udevadm")
	result, err := run.Host(t.Context(), tools.Command("udevadm", append([]string{"verify", "--resolve-names=never"}, rules...)...))
	if err != nil {
		t.Errorf("%v\n%s%s", err, result.Stdout, result.Stderr)
	}
}
