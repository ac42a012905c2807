package health_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/update/health"
)

// node is a node whose parts become well at a time, and may break again later.
type node struct {
	mu    sync.Mutex
	clock health.Clock
	// from is when a part becomes well, until when it is; never set means at once and for ever.
	from, until map[string]time.Duration
	// hang are parts that never answer, not even when the question is taken back.
	hang map[string]chan struct{}
}

var errPart = errors.New("connection refused")

func (n *node) part(ctx context.Context, name string) error {
	n.mu.Lock()
	from, until, hang := n.from[name], n.until[name], n.hang[name]
	n.mu.Unlock()
	if hang != nil {
		<-hang
	}
	if now := n.clock.Elapsed(); now < from || (until > 0 && now >= until) {
		return errPart
	}
	return ctx.Err()
}

func (n *node) API(ctx context.Context) error           { return n.part(ctx, "api") }
func (n *node) StateWritable(ctx context.Context) error { return n.part(ctx, "state") }

func (n *node) Applications(ctx context.Context) ([]health.Application, error) {
	incus := health.Application{Name: "incus", Ready: true}
	if err := n.part(ctx, "incus"); err != nil {
		incus = health.Application{Name: "incus", Detail: "incus.service: failed"}
	}
	if n.part(ctx, "openfga") != nil {
		return []health.Application{incus}, n.part(ctx, "applications")
	}
	return []health.Application{incus, {Name: "openfga", Ready: true}}, n.part(ctx, "applications")
}

func (n *node) Pools(ctx context.Context) ([]string, error) {
	if n.part(ctx, "tank") != nil {
		return []string{"local"}, nil
	}
	return []string{"tank", "local"}, nil
}

func (n *node) Network(ctx context.Context) (health.Network, error) {
	if n.part(ctx, "enp1s0") != nil {
		return health.Network{Missing: []string{"192.0.2.7/24 on enp1s0"}}, nil
	}
	return health.Network{Interfaces: []string{"enp1s0"}}, nil
}

func (n *node) Instances(ctx context.Context) ([]string, error) {
	if n.part(ctx, "instance") != nil {
		return nil, nil
	}
	return []string{"default/web"}, nil
}

var before = health.Baseline{
	Version: "202611010000", Applications: []string{"incus", "openfga"}, Pools: []string{"local", "tank"},
	Interfaces: []string{"enp1s0"}, Instances: []string{"default/web"},
}

// summary is what a test compares: outcome, time, and which check was what.
type summary struct {
	Good   bool
	Reason string
	Took   time.Duration
	OK     string
}

