package daemon_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/holdfast-os/holdfast/internal/daemon"
)

// badMedium is a rescue medium that cannot be used; it notes when it has to be given back.
type badMedium struct{ back chan struct{} }

func (b badMedium) Use(_ context.Context, until <-chan struct{}) error {
	go func() { <-until; close(b.back) }()
	return errors.New("the medium is damaged")
}

// A stick with something wrong on it must not keep a node from starting, and is not held
// for longer than the start takes.
func TestRun_RescueMediumThatCannotBeUsed_IsToldAndTheNodeStarts(t *testing.T) {
	w, medium := newWorld(), badMedium{make(chan struct{})}
	f := startWith(t, w, nil, func(o *daemon.Options) { o.Machine.Rescue = medium })
	<-medium.back // when the node is ready
	f.stop()
	if want := "error: rescue medium: the medium is damaged"; !slices.Contains(w.messages, want) {
		t.Errorf("the screen had %q", w.messages)
	}
}
