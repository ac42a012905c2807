package metrics

import (
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// buckets are the upper bounds of the histogram, in seconds: from an answer out of
// memory to an application that is being downloaded.
var buckets = []float64{0.005, 0.025, 0.1, 0.5, 1, 5, 30, 120, 600}

// methods are those that are told apart; any other is "other".
var methods = []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodPatch, http.MethodDelete}

// Requests counts the requests of the API. Its methods may be called at the same time.
type Requests struct {
	total *prometheus.CounterVec
	took  *prometheus.HistogramVec
}

// NewRequests makes counters at zero.
func NewRequests() *Requests {
	return &Requests{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "holdfast_api_requests_total", Help: "Answered requests of the API.",
		}, []string{"method", "code"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "holdfast_api_request_duration_seconds", Help: "How long requests of the API took.", Buckets: buckets,
		}, []string{"method"}),
	}
}

// Observe counts one request with the status of its answer and how long it took. One
// that became a websocket (101) has no duration.
func (r *Requests) Observe(method string, code int, took time.Duration) {
	if !slices.Contains(methods, method) {
		method = "other"
	}
	text := strconv.Itoa(code)
	if code < 100 || code > 599 {
		text = "other"
	}
	r.total.WithLabelValues(method, text).Inc()
	if code != http.StatusSwitchingProtocols {
		r.took.WithLabelValues(method).Observe(took.Seconds())
	}
}
