// Package metrics tells the state of the node in numbers, in the text format of
// Prometheus (version 0.0.4).
//
// A Collector has three sources: what the daemon knows (Source, asked at each scrape),
// the requests that were answered (Requests, counted as they happen), and the node
// exporter on the same machine, whose families are put behind the own ones.
//
// Invariants:
//
//   - A scrape always gives an answer. A source that fails is holdfast_collect_success 0;
//     an exporter that is missing, slow, too large or not readable as a whole is
//     holdfast_node_exporter_up 0, and none of its families is in the answer.
//   - The name of a family occurs once. Own families begin with "holdfast_", and one of
//     the exporter with such a name is left out.
//   - The number of series is bounded: by the lists of Source, which are cut at maxItems,
//     and by fixed sets of methods and codes. Values of labels are cut too.
//   - Scrapes that come at the same time share one answer, and one is at most MaxAge old.
package metrics

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// ContentType is the media type of an answer.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

const (
	// DefaultTimeout is how long one collection may take.
	DefaultTimeout = 8 * time.Second
	// DefaultMaxAge is how old an answer may be.
	DefaultMaxAge = time.Second
	// maxItems is how many members of one list of a Snapshot are told.
	maxItems = 256
)

// Source is what the daemon knows.
type Source interface {
	// Snapshot gives the node as it is now. With an error it gives as much as it can.
	Snapshot(ctx context.Context) (Snapshot, error)
}

// Exporter is another source of families in the text format.
type Exporter interface {
	// Fetch gives the whole text.
	Fetch(ctx context.Context) ([]byte, error)
}

// Snapshot is the node at one moment. What is not known is left empty.
type Snapshot struct {
	// OSName and OSVersion are those of the running release.
	OSName, OSVersion string
	// Ready is true once every phase of boot has ended well.
	Ready bool
	// Phases are the phases of boot that have ended.
	Phases []Phase
	// Update is one short word for what the update agent does, from a fixed set, as
	// "idle", "checking" or "failed"; never a text with an error in it.
	Update string
	// NeedsReboot is true when a new release waits for a restart.
	NeedsReboot bool
	// Pools are the storage pools.
	Pools []Pool
	// Certificates are those that expire.
	Certificates []Certificate
	// Applications are those that are installed.
	Applications []Application
	// Operations are how many there are, by the name of their status.
	Operations map[string]int
	// EventListeners is how many listen to events.
	EventListeners int
}

// Phase is a phase of boot.
type Phase struct {
	// Name is that of the phase, as "network".
	Name string
	// Took is how long it took.
	Took time.Duration
}

// Pool is a storage pool.
type Pool struct {
	// Name is that of the pool.
	Name string
	// State is that of ZFS, as "ONLINE" or "DEGRADED".
	State string
}

// Certificate is one that expires.
type Certificate struct {
	// Name says what it is for, as "incus-server".
	Name string
	// Expires is the end of its life.
	Expires time.Time
}

// Application is one that is installed.
type Application struct {
	// Name is that of the application.
	Name string
	// Version is the running one.
	Version string
	// Running is true when its services are.
	Running bool
}

// Options are what a Collector is made of.
type Options struct {
	// Source must be set.
	Source Source
	// Exporter is the node exporter; nil leaves it out, and its metric too.
	Exporter Exporter
	// Requests are the counters of the API; default none.
	Requests *Requests
	// Process tells the daemon's own use of the machine; default that of this process,
	// with names that begin with "holdfast_process_".
	Process prometheus.Collector
	// Log gets what failed; default slog.Default.
	Log *slog.Logger
	// Now is the present; default time.Now.
	Now func() time.Time
	// Timeout is how long one collection may take; default DefaultTimeout.
	Timeout time.Duration
	// MaxAge is how old an answer may be; default DefaultMaxAge.
	MaxAge time.Duration
}

// Collector answers scrapes. Its methods may be called at the same time.
type Collector struct {
	o Options

	mu      sync.Mutex
	last    []byte
	lastAt  time.Time
	running chan struct{} // closed when the collection that runs has ended; nil when none runs
}

