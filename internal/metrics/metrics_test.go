package metrics_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/holdfast-os/holdfast/internal/metrics"
)

// source is a node that does not change.
type source struct {
	metrics.Snapshot
	err   error
	asked atomic.Int64
}

// node gives the state of the source.
type node struct{ *source }

func (n node) Snapshot(context.Context) (metrics.Snapshot, error) {
	n.asked.Add(1)
	return n.source.Snapshot, n.err
}

// text is an exporter that has its text already.
type text string

func (t text) Fetch(context.Context) ([]byte, error) { return []byte(t), nil }

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// nothing stands for the metrics of this process, which no test can know.
func nothing() prometheus.Collector {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "x"}, []string{"y"})
}

func scrape(t *testing.T, o metrics.Options) string {
	t.Helper()
	if o.Log == nil {
		o.Log = quiet()
	}
	if o.Process == nil {
		o.Process = nothing()
	}
	got, err := metrics.New(o).Text(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}

var full = metrics.Snapshot{
	OSName: "Holdfast", OSVersion: "202603011200", Ready: true, Update: "idle", NeedsReboot: true,
	Phases:       []metrics.Phase{{Name: "network", Took: 1500 * time.Millisecond}, {Name: "api", Took: 2 * time.Millisecond}},
	Pools:        []metrics.Pool{{Name: "local", State: "ONLINE"}, {Name: "tank", State: "DEGRADED"}},
	Certificates: []metrics.Certificate{{Name: "incus-server", Expires: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)}},
	Applications: []metrics.Application{{Name: "incus", Version: "6.17", Running: true}},
	Operations:   map[string]int{"running": 1, "success": 3}, EventListeners: 2,
}

const fullText = `# HELP holdfast_api_request_duration_seconds How long requests of the API took.
# TYPE holdfast_api_request_duration_seconds histogram
holdfast_api_request_duration_seconds_bucket{method="GET",le="0.005"} 1
holdfast_api_request_duration_seconds_bucket{method="GET",le="0.025"} 1
holdfast_api_request_duration_seconds_bucket{method="GET",le="0.1"} 1
holdfast_api_request_duration_seconds_bucket{method="GET",le="0.5"} 2
holdfast_api_request_duration_seconds_bucket{method="GET",le="1"} 2
holdfast_api_request_duration_seconds_bucket{method="GET",le="5"} 2
holdfast_api_request_duration_seconds_bucket{method="GET",le="30"} 2
holdfast_api_request_duration_seconds_bucket{method="GET",le="120"} 2
holdfast_api_request_duration_seconds_bucket{method="GET",le="600"} 2
holdfast_api_request_duration_seconds_bucket{method="GET",le="+Inf"} 3
holdfast_api_request_duration_seconds_sum{method="GET"} 1000.2505
holdfast_api_request_duration_seconds_count{method="GET"} 3
# HELP holdfast_api_requests_total Answered requests of the API.
# TYPE holdfast_api_requests_total counter
holdfast_api_requests_total{code="101",method="GET"} 1
holdfast_api_requests_total{code="200",method="GET"} 2
holdfast_api_requests_total{code="403",method="GET"} 1
# HELP holdfast_application_info An installed application, with its version as a label.
# TYPE holdfast_application_info gauge
holdfast_application_info{application="incus",version="6.17"} 1
# HELP holdfast_application_running Whether the application is running.
# TYPE holdfast_application_running gauge
holdfast_application_running{application="incus"} 1
# HELP holdfast_boot_phase_seconds How long each phase of the last boot took.
# TYPE holdfast_boot_phase_seconds gauge
holdfast_boot_phase_seconds{phase="api"} 0.002
holdfast_boot_phase_seconds{phase="network"} 1.5
# HELP holdfast_certificate_expiry_timestamp When the certificate expires, in seconds since 1970.
# TYPE holdfast_certificate_expiry_timestamp gauge
holdfast_certificate_expiry_timestamp{certificate="incus-server"} 1.7987616e+09
# HELP holdfast_collect_success Whether the daemon could tell all of its state.
# TYPE holdfast_collect_success gauge
holdfast_collect_success 1
# HELP holdfast_event_listeners How many listen to events.
# TYPE holdfast_event_listeners gauge
holdfast_event_listeners 2
# HELP holdfast_node_exporter_up Whether the node exporter gave its metrics.
# TYPE holdfast_node_exporter_up gauge
holdfast_node_exporter_up 1
# HELP holdfast_operations Operations by status.
# TYPE holdfast_operations gauge
holdfast_operations{status="running"} 1
holdfast_operations{status="success"} 3
# HELP holdfast_os_info The running release, as labels.
# TYPE holdfast_os_info gauge
holdfast_os_info{name="Holdfast",version="202603011200"} 1
# HELP holdfast_pool_health 1 when the pool is ONLINE, 0 when it is degraded or worse.
# TYPE holdfast_pool_health gauge
holdfast_pool_health{pool="local"} 1
holdfast_pool_health{pool="tank"} 0
# HELP holdfast_pool_state The state of the pool, as a label.
# TYPE holdfast_pool_state gauge
holdfast_pool_state{pool="local",state="ONLINE"} 1
holdfast_pool_state{pool="tank",state="DEGRADED"} 1
# HELP holdfast_ready Whether every phase of boot has ended well.
# TYPE holdfast_ready gauge
holdfast_ready 1
# HELP holdfast_update_needs_reboot Whether a new release waits for a restart.
# TYPE holdfast_update_needs_reboot gauge
holdfast_update_needs_reboot 1
# HELP holdfast_update_state What the update agent does, as a label.
# TYPE holdfast_update_state gauge
holdfast_update_state{state="idle"} 1
# HELP go_goroutines Number of goroutines that currently exist.
# TYPE go_goroutines gauge
go_goroutines 8
# HELP node_load1 1m load average.
# TYPE node_load1 gauge
node_load1 0.25
# HELP process_cpu_seconds_total Total user and system CPU time spent in seconds.
# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total 1.5
`

