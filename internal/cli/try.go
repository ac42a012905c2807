package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-os/holdfast/client"
)

const (
	// tryEvery is the pause between two looks whether the node still answers.
	tryEvery = time.Second
	// tryLook is how long one look may take.
	tryLook = 5 * time.Second
	// tryBack is how long taking a change back may take when this program is ended.
	tryBack = 30 * time.Second
)

func configTryCommand(n *connection) *cobra.Command {
	c := &cobra.Command{
		Use:   "try FILE",
		Short: "Make a change, look whether the node still answers, and keep it only then",
		Long: "Make a change, look whether the node still answers, and keep it only then.\n\n" +
			"The node takes the change back after --within, whatever happens to this computer and to\n" +
			"the network. In the meantime this command makes new connections to the node. Once one gets\n" +
			"through, a person is asked whether to keep the change; --yes keeps it without asking. A no\n" +
			"and Ctrl-C take it back at once.",
		Example: "  holdfast node config try node.yaml --within 2m\n" +
			"  holdfast node config try node.yaml --yes --new-endpoint https://192.0.2.20:8443",
		Args: args("FILE"),
	}
	t := &trial{n: n}
	c.Flags().DurationVar(&t.within, "within", 2*time.Minute, "take the change back after this time unless it is kept")
	c.Flags().BoolVar(&t.yes, "yes", false, "keep the change without asking once the node answers")
	c.Flags().StringVar(&t.endpoint, "new-endpoint", "", "where the node is after the change, if that is elsewhere")
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := checkWithin(c, "within", t.within); err != nil {
			return err
		}
		if !t.yes && !n.env.StdinTerminal {
			return withTry(errors.New("nobody is here to be asked whether to keep the change"), "--yes")
		}
		body, err := readDocument(n.env, args[0])
		if err != nil {
			return err
		}
		return t.run(c.Context(), client.Request{Method: http.MethodPut, Path: client.ConfigPath, Body: body})
	}
	return c
}

// trial is a change that is kept only when the node answers afterwards.
//
// Its way: plan -> change with a time to confirm -> look until the node answers -> ask ->
// confirm. From the change on, every other end takes the change back; where this program
// cannot, the node does when the time is over.
type trial struct {
	n        *connection
	within   time.Duration
	yes      bool
	endpoint string // after the change; empty: as before
	until    time.Time
}

func (t *trial) run(ctx context.Context, r client.Request) error {
	node, err := t.n.open()
	if err != nil {
		return err
	}
	defer node.Close()
	if r.ETag, err = currentETag(ctx, node, r.Path); err != nil {
		return err
	}
	answer, err := node.Plan(ctx, r)
	if err != nil {
		return err
	}
	plan, err := printPlan(t.n.env, answer.Metadata)
	if err != nil || !plan.Changes {
		return err
	}
	var lost *client.ConnectError
	if _, err := node.Change(ctx, r, t.within); err != nil && !errors.As(err, &lost) && ctx.Err() == nil {
		return err
	}
	// The node counts from the moment at which the change is in effect, which is before
	// its answer; a tenth is left for the way there and back.
	t.until = t.n.env.Now().Add(t.within - t.within/10)
	t.say("The change is in effect for %s. Looking whether the node answers ...", shortDuration(t.within))
	return t.decide(ctx)
}

func (t *trial) say(format string, args ...any) {
	fmt.Fprintf(t.n.env.Stderr, format+"\n", args...)
}

// decide looks for the node, and keeps the change or takes it back.
func (t *trial) decide(ctx context.Context) error {
	node, err := t.reach(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return t.goBack(nil, "interrupted")
		}
		return err
	}
	defer node.Close()
	t.say("The node answers over a new connection.")
	if !t.yes {
		switch keep, err := t.keep(ctx); {
		case ctx.Err() != nil:
			return t.goBack(node, "interrupted")
		case err != nil:
			return err
		case !keep:
			return t.goBack(node, "not confirmed")
		}
	}
	number, err := node.ConfirmConfig(ctx)
	if err != nil {
		return explainPending(err)
	}
	_, err = fmt.Fprintf(t.n.env.Stdout, "The change is kept, number %d of the history\n", number)
	return err
}