func judge(t *testing.T, n *node, settings health.Settings, spent time.Duration) summary {
	t.Helper()
	n.clock = health.NewClock()
	gate := health.Gate{Observer: n, Clock: n.clock, Settings: settings}
	v, err := gate.Run(t.Context(), before, spent, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := summary{Good: v.Good, Reason: v.Reason, Took: v.Took}
	for _, r := range v.Results {
		if r.OK {
			s.OK += r.Name + " "
		}
	}
	return s
}

// A release is good when the promise to the user holds, and each way in which it may not
// is told by its name.
func TestRun_EachPartThatDoesNotComeBack_IsBadAndNamed(t *testing.T) {
	const never = 1000 * time.Hour
	s, m := time.Second, time.Minute
	for _, c := range []struct {
		name  string
		node  *node
		spent time.Duration
		want  summary
	}{
		{"all well", &node{}, 0, summary{true, "", 10 * s, "api state network pools applications "}},
		{"slow but well", &node{from: map[string]time.Duration{"incus": 9 * m, "api": 1 * m}}, 0,
			summary{true, "", 9*m + 10*s, "api state network pools applications "}},
		{"api never answers", &node{from: map[string]time.Duration{"api": never}}, 0,
			summary{false, "api: connection refused", 3 * m, "state network pools applications "}},
		{"no network", &node{from: map[string]time.Duration{"enp1s0": never}}, 0,
			summary{false, "network: configured address missing: 192.0.2.7/24 on enp1s0 interface enp1s0 had an address before and has none",
				3 * m, "api state pools applications "}},
		{"pool not imported", &node{from: map[string]time.Duration{"tank": never}}, 0,
			summary{false, "pools: pool tank was imported before and is not", 5 * m, "api state network applications "}},
		{"application missing", &node{from: map[string]time.Duration{"openfga": never}}, 0,
			summary{false, "applications: application openfga ran before and is not there", 10 * m, "api state network pools "}},
		{"application not ready", &node{from: map[string]time.Duration{"incus": never}}, 0,
			summary{false, "applications: application incus is not ready: incus.service: failed", 10 * m, "api state network pools "}},
		{"state not writable", &node{from: map[string]time.Duration{"state": never}}, 0,
			summary{false, "state: connection refused", m, "api network pools applications "}},
		{"answers once between two crashes", &node{until: map[string]time.Duration{"api": 3 * s}}, 0,
			summary{false, "api: connection refused", 3 * m, "state network pools applications "}},
		{"a restart of the daemon does not begin anew", &node{from: map[string]time.Duration{"incus": never}}, 8 * m,
			summary{false, "network: not answered yet", 0, ""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got := judge(t, c.node, health.Settings{}, c.spent)
				if c.name == "a restart of the daemon does not begin anew" {
					if got.Good || got.Took != 0 { // more than one check is out of time at once
						t.Errorf("got %+v", got)
					}
					return
				}
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

// A pool on a dead disk hangs in the kernel; the node must go back all the same.
func TestRun_QuestionThatCannotBeInterrupted_EndsWithItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		defer close(release)
		n := &node{hang: map[string]chan struct{}{"tank": release}}
		got := judge(t, n, health.Settings{Timeouts: map[string]time.Duration{health.CheckPools: 45 * time.Second}}, 0)
		want := summary{false, "pools: no answer in 13s", 45 * time.Second, "api state network applications "}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestRun_Instances_OnlyWhereAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := map[string]time.Duration{"instance": time.Hour}
		if got := judge(t, &node{from: broken}, health.Settings{}, 0); !got.Good {
			t.Errorf("not asked for: %+v", got)
		}
		got := judge(t, &node{from: broken}, health.Settings{Instances: true, Budget: time.Minute}, 0)
		want := summary{false, "instances: instance default/web ran before and does not", time.Minute, "api state network pools applications "}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

// Who watches sees each check with its time while the gate runs.
func TestRun_Report_TellsEachChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{clock: health.NewClock(), from: map[string]time.Duration{"incus": 5 * time.Second}}
		var last []health.Result
		changes := 0
		gate := health.Gate{Observer: n, Clock: n.clock}
		begun := time.Now().UTC()
		if _, err := gate.Run(t.Context(), before, 0, func(r []health.Result) { last, changes = r, changes+1 }); err != nil {
			t.Fatal(err)
		}
		six := begun.Add(6 * time.Second)
		want := []health.Result{
			{Name: "api", OK: true, Since: begun}, {Name: "state", OK: true, Since: begun}, {Name: "network", OK: true, Since: begun},
			{Name: "pools", OK: true, Since: begun}, {Name: "applications", OK: true, Since: six, Duration: 6 * time.Second},
		}
		if diff := cmp.Diff(want, last); diff != "" || changes != 6 {
			t.Errorf("%d changes, want 5 first answers and 1 more: %s", changes, diff)
		}
	})
}

// A daemon that is stopped in the middle has not judged the release.
func TestRun_Stopped_HasNoVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{clock: health.NewClock(), from: map[string]time.Duration{"api": time.Hour}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		got, err := health.Gate{Observer: n, Clock: n.clock}.Run(ctx, before, 0, nil)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %+v, %v", got, err)
		}
	})
}

func TestCapture_NotesWhatRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{clock: health.NewClock(), from: map[string]time.Duration{"openfga": time.Hour, "instance": time.Hour}}
		gate := health.Gate{Observer: n, Clock: n.clock}
		got, err := gate.Capture(t.Context(), "202611020000", before)
		if err != nil {
			t.Fatal(err)
		}
		want := health.Baseline{
			Version: "202611020000", At: time.Now().UTC(), Applications: []string{"incus"}, Pools: []string{"local", "tank"},
			Interfaces: []string{"enp1s0"}, Instances: []string{"default/web"},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

// An application manager that does not answer for a moment must not make the gate of the
// next update look away.
func TestCapture_PartThatCannotBeLookedAt_KeepsWhatWasKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{clock: health.NewClock(), from: map[string]time.Duration{"applications": time.Hour}}
		got, err := health.Gate{Observer: n, Clock: n.clock}.Capture(t.Context(), "202611020000", before)
		if !errors.Is(err, errPart) {
			t.Errorf("got error %v, want %v", err, errPart)
		}
		if diff := cmp.Diff([]string{"incus", "openfga"}, got.Applications); diff != "" {
			t.Error(diff)
		}
	})
}