// exported is what a node exporter says, and a family that it has no right to.
const exported = `# HELP node_load1 1m load average.
# TYPE node_load1 gauge
node_load1 0.25
# HELP go_goroutines Number of goroutines that currently exist.
# TYPE go_goroutines gauge
go_goroutines 8
# HELP process_cpu_seconds_total Total user and system CPU time spent in seconds.
# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total 1.5
# TYPE holdfast_ready gauge
holdfast_ready 0
`

// What dashboards and alerts are built on.
func TestText_WholeNode_IsAsDocumented(t *testing.T) {
	requests := metrics.NewRequests()
	requests.Observe("GET", 200, 500*time.Microsecond)
	requests.Observe("GET", 403, 250*time.Millisecond)
	requests.Observe("GET", 200, 1000*time.Second)
	requests.Observe("GET", 101, time.Hour)
	got := scrape(t, metrics.Options{Source: node{&source{Snapshot: full}}, Exporter: text(exported), Requests: requests})
	if diff := cmp.Diff(fullText, got); diff != "" {
		t.Error(diff)
	}
}

// names gives the families of a text, read with the library that others read it with.
func names(t *testing.T, got string) []string {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(got))
	if err != nil {
		t.Fatalf("%v in:\n%s", err, got)
	}
	var all []string
	for name := range families {
		all = append(all, name)
	}
	slices.Sort(all)
	var typed []string
	for line := range strings.Lines(got) {
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			typed = append(typed, strings.Fields(rest)[0])
		}
	}
	slices.Sort(typed)
	// A name that occurs twice is in the lines twice, and in the families once.
	if diff := cmp.Diff(all, typed); diff != "" {
		t.Errorf("families against TYPE lines: %s", diff)
	}
	return all
}