// reach makes new connections until the node answers and says that the change waits.
func (t *trial) reach(ctx context.Context) (*client.Client, error) {
	var last error
	for t.n.env.Now().Before(t.until) {
		node, waits, err := t.look(ctx)
		switch {
		case err == nil && waits:
			return node, nil
		case err == nil:
			last = errors.New("the change is still being applied")
		case errors.Is(err, errGone):
			return nil, withTry(err, "holdfast node history list")
		default:
			last = err
		}
		if err := t.n.env.Wait(ctx, tryEvery); err != nil {
			return nil, err
		}
	}
	return nil, withTry(fmt.Errorf("the node did not answer in time and takes the change back by itself: %w", last),
		"wait a moment, then holdfast node show")
}

var errGone = errors.New("the node answers, but the change is not in effect: it has gone back, or never reached the node")

// open makes a client of its own, at another endpoint unless that is empty.
func (t *trial) open(endpoint string) (*client.Client, error) {
	options, err := t.n.options()
	if err != nil {
		return nil, err
	}
	override(&options.Endpoint, endpoint)
	options.UserAgent = userAgent()
	return client.New(options)
}

// look asks over a connection of its own. It reports false while the change is being applied.
func (t *trial) look(ctx context.Context) (node *client.Client, waits bool, err error) {
	if node, err = t.open(t.endpoint); err != nil {
		return nil, false, err
	}
	ctx, cancel := context.WithTimeout(ctx, tryLook)
	defer cancel()
	document, _, err := node.Config(ctx)
	if err == nil && document.State.Pending == nil {
		err = errGone
	}
	if err != nil || document.State.Pending.Deadline == nil {
		node.Close()
		return nil, false, err
	}
	return node, true, nil
}

// keep asks a person, and takes no answer for longer than the node waits.
func (t *trial) keep(ctx context.Context) (bool, error) {
	env := t.n.env
	fmt.Fprint(env.Stderr, "Keep the change? [y/N] ")
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan string, 1)
	go func() {
		line, err := bufio.NewReader(io.LimitReader(env.Stdin, 1024)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			line = ""
		}
		answers <- strings.ToLower(strings.TrimSpace(line))
	}()
	over := make(chan error, 1)
	go func() { over <- env.Wait(ctx, t.until.Sub(env.Now())) }()
	select {
	case answer := <-answers:
		return answer == "y" || answer == "yes", nil
	case err := <-over:
		t.say("")
		if err != nil {
			return false, err
		}
		return false, errors.New("nobody has confirmed the change in time: the node takes it back by itself")
	}
}

// goBack takes the change back although the command is being ended; its own error says so.
// Without a node it is looked for where it is to be, and where it was.
func (t *trial) goBack(node *client.Client, why string) error {
	ctx, cancel := context.WithTimeout(context.Background(), tryBack)
	defer cancel()
	var err error
	if node != nil {
		err = node.RevertConfig(ctx)
	} else {
		for _, endpoint := range slices.Compact([]string{t.endpoint, ""}) {
			if err = t.revertAt(ctx, endpoint); err == nil {
				break
			}
		}
	}
	if err != nil {
		return withTry(fmt.Errorf("%s, and the change could not be taken back; the node does it by itself within %s: %w",
			why, shortDuration(t.within), err), "holdfast node config status")
	}
	return fmt.Errorf("%s: the change is taken back", why)
}

func (t *trial) revertAt(ctx context.Context, endpoint string) error {
	node, err := t.open(endpoint)
	if err != nil {
		return err
	}
	defer node.Close()
	ctx, cancel := context.WithTimeout(ctx, tryBack/2)
	defer cancel()
	return node.RevertConfig(ctx)
}
