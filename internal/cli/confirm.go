package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// confirmed gives c the flag --force and asks the question before c runs. Where nobody
// can answer, --force is required: a script says once that it means it.
func confirmed(env *Env, c *cobra.Command, question string) *cobra.Command {
	force := c.Flags().Bool("force", false, "do not ask")
	act := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		if !*force {
			if err := ask(env, question, args); err != nil {
				return err
			}
		}
		return act(c, args)
	}
	return c
}

func ask(env *Env, question string, args []string) error {
	words := []any{}
	for _, a := range args {
		words = append(words, clean(a))
	}
	text := fmt.Sprintf(question, words...)
	if !env.StdinTerminal {
		return withTry(fmt.Errorf("nobody is here to be asked: %s", text), "--force")
	}
	fmt.Fprintf(env.Stderr, "%s [y/N] ", text)
	line, err := bufio.NewReader(io.LimitReader(env.Stdin, 1024)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading the answer: %w", err)
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return nil
	}
	return errors.New("not confirmed, nothing was done")
}