// The numbers of the process come with own names, beside those of the exporter.
func TestText_ProcessAndExporter_HaveEachNameOnce(t *testing.T) {
	c := metrics.New(metrics.Options{Source: node{&source{Snapshot: full}}, Exporter: text(exported), Log: quiet()})
	got, err := c.Text(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all := names(t, string(got))
	for _, want := range []string{"holdfast_process_cpu_seconds_total", "holdfast_process_resident_memory_bytes", "holdfast_process_open_fds", "process_cpu_seconds_total", "node_load1", "holdfast_ready"} {
		if !slices.Contains(all, want) {
			t.Errorf("%s is missing in %q", want, all)
		}
	}
	if strings.Contains(string(got), "\nholdfast_ready 0") {
		t.Error("the exporter spoke for the node")
	}
}

func TestText_ExporterThatFails_IsNoError(t *testing.T) {
	serve := func(handler http.HandlerFunc) metrics.Exporter {
		server := httptest.NewServer(handler)
		t.Cleanup(server.Close)
		return metrics.NewHTTPExporter(server.URL)
	}
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	good := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, exported) }))
	defer good.Close()
	// It reads well wherever it is cut.
	large := append([]byte(exported), bytes.Repeat([]byte("\n"), 9<<20)...)
	cases := map[string]metrics.Exporter{
		"missing":   metrics.NewHTTPExporter(gone.URL),
		"not found": serve(http.NotFound),
		"elsewhere": serve(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, good.URL, http.StatusFound)
		}),
		"a page":       text("<html></html>\n"),
		"cut short":    text("# TYPE node_load1 gauge\nnode_load1 0." + "x"),
		"no line end":  text("node_load1 1"),
		"TYPE twice":   text("# TYPE a gauge\n# TYPE a gauge\na 1\n"),
		"label twice":  text("node_load1{le=\"\"} 1\n{le=\"\"} 0\n"),
		"series twice": text("node_load1{a=\"1\",b=\"2\"} 1\nnode_load1{b=\"2\",a=\"1\"} 1\n"),
		"cut off": serve(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, "node_load1 1\n")
		}),
		"too large": serve(func(w http.ResponseWriter, _ *http.Request) {
			w.Write(large)
		}),
		"too large when unpacked": serve(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			z.Write(large)
			z.Close()
		}),
	}
	for name, exporter := range cases {
		t.Run(name, func(t *testing.T) {
			got := scrape(t, metrics.Options{Source: node{&source{Snapshot: full}}, Exporter: exporter})
			all := names(t, got)
			if !strings.Contains(got, "\nholdfast_node_exporter_up 0\n") || !slices.Contains(all, "holdfast_ready") || slices.Contains(all, "node_load1") {
				t.Errorf("families %q in:\n%s", all, got)
			}
		})
	}
}

func TestText_ExporterThatHangs_IsLeftOut(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer server.Close()
	defer close(release)
	got := scrape(t, metrics.Options{Source: node{&source{Snapshot: full}}, Exporter: metrics.NewHTTPExporter(server.URL), Timeout: 50 * time.Millisecond})
	if !strings.Contains(got, "\nholdfast_node_exporter_up 0\n") {
		t.Error(got)
	}
}

func TestText_ExporterOverHTTP_IsPutBehind(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.Header.Get("Accept"), "text/plain") {
			t.Errorf("asked for %q", r.Header.Get("Accept"))
		}
		io.WriteString(w, exported)
	}))
	defer server.Close()
	got := scrape(t, metrics.Options{Source: node{&source{Snapshot: full}}, Exporter: metrics.NewHTTPExporter(server.URL)})
	if !strings.Contains(got, "\nholdfast_node_exporter_up 1\n") || !strings.HasSuffix(got, "\nprocess_cpu_seconds_total 1.5\n") {
		t.Error(got)
	}
}

// panicking, failing, hanging: the rest of the answer is there.
type panicking struct{}

func (panicking) Snapshot(context.Context) (metrics.Snapshot, error) { panic("oh") }

type hanging struct{}

func (hanging) Snapshot(context.Context) (metrics.Snapshot, error) { select {} }

