package metrics

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// NodeExporterURL is where the node exporter listens on a node.
const NodeExporterURL = "http://127.0.0.1:9100/metrics"

const (
	// fetchTimeout is how long the exporter may take, which systemd starts for the first
	// request.
	fetchTimeout = 10 * time.Second
	// maxExport is the largest text taken from it, in bytes.
	maxExport = 8 << 20
)

// HTTPExporter fetches over HTTP. It uses no proxy and follows no redirect.
type HTTPExporter struct {
	url    string
	client *http.Client
}

// NewHTTPExporter makes an exporter for a URL, as NodeExporterURL.
func NewHTTPExporter(url string) *HTTPExporter {
	return &HTTPExporter{url: url, client: &http.Client{
		Timeout:   fetchTimeout,
		Transport: &http.Transport{MaxIdleConns: 1, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}}
}

// Fetch gives the exporter's whole text. The error is that of the connection, an answer
// that is not 200, or one that is too large.
func (e *HTTPExporter) Fetch(ctx context.Context) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, e.url, nil)
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", e.url, err)
	}
	request.Header.Set("Accept", "text/plain; version=0.0.4")
	response, err := e.client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("asking for metrics: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("asking %s: the answer is %s", e.url, response.Status)
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, maxExport+1))
	if err != nil {
		return nil, fmt.Errorf("reading the answer of %s: %w", e.url, err)
	}
	if len(text) > maxExport {
		return nil, fmt.Errorf("reading the answer of %s: it is larger than %d bytes", e.url, maxExport)
	}
	return text, nil
}