// New makes a collector.
func New(o Options) *Collector {
	if o.Requests == nil {
		o.Requests = NewRequests()
	}
	if o.Process == nil {
		o.Process = collectors.NewProcessCollector(collectors.ProcessCollectorOpts{Namespace: "holdfast"})
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if o.MaxAge <= 0 {
		o.MaxAge = DefaultMaxAge
	}
	return &Collector{o: o}
}

// Text gives the answer of GET /1.0/metrics; nobody may change it. The error is that of
// the caller's context.
func (c *Collector) Text(ctx context.Context) ([]byte, error) {
	for {
		c.mu.Lock()
		if age := c.o.Now().Sub(c.lastAt); c.last != nil && age >= 0 && age < c.o.MaxAge {
			defer c.mu.Unlock()
			return c.last, nil
		}
		wait := c.running
		if wait == nil {
			wait = make(chan struct{})
			c.running = wait
			go c.collect(wait)
		}
		c.mu.Unlock()
		select {
		case <-wait:
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.last, nil
		case <-ctx.Done():
			return nil, fmt.Errorf("collecting metrics: %w", ctx.Err())
		}
	}
}

// collect makes a new answer. It is nobody's request: who waits for it may go.
func (c *Collector) collect(done chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), c.o.Timeout)
	defer cancel()
	text := c.text(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last, c.lastAt, c.running = text, c.o.Now(), nil
	close(done)
}

// text asks all sources, the exporter beside the daemon.
func (c *Collector) text(ctx context.Context) []byte {
	fetched := make(chan []*dto.MetricFamily, 1)
	go func() { fetched <- c.exported(ctx) }()
	snapshot, err := c.snapshot(ctx)
	if err != nil {
		c.o.Log.Warn("collecting metrics", "error", err)
	}
	now := moment{snapshot: snapshot, complete: err == nil}
	theirs := <-fetched
	if c.o.Exporter != nil {
		up := theirs != nil
		now.exporter = &up
	}
	registry := prometheus.NewRegistry()
	for _, own := range []prometheus.Collector{now, c.o.Requests.total, c.o.Requests.took, c.o.Process} {
		if err := registry.Register(own); err != nil {
			c.o.Log.Error("collecting metrics", "error", err)
		}
	}
	ours, err := registry.Gather()
	if err != nil {
		c.o.Log.Error("collecting metrics: some are left out", "error", err)
	}
	return c.encode(append(ours, theirs...))
}

// encode writes families as text.
func (c *Collector) encode(all []*dto.MetricFamily) []byte {
	var out bytes.Buffer
	for _, f := range all {
		before := out.Len()
		if _, err := expfmt.MetricFamilyToText(&out, f); err != nil {
			c.o.Log.Error("encoding metrics: one is left out", "name", f.GetName(), "error", err)
			out.Truncate(before)
		}
	}
	return out.Bytes()
}

// snapshot turns a panic or a source that never answers into an error.
func (c *Collector) snapshot(ctx context.Context) (Snapshot, error) {
	type result struct {
		snapshot Snapshot
		err      error
	}
	got := make(chan result, 1)
	go func() {
		defer func() {
			if cause := recover(); cause != nil {
				got <- result{err: fmt.Errorf("the node made a mistake: %v", cause)}
			}
		}()
		s, err := c.o.Source.Snapshot(ctx)
		got <- result{s, err}
	}()
	select {
	case r := <-got:
		return r.snapshot, r.err
	case <-ctx.Done():
		return Snapshot{}, fmt.Errorf("asking the daemon: %w", ctx.Err())
	}
}

// exported gives the families of the exporter; nil when there are none to be had.
func (c *Collector) exported(ctx context.Context) []*dto.MetricFamily {
	if c.o.Exporter == nil {
		return nil
	}
	text, err := c.o.Exporter.Fetch(ctx)
	if err != nil {
		c.o.Log.Debug("asking the node exporter", "error", err)
		return nil
	}
	all, err := parse(text)
	if err != nil {
		c.o.Log.Warn("reading the metrics of the node exporter", "error", err)
		return nil
	}
	return all
}

// parse reads the text of another program, whole or not at all, and gives its families
// by name, without those that only this package may have. It is never nil without an
// error.
func parse(text []byte) (all []*dto.MetricFamily, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			all, err = nil, fmt.Errorf("the text made its reader panic: %v", cause)
		}
	}()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	found, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	all = []*dto.MetricFamily{}
	for name, f := range found {
		if err := check(f); err != nil {
			return nil, err
		}
		if !strings.HasPrefix(name, "holdfast_") {
			all = append(all, f)
		}
	}
	slices.SortFunc(all, func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) })
	return all, nil
}

// check finds what the library reads and nobody can read again: a label or a series that
// is there twice.
func check(f *dto.MetricFamily) error {
	series := map[string]bool{}
	for _, m := range f.GetMetric() {
		var labels []string
		for _, l := range m.GetLabel() {
			labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
		}
		slices.Sort(labels)
		for i := 1; i < len(labels); i++ {
			if before, _, _ := strings.Cut(labels[i-1], "="); strings.HasPrefix(labels[i], before+"=") {
				return fmt.Errorf("metric %s has label %s twice", f.GetName(), before)
			}
		}
		key := strings.Join(labels, ",")
		if series[key] {
			return fmt.Errorf("metric %s has the series {%.200s} twice", f.GetName(), key)
		}
		series[key] = true
	}
	return nil
}
