package cli_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/holdfast-os/holdfast/client"
	"github.com/holdfast-os/holdfast/internal/simulate"
)

// What needs a node that remembers is typed against a simulated one.
func TestHoldfast_OnASimulatedNode_AnswersAsWritten(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "simulated", Setup: func(env *testscript.Env) error {
		// The folder of a script is too deep for a socket.
		dir, err := os.MkdirTemp("", "hf")
		if err != nil {
			return err
		}
		up := make(chan struct{}, 1)
		node, err := simulate.New(simulate.Options{Dir: dir, Ready: func(string) {
			select {
			case up <- struct{}{}:
			default:
			}
		}})
		if err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- node.Run(ctx) }()
		env.Defer(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("the node ended with %v", err)
			}
			if err := os.RemoveAll(dir); err != nil {
				t.Error(err)
			}
		})
		select {
		case <-up:
		case err := <-ended:
			ended <- err
			return err
		}
		if err := ready(dir + "/unix.socket"); err != nil {
			return err
		}
		env.Setenv("HOLDFAST_ENDPOINT", "unix://"+dir+"/unix.socket")
		return nil
	}})
}

// ready waits until a node has gone through its start.
func ready(socket string) error {
	c, err := client.New(client.Options{Endpoint: socket})
	if err != nil {
		return err
	}
	defer c.Close()
	again, end := time.NewTicker(10*time.Millisecond), time.After(time.Minute)
	defer again.Stop()
	for {
		server, err := c.Server(context.Background())
		if err == nil && server.Environment.SystemIsReady {
			return nil
		}
		select {
		case <-again.C:
		case <-end:
			return errors.Join(errors.New("the node is not ready within a minute"), err)
		}
	}
}