func TestText_SourceThatFails_IsANumber(t *testing.T) {
	requests := metrics.NewRequests()
	requests.Observe("PUT", 200, 0)
	for name, s := range map[string]metrics.Source{
		"fails": node{&source{Snapshot: metrics.Snapshot{OSVersion: "1"}, err: errors.New("no pool")}}, "panics": panicking{}, "hangs": hanging{},
	} {
		t.Run(name, func(t *testing.T) {
			got := scrape(t, metrics.Options{Source: s, Requests: requests, Timeout: 50 * time.Millisecond})
			names(t, got)
			if !strings.Contains(got, "\nholdfast_collect_success 0\n") || !strings.Contains(got, `holdfast_api_requests_total{code="200",method="PUT"} 1`) {
				t.Error(got)
			}
			if strings.Contains(got, "node_exporter") {
				t.Error("an exporter that is not wanted is told")
			}
		})
	}
}

// Names that come from outside, as of a pool, cannot spoil the answer or let it grow.
func TestText_HostileNames_StayReadable(t *testing.T) {
	var s metrics.Snapshot
	for range 2 {
		s.Pools = append(s.Pools, metrics.Pool{Name: "a\"\n\\\xff{}" + strings.Repeat("x", 10000), State: "ONLINE"})
	}
	for i := range 10000 {
		s.Applications = append(s.Applications, metrics.Application{Name: fmt.Sprint(i)})
	}
	requests := metrics.NewRequests()
	for i := range 10000 {
		requests.Observe(fmt.Sprint("M", i), i*1000, 0)
	}
	got := scrape(t, metrics.Options{Source: node{&source{Snapshot: s}}, Requests: requests})
	names(t, got)
	lines := map[string]int{}
	for line := range strings.Lines(got) {
		lines[strings.FieldsFunc(line, func(r rune) bool { return r == '{' || r == ' ' })[0]]++
	}
	want := map[string]int{"holdfast_pool_health": 1, "holdfast_application_info": 256, "holdfast_api_requests_total": 1}
	for name, n := range want {
		if lines[name] != n {
			t.Errorf("%s has %d lines, want %d", name, lines[name], n)
		}
	}
	if len(got) > 64<<10 {
		t.Errorf("%d bytes", len(got))
	}
}

// 64 scrapers at the same time ask the node once.
func TestText_ManyCallers_ShareOneAnswer(t *testing.T) {
	s := &source{Snapshot: full}
	var now atomic.Int64
	requests := metrics.NewRequests()
	c := metrics.New(metrics.Options{Source: node{s}, Exporter: text(exported), Requests: requests, Log: quiet(), Process: nothing(),
		Now: func() time.Time { return time.Unix(now.Load(), 0) }})
	var callers sync.WaitGroup
	for range 64 {
		callers.Go(func() {
			requests.Observe("GET", 200, time.Millisecond)
			if got, err := c.Text(context.Background()); err != nil || !bytes.Contains(got, []byte("\nholdfast_ready 1\n")) {
				t.Errorf("%v in %s", err, got)
			}
		})
	}
	callers.Wait()
	if n := s.asked.Load(); n != 1 {
		t.Errorf("the node was asked %d times", n)
	}
	now.Add(1)
	if _, err := c.Text(t.Context()); err != nil || s.asked.Load() != 2 {
		t.Errorf("a second later it was asked %d times, %v", s.asked.Load(), err)
	}
	now.Add(-3600)
	if _, err := c.Text(t.Context()); err != nil || s.asked.Load() != 3 {
		t.Errorf("after the clock was set back it was asked %d times, %v", s.asked.Load(), err)
	}
}

func TestText_CallerThatIsGone_DoesNotWait(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c := metrics.New(metrics.Options{Source: hanging{}, Log: quiet(), Process: nothing()})
	if _, err := c.Text(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// Whatever an exporter says, the answer can be read, and each name is there once.
func FuzzText_AnyExporter_AnswerCanBeRead(f *testing.F) {
	f.Add(exported)
	f.Add("# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\n")
	f.Add("# TYPE s summary\ns{quantile=\"0.5\"} 1\ns_sum 3\ns_count 2 1000\n")
	f.Add("a{b=\"c\\n\"} NaN\n# HELP a x\\\\\n")
	f.Fuzz(func(t *testing.T, said string) {
		names(t, scrape(t, metrics.Options{Source: node{&source{}}, Exporter: text(said)}))
	})
}
