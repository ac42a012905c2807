package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/simulate"
	"github.com/holdfast-os/holdfast/test/api/load"
)

const kernelPath = "/1.0/system/kernel"

// counter is a field that writers count up: the number of huge pages.
func counter(count int) osapi.KernelConfig {
	return osapi.KernelConfig{Memory: &osapi.KernelMemory{PersistentHugepages: count}}
}

// count reads it, with the ETag.
func (n *node) count() (int, string, error) {
	var shown osapi.Kernel
	got, err := n.ask(http.MethodGet, kernelPath, nil)
	if err != nil {
		return 0, "", err
	}
	if err := json.Unmarshal(got.Metadata, &shown); err != nil {
		return 0, "", err
	}
	if shown.Config.Memory == nil {
		return 0, got.header.Get("ETag"), nil
	}
	return shown.Config.Memory.PersistentHugepages, got.header.Get("ETag"), nil
}

// Programs that change one thing at the same time, each from what it has read, must not
// undo each other: a change that was accepted is there.
func TestWriters_64WithIfMatch_LoseNoChange(t *testing.T) {
	n := start(t, simulate.Options{})
	each := 2
	if *long {
		each = 16
	}
	var accepted, refused atomic.Int64
	var writers sync.WaitGroup
	for range 64 {
		writers.Go(func() {
			for done := 0; done < each; {
				now, tag, err := n.count()
				if err != nil {
					t.Error(err)
					return
				}
				got, err := n.ask(http.MethodPut, kernelPath, map[string]any{"config": counter(now + 1)}, "If-Match", tag)
				switch {
				case err != nil:
					t.Error(err)
					return
				case got.code == http.StatusOK:
					accepted.Add(1)
					done++
				case got.code == http.StatusPreconditionFailed || got.code == http.StatusConflict:
					refused.Add(1)
				default:
					t.Errorf("%d %s", got.code, got.Error)
					return
				}
			}
		})
	}
	writers.Wait()
	t.Logf("%d accepted, %d refused", accepted.Load(), refused.Load())
	last, _, err := n.count()
	if err != nil || int64(last) != accepted.Load() {
		t.Errorf("the counter is %d (%v) after %d accepted changes", last, err, accepted.Load())
	}
	var document osapi.ConfigurationDocument
	n.get("/1.0/system/config", &document)
	if int64(document.State.Number) != accepted.Load() || document.State.Pending != nil {
		t.Errorf("%d changes are counted, of %d; pending: %+v", document.State.Number, accepted.Load(), document.State.Pending)
	}
	n.historyCounts(last)
}

// historyCounts looks whether each kept change is one step of the counter, and the last of
// them what is in effect.
func (n *node) historyCounts(last int) {
	n.t.Helper()
	var kept []osapi.Change
	n.get("/1.0/system/history", &kept)
	if want := min(last, 50); len(kept) != want {
		n.t.Errorf("%d changes are kept, want %d", len(kept), want)
	}
	for i, change := range kept {
		if change.Number != last-i {
			n.t.Errorf("change %d is number %d", last-i, change.Number)
		}
		if change.Number < 2 {
			continue // the first one makes the section
		}
		var shown osapi.Change
		n.get(fmt.Sprintf("/1.0/system/history/%d", change.Number), &shown)
		want := []string{fmt.Sprintf("-    \"persistent_hugepages\": %d,", change.Number-1), fmt.Sprintf("+    \"persistent_hugepages\": %d,", change.Number)}
		var got []string
		for line := range strings.Lines(shown.Diff) {
			if line = strings.TrimRight(line, "\n"); strings.Contains(line, "persistent_hugepages") {
				got = append(got, line)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			n.t.Errorf("change %d: %s", change.Number, diff)
		}
	}
}

// deaf opens listeners of events that never read; close ends them.
func (n *node) deaf(count int) (closeAll func()) {
	n.t.Helper()
	var open []net.Conn
	closeAll = func() {
		for _, conn := range open {
			_ = conn.Close() // the node may have closed it
		}
	}
	limit := time.Now().Add(slow * 20 * time.Second)
	for len(open) < count {
		conn, err := net.Dial("unix", n.socket)
		if err != nil {
			closeAll()
			n.t.Fatal(err)
		}
		const hello = "GET /1.0/events HTTP/1.1\r\nHost: node\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
		_, err = conn.Write([]byte(hello))
		var got *http.Response
		if err == nil {
			got, err = http.ReadResponse(bufio.NewReaderSize(conn, 512), nil)
		}
		switch {
		case err == nil && got.StatusCode == http.StatusSwitchingProtocols:
			open = append(open, conn)
		case err == nil && got.StatusCode == http.StatusServiceUnavailable && time.Now().Before(limit):
			_ = conn.Close() // those of before have not left yet
		default:
			_ = conn.Close()
			closeAll()
			n.t.Fatalf("%v %v", got, err)
		}
	}
	return closeAll
}

// publisher sends requests that the node tells its listeners of: each refusal is a line of
// the log, of some kilobytes, so that what waits for a listener is soon full.
type publisher struct {
	mu   sync.Mutex
	took []time.Duration
}

func (p *publisher) run(ctx context.Context, n *node) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	at := "/1.0/" + strings.Repeat("nothing", 400)
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		began := time.Now()
		if _, err := n.ask(http.MethodGet, at, nil); err != nil && ctx.Err() == nil {
			n.t.Error(err)
			return
		}
		p.mu.Lock()
		p.took = append(p.took, time.Since(began))
		p.mu.Unlock()
	}
}

// p99 is that of the requests since it was asked last.
func (p *publisher) p99() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.took) == 0 {
		return time.Hour
	}
	slices.Sort(p.took)
	value := p.took[len(p.took)*99/100]
	p.took = nil
	return value
}

// Whoever listens and hangs is nobody else's problem.
func TestListeners_1000ThatNeverRead_DoNotSlowAReader(t *testing.T) {
	n := start(t, simulate.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	var background sync.WaitGroup
	defer background.Wait()
	defer cancel()
	var publishing publisher
	background.Go(func() { publishing.run(ctx, n) })
	measure := func() (read, publish time.Duration) {
		publishing.p99()
		_, p99, failed := load.Latency(ctx, n.socket, "/1.0", 200, 2*time.Second)
		if failed > 0 {
			t.Fatalf("%d requests failed", failed)
		}
		return p99, publishing.p99()
	}
	quietRead, quietPublish := measure()
	// Queues are full after half a second. Another try is for what else goes on on this
	// computer, and what takes less than some milliseconds is not slow.
	for range 5 {
		closeAll := n.deaf(1000)
		loudRead, loudPublish := measure()
		closeAll()
		t.Logf("p99 of reading and of publishing: %s %s without, %s %s with listeners", quietRead, quietPublish, loudRead, loudPublish)
		if loudRead <= max(3*quietRead, slow*10*time.Millisecond) && loudPublish <= max(3*quietPublish, slow*10*time.Millisecond) {
			return
		}
	}
	t.Error("listeners that never read slow the node down")
}
