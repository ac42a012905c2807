package nft_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/system/nft"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

// program answers as nft would, and keeps what it was given.
type program struct {
	stdout, stderr string
	code           int
	args           []string
	stdin          string
}

func (p *program) run(_ context.Context, c run.Command) (run.Result, error) {
	p.args = append(p.args, strings.Join(append([]string{c.Name}, c.Args...), " "))
	if c.Stdin != nil {
		data, err := io.ReadAll(c.Stdin)
		if err != nil {
			return run.Result{}, err
		}
		p.stdin = string(data)
	}
	if p.code != 0 {
		return run.Result{}, &run.Error{Args: []string{"nft"}, ExitCode: p.code, Stderr: p.stderr, Err: errors.New("exit status")}
	}
	return run.Result{Stdout: []byte(p.stdout)}, nil
}

const rules = "table inet holdfast\ndelete table inet holdfast\ntable inet holdfast {\n  chain input { oops }\n}\n"

func TestApply_Rules_AreHandedOverAsAWhole(t *testing.T) {
	var p program
	host := nft.Host{Run: p.run}
	if err := host.Apply(t.Context(), rules); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"nft -f -"}, p.args); diff != "" {
		t.Error(diff)
	}
	if p.stdin != rules {
		t.Errorf("got %q", p.stdin)
	}
}

// Whoever reads the error sees the rule, not a column number of a text he has not got.
func TestApply_BrokenRules_NamesTheLine(t *testing.T) {
	for stderr, want := range map[string]nft.SyntaxError{
		"/dev/stdin:4:17-20: Error: syntax error, unexpected string\n  chain input { oops }\n                ^^^^\n": {
			Line: 4, Text: "chain input { oops }", Reason: "syntax error, unexpected string"},
		"-:4:17-20: Error: syntax error, unexpected string\n": {Line: 4, Text: "chain input { oops }", Reason: "syntax error, unexpected string"},
		"netlink: Error: cache initialization failed: Operation not permitted\n": {
			Reason: "netlink: Error: cache initialization failed: Operation not permitted"},
		"-:99:1-1: Error: x\n": {Line: 99, Reason: "x"},
		"":                     {},
	} {
		p := program{code: 1, stderr: stderr}
		err := nft.Host{Run: p.run}.Apply(t.Context(), rules)
		var got *nft.SyntaxError
		if !errors.As(err, &got) {
			t.Errorf("got %v", err)
			continue
		}
		want.Err = got.Err
		if diff := cmp.Diff(want, *got, cmp.Comparer(func(a, b error) bool { return a == b })); diff != "" {
			t.Errorf("%q: %s", stderr, diff)
		}
	}
}

// A missing program is not the fault of the rules.
func TestApply_MissingProgram_IsNoSyntaxError(t *testing.T) {
	p := program{code: -1}
	err := nft.Host{Run: p.run}.Apply(t.Context(), rules)
	var wrong *nft.SyntaxError
	if err == nil || errors.As(err, &wrong) {
		t.Errorf("got %v", err)
	}
}
