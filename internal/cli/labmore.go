package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-os/holdfast/internal/lab"
)

// between accepts at least least of the arguments listed, and no more than all of them.
func between(least int, names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, given []string) error {
		if len(given) < least {
			return usage(c, fmt.Errorf("%s is missing", names[len(given)]))
		}
		return atMost(names...)(c, given)
	}
}

// exitError ends holdfast with this code, and there is nothing to add: a command in the
// guest ended with it, or a comparison found a difference.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("the exit code is %d", int(e)) }

func labExecCommand(env *Env) *cobra.Command {
	c := &cobra.Command{
		Use:   "exec NAME -- PROGRAM [ARGUMENT...]",
		Short: "Run a program in a machine of the test variant, as root",
		Long: "Run a program in a machine of the test variant, as root. A node as it is released takes no\n" +
			"commands. The exit code is that of the program.",
		Example: "  holdfast lab exec try -- systemctl --failed",
	}
	limit := c.Flags().Duration("timeout", 5*time.Minute, "how long to wait for the machine and the program")
	c.Args = func(c *cobra.Command, given []string) error {
		if dash := c.ArgsLenAtDash(); dash != 1 || len(given) < 2 {
			return usage(c, errors.New("want the lab's name, --, and a program"))
		}
		return nil
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		l, _, err := openLab()
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(c.Context(), *limit)
		defer cancel()
		result, err := l.Exec(ctx, args[0], args[1:])
		if err != nil {
			return err
		}
		if err := errors.Join(write(env.Stdout, result.Stdout), write(env.Stderr, result.Stderr)); err != nil {
			return err
		}
		if result.Code != 0 {
			return exitError(result.Code)
		}
		return nil
	}
	return c
}

func labCloneCommand(env *Env) *cobra.Command {
	var variant, build string
	c := &cobra.Command{
		Use:     "clone FROM TO",
		Short:   "Make another lab out of the snapshot of one, without starting it",
		Example: "  holdfast lab clone default two\n  holdfast lab clone default try --variant test",
		Args:    args("FROM", "TO"),
	}
	c.Flags().StringVar(&variant, "variant", "", "\"test\" makes a node that takes commands (lab exec)")
	c.Flags().StringVar(&build, "build", "", "folder of the build (default .build/out of the project)")
	c.RunE = func(c *cobra.Command, args []string) error {
		if variant != "" && variant != lab.VariantTest {
			return usage(c, fmt.Errorf("--variant %q: want %s or nothing", variant, lab.VariantTest))
		}
		l, root, err := openLab()
		if err != nil {
			return err
		}
		if build == "" {
			build = filepath.Join(root, ".build", "out")
		}
		if err := l.Clone(c.Context(), args[0], args[1], variant, build); err != nil {
			return err
		}
		_, err = fmt.Fprintf(env.Stdout, "Lab %s is made; start it with: holdfast lab power on %[1]s\n", args[1])
		return err
	}
	return c
}

func labRemoveCommand(env *Env) *cobra.Command {
	c := &cobra.Command{
		Use:               "remove NAME",
		Short:             "Stop a machine at once and delete all of it",
		Example:           "  holdfast lab remove two",
		Args:              args("NAME"),
		ValidArgsFunction: completeLabs,
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		l, _, err := openLab()
		if err != nil {
			return err
		}
		if err := l.Remove(c.Context(), args[0]); err != nil {
			return err
		}
		_, err = fmt.Fprintf(env.Stdout, "Lab %s is removed\n", args[0])
		return err
	}
	return confirmed(env, c, "Delete lab %s with its disk?")
}

// labPipeCommand is what QEMU runs for each connection of a guest to its release server.
func labPipeCommand(env *Env) *cobra.Command {
	return &cobra.Command{
		Use:     "pipe ADDRESS",
		Short:   "Join standard input and output to a TCP port of this computer",
		Example: "  holdfast lab pipe 127.0.0.1:8080",
		Args:    args("ADDRESS"),
		Hidden:  true,
		RunE: func(c *cobra.Command, args []string) error {
			return lab.Pipe(c.Context(), args[0], env.Stdin, env.Stdout)
		},
	}
}
