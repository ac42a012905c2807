package operationscenter_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/holdfast-os/holdfast/internal/operationscenter"
)

var errAway = errors.New("the manager is away")

// line is a manager that a test plays: each try asks it, each pause asks the clock.
type line struct {
	*operationscenter.Reporter
	tries  chan operationscenter.Cause
	answer chan error
	pauses chan time.Duration
	pass   chan struct{}
	ended  chan struct{}
	stop   context.CancelFunc
}

func newLine(t *testing.T) *line {
	t.Helper()
	l := &line{tries: make(chan operationscenter.Cause), answer: make(chan error), pauses: make(chan time.Duration), pass: make(chan struct{}), ended: make(chan struct{})}
	l.Reporter = operationscenter.NewReporter(func(ctx context.Context, cause operationscenter.Cause) error {
		select {
		case l.tries <- cause:
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case err := <-l.answer:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}, func(ctx context.Context, d time.Duration) error {
		select {
		case l.pauses <- d:
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case <-l.pass:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	ctx, stop := context.WithCancel(t.Context())
	l.stop = stop
	go func() {
		defer close(l.ended)
		l.Run(ctx)
	}()
	t.Cleanup(func() {
		stop()
		<-l.ended
	})
	return l
}

// The daemon goes on while its manager is slow, and says each thing once.
func TestReporter_ReportsWhileOneIsSent_WaitOncePerCause(t *testing.T) {
	l := newLine(t)
	l.Report(operationscenter.CauseReady)
	first := <-l.tries
	for range 3 {
		l.Report(operationscenter.CauseNetworkConfig)
		l.Report(operationscenter.CauseReady)
	}
	want := []operationscenter.Cause{"network-config-changed", "system-is-ready"}
	if diff := cmp.Diff(want, l.State().Pending); diff != "" {
		t.Error(diff)
	}
	l.answer <- nil
	got := []operationscenter.Cause{first}
	for range 2 {
		got = append(got, <-l.tries)
		l.answer <- nil
	}
	if diff := cmp.Diff([]operationscenter.Cause{"system-is-ready", "network-config-changed", "system-is-ready"}, got); diff != "" {
		t.Error(diff)
	}
}

// A manager that is away is asked five times over two minutes, and then the next thing is told.
func TestReporter_ManagerAway_GivesUpAfterFiveTries(t *testing.T) {
	l := newLine(t)
	l.Report(operationscenter.CauseReady)
	l.Report(operationscenter.CauseStorageConfig)
	var pauses []time.Duration
	for try := range 5 {
		if try > 0 {
			pauses = append(pauses, <-l.pauses)
			l.pass <- struct{}{}
		}
		if cause := <-l.tries; cause != operationscenter.CauseReady {
			t.Errorf("try %d is %q", try, cause)
		}
		l.answer <- errAway
	}
	if diff := cmp.Diff([]time.Duration{30 * time.Second, 30 * time.Second, 30 * time.Second, 30 * time.Second}, pauses); diff != "" {
		t.Error(diff)
	}
	if cause := <-l.tries; cause != operationscenter.CauseStorageConfig {
		t.Errorf("next is %q", cause)
	}
	want := operationscenter.ReporterState{GivenUp: 1, LastError: errAway}
	if diff := cmp.Diff(want, l.State(), cmpopts.EquateErrors(), cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
	l.answer <- nil
	l.Report(operationscenter.CauseNone)
	<-l.tries
	want = operationscenter.ReporterState{GivenUp: 1, Sent: 1}
	if diff := cmp.Diff(want, l.State(), cmpopts.EquateErrors(), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("after a good one: %s", diff)
	}
}

// A daemon that ends waits neither for the manager nor for the clock.
func TestReporter_ContextEnds_StopsWhereverItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		idle := newLine(t)
		synctest.Wait()
		idle.stop()
		<-idle.ended
	})
	sending := newLine(t)
	sending.Report(operationscenter.CauseReady)
	<-sending.tries
	sending.stop()
	<-sending.ended
	waiting := newLine(t)
	waiting.Report(operationscenter.CauseReady)
	<-waiting.tries
	waiting.answer <- errAway
	<-waiting.pauses
	waiting.stop()
	<-waiting.ended
	if got := waiting.State().GivenUp; got != 0 {
		t.Errorf("%d given up", got)
	}
}

// A node that goes down says so at once, whatever waits.
func TestReporter_Now_PassesTheQueue(t *testing.T) {
	var sent []operationscenter.Cause
	r := operationscenter.NewReporter(func(_ context.Context, cause operationscenter.Cause) error {
		sent = append(sent, cause)
		return errAway
	}, nil)
	r.Report(operationscenter.CauseReady)
	checkErr(t, r.Now(t.Context(), operationscenter.CauseShutdown), errAway)
	if diff := cmp.Diff([]operationscenter.Cause{"system-shutdown-triggered"}, sent); diff != "" {
		t.Error(diff)
	}
	want := operationscenter.ReporterState{Pending: []operationscenter.Cause{"system-is-ready"}, LastError: errAway}
	if diff := cmp.Diff(want, r.State(), cmpopts.EquateErrors()); diff != "" {
		t.Error(diff)
	}
}
