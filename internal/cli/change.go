package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-os/holdfast/client"
)

// maxConfirm is the longest time that a node waits for a confirmation.
const maxConfirm = 24 * time.Hour

// changeFlags say how a change is made.
type changeFlags struct {
	dryRun bool
	within time.Duration
}

// addChangeFlags gives c --dry-run and --confirm-within.
func addChangeFlags(c *cobra.Command) *changeFlags {
	flags := &changeFlags{}
	c.Flags().BoolVar(&flags.dryRun, "dry-run", false, "change nothing, show what would be done")
	c.Flags().DurationVar(&flags.within, "confirm-within", 0, "take the change back after this time, as 2m, unless it is confirmed")
	check := c.PreRunE
	c.PreRunE = func(c *cobra.Command, args []string) error {
		if c.Flags().Changed("confirm-within") {
			if err := checkWithin(c, "confirm-within", flags.within); err != nil {
				return err
			}
			if flags.dryRun {
				return usage(c, errors.New("--dry-run changes nothing, so there is nothing to confirm: leave --confirm-within out"))
			}
		}
		if check != nil {
			return check(c, args)
		}
		return nil
	}
	return flags
}

func checkWithin(c *cobra.Command, flag string, within time.Duration) error {
	if within <= 0 || within > maxConfirm {
		return usage(c, fmt.Errorf("--%s %s: want more than nothing and at most %s", flag, within, maxConfirm))
	}
	return nil
}

// run plans or makes a change.
func (flags *changeFlags) run(ctx context.Context, n *connection, node *client.Client, r client.Request) error {
	if flags.dryRun {
		answer, err := node.Plan(ctx, r)
		if err != nil {
			return err
		}
		_, err = printPlan(n.env, answer.Metadata)
		return err
	}
	answer, err := node.Change(ctx, r, flags.within)
	if err != nil {
		return explainChange(err, flags.within)
	}
	return flags.done(n, answer)
}

// done says what came of a change.
func (flags *changeFlags) done(n *connection, answer client.Answer) error {
	text := "Changed\n"
	if number := changeNumber(answer); number > 0 {
		text = fmt.Sprintf("Changed, number %d of the history\n", number)
	}
	if flags.within > 0 {
		text = fmt.Sprintf("Changed. In %s it goes back, unless you confirm it:\n  holdfast node config confirm\n", shortDuration(flags.within))
	}
	return write(n.env.Stdout, []byte(text))
}

// changeNumber is the number that an answer holds; 0 when it holds none.
func changeNumber(answer client.Answer) int {
	var change struct {
		Number int `json:"number"`
	}
	if err := json.Unmarshal(answer.Metadata, &change); err != nil {
		return 0
	}
	return change.Number
}

// explainChange adds what to do when the answer to a change got lost on its way.
func explainChange(err error, within time.Duration) error {
	var lost *client.ConnectError
	if !errors.As(err, &lost) {
		return err
	}
	if within > 0 {
		return withTry(fmt.Errorf("no answer, so nobody knows whether the change was made: %w", err),
			"if the node answers: holdfast node config status; if it does not, it goes back by itself")
	}
	return withTry(fmt.Errorf("no answer, so nobody knows whether the change was made: %w", err),
		"holdfast node history list")
}

// shortDuration is a duration without the parts that are nothing: 2m, not 2m0s.
func shortDuration(d time.Duration) string {
	text := d.String()
	for _, tail := range []struct{ suffix, keep string }{{"m0s", "m"}, {"h0m", "h"}} {
		if len(text) > len(tail.suffix) && text[len(text)-len(tail.suffix):] == tail.suffix {
			text = text[:len(text)-len(tail.suffix)] + tail.keep
		}
	}
	return text
}

// agreed plans a change, shows the plan and asks a person. It reports false when nothing
// would change.
func agreed(c *cobra.Command, n *connection, node *client.Client, r client.Request, question string, force bool) (bool, error) {
	answer, err := node.Plan(c.Context(), r)
	if err != nil {
		return false, err
	}
	plan, err := printPlan(n.env, answer.Metadata)
	if err != nil || !plan.Changes || force {
		return plan.Changes, err
	}
	return true, ask(n.env, question, nil)
}

// currentETag is the ETag of what is at path, so that a plan holds for what it was made for.
func currentETag(ctx context.Context, node *client.Client, path string) (string, error) {
	answer, err := node.Raw(ctx, http.MethodGet, path, nil)
	return answer.ETag, err
}
