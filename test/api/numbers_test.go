package api_test

import (
	"context"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-os/holdfast/internal/simulate"
	"github.com/holdfast-os/holdfast/test/api/load"
)

// The numbers of the API on this computer. They are printed and not judged: what they are
// held to is a matter of test/bench, on a computer that does nothing else.
func TestNumbers_OfTheAPI_ArePrinted(t *testing.T) {
	if !*long {
		t.Skip("minutes: give -long")
	}
	p := run(t, folder(t), "--listen", "")
	p.untilReady()
	routes := start(t, simulate.Options{}).sim.Daemon().Routes()
	for at, config := range rich() {
		p.put(at, config)
	}
	for i := range 50 {
		p.put(kernelPath, counter(i+1)) // a full history is the most that there is to be read
	}
	if err := load.Requests(context.Background(), p.socket, "/1.0", 1000); err != nil {
		t.Fatal(err)
	}
	before, err := load.RSS(p.cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	for _, route := range routes {
		at, there := path(route)
		if route.Method != http.MethodGet || route.Handler == nil || !there || at == "/1.0/events" {
			continue
		}
		at = strings.Replace(at, "/history/1", "/history/50", 1) // the first ones are not kept any more
		p50, p99, failed := load.Latency(context.Background(), p.socket, at, 2000, 3*time.Second)
		t.Logf("%-40s p50 %10s p99 %10s failed %d", at, p50.Round(time.Microsecond), p99.Round(time.Microsecond), failed)
	}
	began := time.Now()
	if err := load.Requests(context.Background(), p.socket, "/1.0", 1_000_000); err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	after, err := load.RSS(p.cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("RSS after 1,000 GETs %.1f MiB, after 1,000,000 more %.1f MiB; they took %s", float64(before)/(1<<20), float64(after)/(1<<20), took)
}

// A fleet of simulated nodes in one process has to fit into a laptop.
func TestNumbers_ManyNodesInOneProcess_AreSmall(t *testing.T) {
	count := 20
	if *long {
		count = 500
	}
	first := start(t, simulate.Options{}) // what all share is there after one
	resident, err := load.RSS(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	before := heap()
	for range count {
		start(t, simulate.Options{})
	}
	each := (heap() - before) / int64(count)
	now, err := load.RSS(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d nodes: heap %d KiB each, resident %d KiB each", count, each>>10, (now-resident)/int64(count)>>10)
	if each > 1<<20 {
		t.Errorf("a node takes %d bytes of heap", each)
	}
	first.untilReady()
}
