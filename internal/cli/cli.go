// Package cli holds the commands of `holdfast`.
//
// Each group of commands has a file of its own. A command reads its flags, asks the
// node (client) or one of the packages release and lab, and hands the answer to one
// printer (format.go), so that every command knows the same formats.
//
// JSON and YAML show the node's answer as it came, unknown fields included, in the
// node's order. A table is for people: it shows what matters, and control characters
// from the node never reach the terminal. Differences have a colour on a terminal, unless
// NO_COLOR is set; nothing else has.
//
// What changes the configuration goes one way (change.go): a plan is asked for, shown, and
// carried out once a person has agreed. A trial (try.go) is taken back by the node itself
// when this program, or the way to the node, is gone.
//
// Errors go to stderr as one line `error: ...`, followed where there is one by a line
// `try: ...` with the way on. The exit code is 0, 1 for an error, 2 for a command line that
// makes no sense, and 3 where a command that compares has found a difference.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// Version is the version of this program, set by the build.
var Version = "development"

// Exit codes of Run.
const (
	ExitOK    = 0
	ExitError = 1
	ExitUsage = 2
	// ExitDiffers is a comparison that has found a difference, and no error.
	ExitDiffers = 3
)

// Env is what the commands see of the world around them.
type Env struct {
	// Getenv reads an environment variable.
	Getenv func(string) string
	// Dir is the working directory; .lab is looked for there and in its parents.
	Dir    string
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	// StdinTerminal tells that a person types: `edit` then opens an editor, and what
	// cannot be taken back is asked about.
	StdinTerminal bool
	// StdoutTerminal tells that a person reads: differences then have a colour.
	StdoutTerminal bool
	// Now is the present, and Wait waits until the time is over or the context ends, which
	// is its error. Default: the real ones.
	Now  func() time.Time
	Wait func(context.Context, time.Duration) error
	// Run starts programs; used for the editor.
	Run run.Runner
}

// System is the Env of this process.
func System() (Env, error) {
	dir, err := os.Getwd()
	if err != nil {
		return Env{}, fmt.Errorf("finding the working directory: %w", err)
	}
	return Env{
		Getenv:         os.Getenv,
		Dir:            dir,
		Stdin:          os.Stdin,
		Stdout:         os.Stdout,
		Stderr:         os.Stderr,
		StdinTerminal:  term.IsTerminal(int(os.Stdin.Fd())),
		StdoutTerminal: term.IsTerminal(int(os.Stdout.Fd())),
		Run:            run.Host,
	}, nil
}

// Main runs one command line in this process and gives the exit code.
func Main(ctx context.Context, args []string) int {
	env, err := System()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		return ExitError
	}
	return Run(ctx, args, env)
}

// Run runs one command line, without the program's name, and gives the exit code.
func Run(ctx context.Context, args []string, env Env) int {
	if env.Now == nil {
		env.Now = time.Now
	}
	if env.Wait == nil {
		env.Wait = wait
	}
	root := Root(&env)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return ExitOK
	}
	var code exitError
	if errors.As(err, &code) {
		return int(code)
	}
	fmt.Fprint(env.Stderr, "error: ", cleanLines(err.Error()))
	if try := wayOn(err); try != "" {
		fmt.Fprintln(env.Stderr, "try:", try)
	}
	var usage *usageError
	if errors.As(err, &usage) {
		return ExitUsage
	}
	return ExitError
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// Root is the tree of commands.
func Root(env *Env) *cobra.Command {
	root := group("holdfast", "Build, try and manage Holdfast nodes",
		"  holdfast lab up\n  holdfast node show",
		nodeCommand(env), imageCommand(env), seedCommand(env), releaseCommand(env), labCommand(env))
	root.Version = Version
	root.SilenceErrors = true
	root.SilenceUsage = true
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usage(c, err)
	})
	addShellCommands(root)
	return root
}

// addShellCommands adds cobra's own commands here, so that they can have examples too.
func addShellCommands(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		switch c.Name() {
		case "help":
			c.Example = "  holdfast help node show"
		case "completion":
			c.Example = "  source <(holdfast completion bash)"
			for _, shell := range c.Commands() {
				shell.Example = "  holdfast completion " + shell.Name() + " --help"
			}
		}
	}
}

// group is a command that only holds others.
func group(use, short, example string, children ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Example: example}
	c.Args = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		err := fmt.Errorf("unknown command %q for %q", args[0], c.CommandPath())
		c.SuggestionsMinimumDistance = 2
		if near := c.SuggestionsFor(args[0]); len(near) > 0 {
			return &usageError{err: err, try: c.CommandPath() + " " + near[0]}
		}
		return usage(c, err)
	}
	c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	c.AddCommand(children...)
	return c
}

// args refuses any other number of arguments than the names listed.
func args(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, given []string) error {
		switch {
		case len(given) < len(names):
			return usage(c, fmt.Errorf("%s is missing", names[len(given)]))
		case len(given) > len(names):
			return usage(c, fmt.Errorf("unexpected argument %q", given[len(names)]))
		}
		return nil
	}
}

// atMost is args with every argument optional.
func atMost(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, given []string) error {
		if len(given) > len(names) {
			return usage(c, fmt.Errorf("unexpected argument %q", given[len(names)]))
		}
		return nil
	}
}

// clean drops control characters, so that text from outside cannot drive a terminal.
// Line breaks and tabs become blanks.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case r < ' ' || (r >= 0x7f && r < 0xa0):
			return -1
		}
		return r
	}, text)
}

// cleanLines is clean that keeps line breaks.
func cleanLines(text string) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i, line := range lines {
		lines[i] = clean(line)
	}
	return strings.Join(lines, "\n") + "\n"
}
