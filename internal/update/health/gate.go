package health

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Observer looks at the running node. Its methods may be called at the same time, may
// wait, and end with ctx.
type Observer interface {
	// API asks holdfastd's own socket for /1.0.
	API(ctx context.Context) error
	// Applications are all installed ones.
	Applications(ctx context.Context) ([]Application, error)
	// Pools are the names of the imported ZFS pools.
	Pools(ctx context.Context) ([]string, error)
	Network(ctx context.Context) (Network, error)
	// StateWritable writes to the directory of the node's state, and reads it back.
	StateWritable(ctx context.Context) error
	// Instances are the running instances as "project/name".
	Instances(ctx context.Context) ([]string, error)
}

// Clock is the time. Elapsed and After run on a clock that nobody sets.
type Clock interface {
	Now() time.Time
	Elapsed() time.Duration
	After(time.Duration) <-chan time.Time
}

// Settings bound the gate. The zero value of each field is its default.
type Settings struct {
	// Budget is the time for all of it; default 10 minutes.
	Budget time.Duration
	// Timeouts are the times of single checks by name, never more than Budget. Defaults:
	// api 3 minutes, state 1 minute, network 3 minutes, pools 5 minutes, applications and
	// instances the whole budget.
	Timeouts map[string]time.Duration
	// Every is the time between two questions of one check; default 2 seconds.
	Every time.Duration
	// Try bounds one question; default 30 seconds.
	Try time.Duration
	// Settle is how long all checks have to hold before they are asked once more; default
	// 10 seconds.
	Settle time.Duration
	// Instances has the gate wait for the instances that ran before; default false, since
	// an instance may fail for reasons of its own.
	Instances bool
}

// The names of the checks, in the order of results.
const (
	CheckAPI          = "api"
	CheckState        = "state"
	CheckNetwork      = "network"
	CheckPools        = "pools"
	CheckApplications = "applications"
	CheckInstances    = "instances"
)

// NotAnswered is the Error of a check that has not been answered once.
const NotAnswered = "not answered yet"

func (s Settings) withDefaults() Settings {
	set := func(d *time.Duration, otherwise time.Duration) {
		if *d <= 0 {
			*d = otherwise
		}
	}
	set(&s.Budget, 10*time.Minute)
	set(&s.Every, 2*time.Second)
	set(&s.Try, 30*time.Second)
	set(&s.Settle, 10*time.Second)
	return s
}

func (s Settings) timeout(name string) time.Duration {
	defaults := map[string]time.Duration{
		CheckAPI: 3 * time.Minute, CheckState: time.Minute, CheckNetwork: 3 * time.Minute, CheckPools: 5 * time.Minute,
	}
	for _, d := range []time.Duration{s.Timeouts[name], defaults[name]} {
		if d > 0 {
			return min(d, s.Budget)
		}
	}
	return s.Budget
}

// Result is how one check went.
type Result struct {
	// Name is one of the names above.
	Name string `json:"name"`
	// OK is true when the last question was answered well.
	OK bool `json:"ok"`
	// Pending is true while it will be asked again.
	Pending bool `json:"pending,omitempty"`
	// Error is what was wrong the last time; empty when OK.
	Error string `json:"error,omitempty"`
	// Since is when it became what it is, UTC.
	Since time.Time `json:"since"`
	// Duration is the time from the start of the gate to Since, in nanoseconds.
	Duration time.Duration `json:"duration"`
}

// Verdict is what the gate found.
type Verdict struct {
	// Good is true when every check held.
	Good bool `json:"good"`
	// Reason names the checks that did not hold, for a person; empty when Good.
	Reason string `json:"reason,omitempty"`
	// Results are all checks, in a fixed order.
	Results []Result `json:"results,omitempty"`
	// Took is the time of the gate, in nanoseconds.
	Took time.Duration `json:"took"`
}

// Gate asks until all is well or the time is over.
type Gate struct {
	Observer Observer
	Clock    Clock
	Settings Settings
}

// check is one question.
type check struct {
	name string
	ask  func(context.Context) error
}

// answer is what a check says each time it has been asked.
type answer struct {
	at   int
	err  error
	last bool
}

func (g Gate) checks(before Baseline) []check {
	o := g.Observer
	all := []check{
		{CheckAPI, o.API},
		{CheckState, o.StateWritable},
		{CheckNetwork, func(ctx context.Context) error {
			now, err := o.Network(ctx)
			return orJudge(err, func() error { return judgeNetwork(before, now) })
		}},
		{CheckPools, func(ctx context.Context) error {
			now, err := o.Pools(ctx)
			return orJudge(err, func() error { return judgePools(before, now) })
		}},
		{CheckApplications, func(ctx context.Context) error {
			now, err := o.Applications(ctx)
			return orJudge(err, func() error { return judgeApplications(before, now) })
		}},
	}
	if g.Settings.Instances {
		all = append(all, check{CheckInstances, func(ctx context.Context) error {
			now, err := o.Instances(ctx)
			return orJudge(err, func() error { return judgeInstances(before, now) })
		}})
	}
	return all
}

func orJudge(err error, judge func() error) error {
	if err != nil {
		return err
	}
	return judge()
}

