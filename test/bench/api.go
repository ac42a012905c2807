package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/test/api/load"
)

func apis() []measurement {
	return []measurement{{
		Name: "api", Take: takeAPI,
		Rows: []metric{
			{ID: "api-p99", What: "GET of each resource at 2,000 requests/s, slowest p99", Unit: inMilliseconds, Limit: 0.002},
			{ID: "api-plan", What: "plan of the whole configuration with 100 interfaces", Unit: inMilliseconds, Limit: 0.05},
			{ID: "api-memory", What: "memory of holdfastd after a million requests", Unit: inBytes, Limit: 1.1, Times: true, Against: "after a thousand"},
		},
	}}
}

const (
	// apiRate is in requests a second, apiSpan how long each resource is asked for.
	apiRate = 2000
	apiSpan = 3 * time.Second
	// planTries is how often the plan is asked for; the median counts.
	planTries = 11
)

// apiPaths are the resources that can be read.
var apiPaths = []string{
	"/1.0", "/1.0/applications", "/1.0/applications/incus", "/1.0/audit", "/1.0/debug/boot", "/1.0/debug/kernel", "/1.0/metrics",
	"/1.0/operations", "/1.0/services", "/1.0/services/iscsi", "/1.0/system", "/1.0/system/config", "/1.0/system/fallback-listener",
	"/1.0/system/history", "/1.0/system/kernel", "/1.0/system/logging", "/1.0/system/network", "/1.0/system/provider",
	"/1.0/system/resources", "/1.0/system/security", "/1.0/system/storage", "/1.0/system/update",
}

// takeAPI asks a node in memory, since the hands of a real one are other programs.
func takeAPI(ctx context.Context, b *bench) ([]record, error) {
	dir, err := os.MkdirTemp("", "holdfast-bench-api-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	node := exec.CommandContext(ctx, filepath.Join(b.root, "bin", "holdfastd"), "--simulate", dir)
	if err := node.Start(); err != nil {
		return nil, fmt.Errorf("starting a node in memory: %w", err)
	}
	defer func() {
		_ = node.Process.Kill() // it may have ended by itself
		_ = node.Wait()
	}()
	socket := filepath.Join(dir, "unix.socket")
	if err := answers(ctx, socket); err != nil {
		return nil, err
	}
	latency, err := takeLatency(ctx, socket)
	if err != nil {
		return nil, err
	}
	plan, err := takePlan(ctx, socket)
	if err != nil {
		return nil, err
	}
	if err := load.Requests(ctx, socket, "/1.0", 1000); err != nil {
		return nil, err
	}
	before, err := load.RSS(node.Process.Pid)
	if err != nil {
		return nil, err
	}
	if err := load.Requests(ctx, socket, "/1.0", 999_000); err != nil {
		return nil, err
	}
	after, err := load.RSS(node.Process.Pid)
	if err != nil {
		return nil, err
	}
	return []record{latency, plan, {
		ID: "api-memory", Value: float64(after), Other: float64(before),
		How: "resident set of a simulated node, GET /1.0; the thousand come after the latencies above, so that every resource was read before.",
	}}, nil
}

func answers(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		err := load.Requests(ctx, socket, "/1.0", 1)
		if err == nil {
			return nil
		}
		if pause(ctx, 50*time.Millisecond) != nil {
			return fmt.Errorf("waiting for a node in memory: %w", err)
		}
	}
}

func takeLatency(ctx context.Context, socket string) (record, error) {
	var worst time.Duration
	var parts []string
	for _, path := range apiPaths {
		p50, p99, failed := load.Latency(ctx, socket, path, apiRate, apiSpan)
		if failed > 0 {
			return record{}, fmt.Errorf("asking for %s: %d requests failed", path, failed)
		}
		worst = max(worst, p99)
		parts = append(parts, fmt.Sprintf("%s %.1f/%.1f", strings.TrimPrefix(path, "/1.0/"), ms(p50), ms(p99)))
	}
	return record{ID: "api-p99", Value: worst.Seconds(), How: fmt.Sprintf(
		"a simulated node, through its socket, %s for each resource; latency from the moment at which a request was due. p50/p99 in ms: %s.",
		apiSpan, strings.Join(parts, ", "))}, nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// takePlan asks what a configuration with 100 interfaces would change.
func takePlan(ctx context.Context, socket string) (record, error) {
	var network osapi.NetworkConfig
	for i := range 100 {
		network.Interfaces = append(network.Interfaces, osapi.NetworkInterface{
			Name: fmt.Sprintf("lan%d", i), Hwaddr: fmt.Sprintf("02:00:00:00:00:%02x", i), Addresses: []string{"dhcp4", "slaac"},
		})
	}
	body, err := json.Marshal(map[string]any{"config": osapi.Configuration{Network: &network}})
	if err != nil {
		return record{}, err
	}
	client := load.Client(socket)
	defer client.CloseIdleConnections()
	var times []float64
	for range planTries {
		began := time.Now()
		if err := planOnce(ctx, client, body); err != nil {
			return record{}, err
		}
		times = append(times, time.Since(began).Seconds())
	}
	return record{ID: "api-plan", Value: median(times), How: fmt.Sprintf(
		"PUT /1.0/system/config?dry-run=1 on a simulated node, %d times, from the request to the end of the answer; slowest %.0f ms.",
		planTries, 1000*slices.Max(times))}, nil
}

func planOnce(ctx context.Context, client *http.Client, body []byte) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://node/1.0/system/config?dry-run=1", bytes.NewReader(body))
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(response.Body)
	if err = errors.Join(err, response.Body.Close()); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK || !bytes.Contains(text, []byte("lan99")) {
		return fmt.Errorf("asking for a plan: %d %.200s", response.StatusCode, text)
	}
	return nil
}
