package metrics

import (
	"maps"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// maxLabel is the longest value of a label, in bytes.
const maxLabel = 256

func gauge(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("holdfast_"+name, help, labels, nil)
}

var (
	osInfo       = gauge("os_info", "The running release, as labels.", "name", "version")
	ready        = gauge("ready", "Whether every phase of boot has ended well.")
	updateState  = gauge("update_state", "What the update agent does, as a label.", "state")
	needsReboot  = gauge("update_needs_reboot", "Whether a new release waits for a restart.")
	bootPhase    = gauge("boot_phase_seconds", "How long each phase of the last boot took.", "phase")
	poolHealth   = gauge("pool_health", "1 when the pool is ONLINE, 0 when it is degraded or worse.", "pool")
	poolState    = gauge("pool_state", "The state of the pool, as a label.", "pool", "state")
	expiry       = gauge("certificate_expiry_timestamp", "When the certificate expires, in seconds since 1970.", "certificate")
	appInfo      = gauge("application_info", "An installed application, with its version as a label.", "application", "version")
	appRunning   = gauge("application_running", "Whether the application is running.", "application")
	operations   = gauge("operations", "Operations by status.", "status")
	listeners    = gauge("event_listeners", "How many listen to events.")
	collected    = gauge("collect_success", "Whether the daemon could tell all of its state.")
	nodeExporter = gauge("node_exporter_up", "Whether the node exporter gave its metrics.")
)

// moment is what is observed at one scrape, for the registry of that scrape.
type moment struct {
	snapshot Snapshot
	complete bool
	exporter *bool // whether the exporter answered; nil when there is none
}

// Describe says nothing in advance: what is there depends on the moment.
func (moment) Describe(chan<- *prometheus.Desc) {}

// Collect sends the metrics. Of two members of a list with the same name the registry
// takes one, and its error says so in the log.
func (m moment) Collect(out chan<- prometheus.Metric) {
	send := func(desc *prometheus.Desc, value float64, labels ...string) {
		for i := range labels {
			labels[i] = strings.ToValidUTF8(labels[i][:min(len(labels[i]), maxLabel)], "?")
		}
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	s := m.snapshot
	send(osInfo, 1, s.OSName, s.OSVersion)
	send(ready, truth(s.Ready))
	send(needsReboot, truth(s.NeedsReboot))
	send(listeners, float64(s.EventListeners))
	send(collected, truth(m.complete))
	if m.exporter != nil {
		send(nodeExporter, truth(*m.exporter))
	}
	if s.Update != "" {
		send(updateState, 1, s.Update)
	}
	for _, p := range limited(s.Phases) {
		send(bootPhase, p.Took.Seconds(), p.Name)
	}
	for _, p := range limited(s.Pools) {
		send(poolHealth, truth(p.State == "ONLINE"), p.Name)
		send(poolState, 1, p.Name, p.State)
	}
	for _, c := range limited(s.Certificates) {
		send(expiry, float64(c.Expires.Unix()), c.Name)
	}
	for _, a := range limited(s.Applications) {
		send(appInfo, 1, a.Name, a.Version)
		send(appRunning, truth(a.Running), a.Name)
	}
	for _, status := range limited(slices.Sorted(maps.Keys(s.Operations))) {
		send(operations, float64(s.Operations[status]), status)
	}
}

func limited[T any](list []T) []T { return list[:min(len(list), maxItems)] }

func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