// Run asks every check at the same time, each until it holds or its time is over, then
// all of them once more. spent is how much of the budget an earlier run in this boot has
// used. report, which may be nil, hears of each change. An error means that ctx ended
// before there was a verdict; the gate has to be run again then.
func (g Gate) Run(ctx context.Context, before Baseline, spent time.Duration, report func([]Result)) (Verdict, error) {
	g.Settings = g.Settings.withDefaults()
	begun := g.Clock.Elapsed()
	run := &running{gate: g, checks: g.checks(before), begun: begun, spent: max(spent, 0), report: report}
	for _, c := range run.checks {
		run.results = append(run.results, Result{Name: c.name, Pending: true, Error: NotAnswered, Since: g.Clock.Now().UTC()})
	}
	good := false
	for !good {
		if failed := run.askAll(ctx); failed || ctx.Err() != nil {
			break
		}
		select {
		case <-ctx.Done():
		case <-g.Clock.After(g.Settings.Settle):
		}
		good = run.confirm(ctx)
	}
	if ctx.Err() != nil {
		return Verdict{}, fmt.Errorf("looking whether the release is good: %w", ctx.Err())
	}
	return run.verdict(good), nil
}

// running is one run of a gate.
type running struct {
	gate    Gate
	checks  []check
	results []Result
	begun   time.Duration
	spent   time.Duration
	report  func([]Result)
}

// left is the time that a check still has.
func (r *running) left(name string) time.Duration {
	return r.gate.Settings.timeout(name) - r.spent - (r.gate.Clock.Elapsed() - r.begun)
}

// askAll asks the checks that do not hold until they do; true means that one is out of time.
func (r *running) askAll(ctx context.Context) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan answer)
	waiting := 0
	for i, c := range r.checks {
		if r.results[i].OK {
			continue
		}
		if r.left(c.name) <= 0 {
			return true
		}
		waiting++
		go r.repeat(ctx, i, c, answers)
	}
	for waiting > 0 {
		select {
		case <-ctx.Done():
			return false
		case a := <-answers:
			r.note(a)
			if a.last && a.err != nil {
				return true
			}
			if a.last {
				waiting--
			}
		}
	}
	return false
}

// repeat asks one check until it holds or is out of time.
func (r *running) repeat(ctx context.Context, at int, c check, answers chan<- answer) {
	var err error
	for {
		if err == nil || r.left(c.name) > 0 { // the last word is what was wrong, not that time is over
			err = r.try(ctx, c)
		}
		a := answer{at: at, err: err, last: err == nil || r.left(c.name) <= 0}
		select {
		case answers <- a:
		case <-ctx.Done():
			return
		}
		if a.last {
			return
		}
		select {
		case <-r.gate.Clock.After(min(r.gate.Settings.Every, max(r.left(c.name), 0))):
		case <-ctx.Done():
			return
		}
	}
}

// try asks one check once. It does not wait for a question that outlives its time: what
// hangs in the kernel cannot be interrupted.
func (r *running) try(ctx context.Context, c check) error {
	limit := min(r.gate.Settings.Try, r.left(c.name))
	if limit <= 0 {
		return errors.New("no time left to ask")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- c.ask(ctx) }()
	select {
	case err := <-done:
		return err
	case <-r.gate.Clock.After(limit):
		return fmt.Errorf("no answer in %s", limit.Round(time.Second))
	case <-ctx.Done():
		return ctx.Err()
	}
}

// confirm asks every check once more; what does not hold is asked again by askAll.
func (r *running) confirm(ctx context.Context) bool {
	answers := make(chan answer, len(r.checks))
	for i, c := range r.checks {
		go func() { answers <- answer{at: i, err: r.confirmOne(ctx, c)} }()
	}
	good := true
	for range r.checks {
		a := <-answers
		r.note(a)
		good = good && a.err == nil
	}
	return good
}

// confirmOne gives a check whose time is over while the others settled one more moment:
// it did hold in time.
func (r *running) confirmOne(ctx context.Context, c check) error {
	if r.left(c.name) > 0 {
		return r.try(ctx, c)
	}
	late := &running{gate: r.gate, begun: r.gate.Clock.Elapsed()}
	late.gate.Settings.Timeouts = nil
	late.gate.Settings.Budget = r.gate.Settings.Try
	return late.try(ctx, c)
}

// note keeps what a check said.
func (r *running) note(a answer) {
	is := Result{Name: r.checks[a.at].name, OK: a.err == nil, Pending: a.err != nil && !a.last}
	if a.err != nil {
		is.Error = clip(a.err.Error())
	}
	was := r.results[a.at]
	is.Since, is.Duration = was.Since, was.Duration
	if was.OK != is.OK || was.Error != is.Error {
		is.Since, is.Duration = r.gate.Clock.Now().UTC(), r.gate.Clock.Elapsed()-r.begun
	}
	r.results[a.at] = is
	if is != was && r.report != nil {
		r.report(slices.Clone(r.results))
	}
}

func (r *running) verdict(good bool) Verdict {
	v := Verdict{Good: good, Results: r.results, Took: r.gate.Clock.Elapsed() - r.begun}
	var why []string
	for i, result := range r.results {
		r.results[i].Pending = false
		if !result.OK {
			why = append(why, result.Name+": "+result.Error)
		}
	}
	v.Reason = strings.Join(why, "; ")
	return v
}

// clip bounds what is kept of an error.
func clip(text string) string {
	const limit = 500
	text = strings.Join(strings.Fields(strings.ToValidUTF8(text, "?")), " ")
	if len(text) > limit {
		text = strings.ToValidUTF8(text[:limit], "") + "..."
	}
	return text
}
