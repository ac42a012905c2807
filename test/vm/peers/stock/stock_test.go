package stock

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A command that a newer client has must not be forgotten in the table.
func TestCommands_NestedHelp_GivesTheLeaves(t *testing.T) {
	texts := map[string]string{
		"":            "Usage:\n  incus\n\nAvailable Commands:\n  info  Show it\n  system Manage it\n\nGlobal Flags:\n  --debug  no command\n",
		"info":        "Usage:\n  incus info\n\nGlobal Flags:\n  --debug\n",
		"system":      "Available Commands:\n  edit  Edit\n  show  Show\n",
		"system edit": "Usage:\n", "system show": "Usage:\n",
	}
	got, err := Commands(func(words []string) (string, error) {
		text, ok := texts[strings.Join(words, " ")]
		if !ok {
			return "", errors.New("no such command")
		}
		return text, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"info", "system edit", "system show"}, got); diff != "" {
		t.Error(diff)
	}
	if _, err := Commands(func([]string) (string, error) { return texts["system"], nil }); err == nil {
		t.Error("a help that leads to itself was read to its end")
	}
}

// The page says what a person would see, without the client's warnings.
func TestPage_Results_AreInWords(t *testing.T) {
	warning := "WARNING: The API and configuration is subject to change\n\n"
	got := Page([]Row{
		{"a", Result(false, warning)},
		{"b", Result(true, warning+"Error: POST /1.0/{x}/:y is not there yet: it comes | later\n")},
		{"c", Result(true, "Error: conflict: there is one\n")},
	})
	_, table, _ := strings.Cut(got, "|---|---|\n")
	want := "| `a` | works |\n| `b` | not yet: it comes \\| later |\n| `c` | refused: conflict: there is one |\n"
	if diff := cmp.Diff(want, table); diff != "" {
		t.Error(diff)
	}
}
