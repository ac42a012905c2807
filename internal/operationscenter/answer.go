package operationscenter

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/holdfast-os/holdfast/internal/release"
)

// answer is a request under way. Reading fails when no byte comes for a while, or when
// all of it takes too long; Close ends everything.
type answer struct {
	ctx      context.Context
	cancel   context.CancelCauseFunc
	limits   release.Limits
	first    *time.Timer
	stall    *time.Timer
	total    *time.Timer
	response *http.Response
	// accepted is called when the answer turns out to be a manager's; nil for nothing.
	accepted func()
}

func newAnswer(ctx context.Context, limits release.Limits, total time.Duration) *answer {
	a := &answer{limits: limits}
	a.ctx, a.cancel = context.WithCancelCause(ctx)
	a.first = time.AfterFunc(limits.Header, func() {
		a.cancel(fmt.Errorf("%w: no answer within %s", release.ErrLimit, limits.Header))
	})
	a.total = time.AfterFunc(total, func() {
		a.cancel(fmt.Errorf("%w: it takes longer than %s", release.ErrLimit, total))
	})
	return a
}

// begin is called when the head of the answer is there.
func (a *answer) begin(response *http.Response) {
	a.first.Stop()
	a.response = response
	a.stall = time.AfterFunc(a.limits.Stall, func() {
		a.cancel(fmt.Errorf("%w: no byte for %s", release.ErrLimit, a.limits.Stall))
	})
}

func (a *answer) Read(p []byte) (int, error) {
	n, err := a.response.Body.Read(p)
	if n > 0 {
		a.stall.Reset(a.limits.Stall)
	}
	if err != nil && err != io.EOF {
		err = a.cause(err)
	}
	return n, err
}

// Close ends the request. Its error would say nothing about what was read.
func (a *answer) Close() {
	a.first.Stop()
	a.total.Stop()
	if a.stall != nil {
		a.stall.Stop()
	}
	a.cancel(context.Canceled)
	if a.response != nil {
		_ = a.response.Body.Close()
	}
}

func (a *answer) accept() {
	if a.accepted != nil {
		a.accepted()
	}
}

// cause names the limit that was hit, where the transport only says "canceled".
func (a *answer) cause(err error) error {
	if a.ctx.Err() != nil {
		return context.Cause(a.ctx)
	}
	return err
}
