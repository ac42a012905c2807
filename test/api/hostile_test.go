package api_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/simulate"
)

// heap is what is in use after a collection, in bytes.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var now runtime.MemStats
	runtime.ReadMemStats(&now)
	return int64(now.HeapAlloc)
}

// everyPUT are the paths that can be put to, with a document that is valid.
func everyPUT(n *node) map[string]any {
	documents := map[string]any{}
	for at, config := range rich() {
		documents[at] = config
	}
	whole := map[string]any{}
	for at, config := range rich() {
		if section, ok := strings.CutPrefix(at, "/1.0/system/"); ok {
			whole[section] = config
		}
	}
	documents["/1.0/system/config"] = whole
	for _, route := range n.sim.Daemon().Routes() {
		at, there := path(route)
		if route.Method != http.MethodPut || route.Handler == nil || !there || documents[at] != nil {
			continue
		}
		// A section that this test does not know yet is mutated from what the node shows.
		var shown struct{ Config any }
		n.get(at, &shown)
		documents[at] = shown.Config
	}
	return documents
}

// Whoever may talk to a node may send it anything. It must say what is wrong with it, and
// stay as it was: no mistake of the node, no memory that is not given back, and nothing
// accepted that the node cannot start with.
func TestPUT_MutatedDocuments_AreAnsweredAndNeverBreakTheNode(t *testing.T) {
	count := 2000
	switch {
	case *long:
		count = 10000
	case testing.Short():
		count = 400
	}
	dir, seed := folder(t), uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	m := mutator{Rand: rand.New(rand.NewPCG(seed, 0))}
	n := start(t, simulate.Options{Dir: dir})
	for at, config := range rich() {
		n.put(at, config) // a fallback listener that nobody may use cannot be asked for
	}
	documents := everyPUT(n)
	paths := slices.Sorted(maps.Keys(documents))
	before, codes, failures := heap(), map[int]int{}, 0
	for i := range count {
		at := paths[i%len(paths)]
		body := m.body(documents[at])
		query := ""
		if i%3 == 0 {
			query = "?dry-run=1"
		}
		got, err := n.ask(http.MethodPut, at+query, body)
		if err != nil {
			t.Fatalf("PUT %s %.2000q: %v", at, body, err)
		}
		codes[got.code]++
		switch got.code {
		case http.StatusOK:
			if wrong := n.settled(at); wrong != "" {
				t.Fatalf("after PUT %s, %s; the body was %.3000q", at, wrong, body)
			}
		case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
		default:
			if failures++; failures > 10 {
				t.Fatal("and so on")
			}
			t.Errorf("PUT %s%s: %d %.300s; the body was %.3000q", at, query, got.code, got.Error, body)
		}
	}
	t.Logf("answers: %v", codes)
	if codes[http.StatusOK] < count/50 || codes[http.StatusBadRequest] < count/3 {
		t.Errorf("the mutations are too wild or too tame: %v", codes)
	}
	if grown := heap() - before; grown > 32<<20 {
		t.Errorf("the heap has grown by %d bytes", grown)
	}
	n.reboot()
	for _, at := range paths {
		if got := n.must(http.MethodGet, at, nil); got.code != http.StatusOK {
			t.Errorf("after a restart, GET %s answers %d %s", at, got.code, got.Error)
		}
	}
}

// settled says what is wrong with a resource after a change: it has to be shown, and to be
// the same when what is shown is sent back.
func (n *node) settled(at string) string {
	n.t.Helper()
	shown := n.must(http.MethodGet, at, nil)
	if shown.code != http.StatusOK {
		return fmt.Sprintf("GET answers %d %.300s", shown.code, shown.Error)
	}
	var document struct {
		Config json.RawMessage `json:"config"`
	}
	if err := json.Unmarshal(shown.Metadata, &document); err != nil {
		return err.Error()
	}
	tag := shown.header.Get("ETag")
	if back := n.must(http.MethodPut, at, document, "If-Match", tag); back.code != http.StatusOK {
		return fmt.Sprintf("what it shows cannot be sent back: %d %.300s", back.code, back.Error)
	}
	if again := n.must(http.MethodGet, at, nil); again.header.Get("ETag") != tag {
		return fmt.Sprintf("sending back what it shows changes it: from %.3000s to %.3000s", document.Config, again.Metadata)
	}
	return ""
}

// stream sends a body of a size that nobody holds, and gives the answer.
func (n *node) stream(path string, size int64) (code int, response osapi.Response, took time.Duration) {
	n.t.Helper()
	conn, err := net.Dial("unix", n.socket)
	if err != nil {
		n.t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(slow * 20 * time.Second)); err != nil {
		n.t.Fatal(err)
	}
	began := time.Now()
	go func() {
		// The node stops reading some time, which ends this.
		if _, err := fmt.Fprintf(conn, "PUT %s HTTP/1.1\r\nHost: node\r\nContent-Length: %d\r\n\r\n{\"config\":\"", path, size); err != nil {
			return
		}
		block := []byte(strings.Repeat("x", 1<<20))
		for sent := int64(0); sent < size; sent += int64(len(block)) {
			if _, err := conn.Write(block); err != nil {
				return
			}
		}
	}()
	got, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		n.t.Fatalf("PUT %s of %d bytes: %v", path, size, err)
	}
	defer got.Body.Close()
	text, err := io.ReadAll(got.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	if err := json.Unmarshal(text, &response); err != nil {
		n.t.Fatal(err)
	}
	return got.StatusCode, response, time.Since(began)
}

// A gigabyte must not have to be sent to be refused, and not be held.
func TestPUT_BodyOfAGigabyte_IsRefusedInASecond(t *testing.T) {
	n := start(t, simulate.Options{})
	before := heap()
	code, response, took := n.stream("/1.0/system/network", 1<<30)
	if code != http.StatusRequestEntityTooLarge || !strings.Contains(response.Error, "larger than 1048576 bytes") || took > slow*time.Second {
		t.Errorf("%d %s after %s", code, response.Error, took)
	}
	if grown := heap() - before; grown > 16<<20 {
		t.Errorf("the heap has grown by %d bytes", grown)
	}
}

// maxError is the longest error that helps anybody, in bytes.
const maxError = 64 << 10

// repeated is a list of things that differ in a number.
func repeated(count int, one func(i int) any) list {
	all := make(list, count)
	for i := range all {
		all[i] = one(i)
	}
	return all
}

// What is too much is refused before it costs anything, and the answer says what it was.
func TestPUT_TooMuchOfSomething_IsRefusedInASecond(t *testing.T) {
	n := start(t, simulate.Options{})
	number := func(format string) func(int) any { return func(i int) any { return fmt.Sprintf(format, i) } }
	lan := func(key string, value any) object {
		return object{"interfaces": list{object{"name": "lan", "hwaddr": "enp1s0", key: value}}}
	}
	wireguard := func(key string, value any) object {
		return object{"wireguard": list{object{"name": "vpn", key: value}}}
	}
	const network, kernel = "/1.0/system/network", "/1.0/system/kernel"
	for name, c := range map[string]struct {
		path string
		body any
		code int
		text string
	}{
		"nested 10^6 deep":           {network, `{"config":` + strings.Repeat("[", 1e6) + strings.Repeat("]", 1e6) + "}", 413, "larger"},
		"nested half a million deep": {network, `{"config":` + strings.Repeat("[", 500_000) + strings.Repeat("]", 500_000) + "}", 400, "depth"},
		"nested 10,000 deep":         {network, `{"config":` + strings.Repeat("[", 9_990) + strings.Repeat("]", 9_990) + "}", 400, "nested"},
		"an endless key":             {network, `{"config":{"` + strings.Repeat("k", 1_000_000) + `":1}}`, 400, "unknown"},
		"60,000 fields":              {network, object{"config": fields(60_000)}, 400, "unknown"},
		"10,000 VLANs": {network, object{"config": object{"interfaces": list{object{"name": "lan", "hwaddr": "enp1s0"}},
			"vlans": repeated(10_000, func(i int) any { return object{"name": fmt.Sprintf("v%d", i), "parent": "lan", "id": i % 4095} })}}, 400, "limit"},
		"10,000 interfaces":   {network, object{"config": object{"interfaces": repeated(10_000, func(i int) any { return object{"name": fmt.Sprintf("n%d", i), "hwaddr": "enp1s0"} })}}, 400, "limit"},
		"10,000 bonds":        {network, object{"config": object{"bonds": repeated(10_000, func(i int) any { return object{"name": fmt.Sprintf("n%d", i), "mode": "802.3ad"} })}}, 400, "limit"},
		"10,000 tunnels":      {network, object{"config": object{"wireguard": repeated(10_000, func(i int) any { return object{"name": fmt.Sprintf("n%d", i)} })}}, 400, "limit"},
		"10,000 peers":        {network, object{"config": wireguard("peers", repeated(10_000, func(int) any { return object{"public_key": key('U')} }))}, 400, "limit"},
		"30,000 addresses":    {network, object{"config": lan("addresses", repeated(30_000, number("fd00::%x/64")))}, 400, "limit"},
		"10,000 routes":       {network, object{"config": lan("routes", repeated(10_000, func(i int) any { return object{"to": fmt.Sprintf("fd00::%x/128", i), "via": "fd00::1"} }))}, 400, "limit"},
		"10,000 rules":        {network, object{"config": lan("firewall_rules", repeated(10_000, func(int) any { return object{"action": "drop"} }))}, 400, "limit"},
		"100,000 tags":        {network, object{"config": lan("vlan_tags", repeated(100_000, func(i int) any { return i }))}, 400, "limit"},
		"100,000 roles":       {network, object{"config": lan("roles", repeated(100_000, number("r%d")))}, 400, "limit"},
		"10,000 forwardings":  {network, object{"config": object{"forwarding_rules": repeated(10_000, func(int) any { return object{"action": "drop", "from": "a", "to": "b"} })}}, 400, "limit"},
		"30,000 nameservers":  {network, object{"config": object{"dns": object{"nameservers": repeated(30_000, number("fd00::%x"))}}}, 400, "limit"},
		"30,000 time servers": {network, object{"config": object{"time": object{"ntp_servers": repeated(30_000, number("ntp%d.example.org"))}}}, 400, "limit"},
		"10,000 proxy rules":  {network, object{"config": object{"proxy": object{"rules": repeated(10_000, func(int) any { return object{"destination": "*", "target": "direct"} })}}}, 400, "limit"},
		"10,000 proxies":      {network, object{"config": object{"proxy": object{"servers": servers(10_000)}}}, 400, "limit"},
		"30,000 modules":      {kernel, object{"config": object{"blacklist_modules": repeated(30_000, number("m%d"))}}, 400, "limit"},
		"30,000 consoles":     {kernel, object{"config": object{"console": repeated(30_000, func(int) any { return object{"device": "ttyS1"} })}}, 400, "limit"},
		"10,000 windows":      {"/1.0/system/update", object{"config": object{"maintenance_windows": repeated(10_000, func(int) any { return object{} })}}, 400, ""},
		"50,000 settings":     {"/1.0/system/provider", object{"config": object{"name": "images", "config": fields(50_000)}}, 400, ""},
		"10,000 targets":      {"/1.0/services/iscsi", object{"config": object{"targets": repeated(10_000, func(int) any { return object{"target": "a"} })}}, 400, ""},
		"30,000 keys":         {"/1.0/system/security", object{"config": object{"encryption_recovery_keys": repeated(30_000, number("key %d"))}}, 400, ""},
		"a module of 1 MB":    {kernel, object{"config": object{"blacklist_modules": list{strings.Repeat("m", 1_000_000)}}}, 400, ""},
		"a name of 1 MB":      {network, object{"config": lan("required_for_online", strings.Repeat("m", 1_000_000))}, 400, ""},
	} {
		t.Run(name, func(t *testing.T) {
			body := c.body
			if _, text := body.(string); !text {
				encoded, err := json.Marshal(body)
				if err != nil {
					t.Fatal(err)
				}
				body = encoded
			}
			began := time.Now()
			got := n.must(http.MethodPut, c.path, body)
			if took := time.Since(began); got.code != c.code || !strings.Contains(got.Error, c.text) || took > slow*time.Second || len(got.Error) > maxError {
				t.Errorf("%d after %s, with an error of %d bytes: %.200s", got.code, took, len(got.Error), got.Error)
			}
		})
	}
}

// What was refused is told in the log and among the operations too, and must not fill them.
func TestRefusal_OfAMegabyte_LeavesNoMegabyteBehind(t *testing.T) {
	t.Parallel()
	var log sink
	n := start(t, simulate.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	body := object{"config": object{"blacklist_modules": list{strings.Repeat("m", 1_000_000)}}}
	if got := n.must(http.MethodPut, "/1.0/system/kernel", body); got.code != http.StatusBadRequest {
		t.Fatalf("%d %.200s", got.code, got.Error)
	}
	for name, size := range map[string]int{
		"the log": len(log.Bytes()), "the operations": len(n.must(http.MethodGet, "/1.0/operations?recursion=1", nil).text),
		"the audit log": len(n.must(http.MethodGet, "/1.0/audit", nil).text),
	} {
		if size > 4*maxError {
			t.Errorf("%s: %d bytes", name, size)
		}
	}
}

func fields(count int) object {
	all := object{}
	for i := range count {
		all[fmt.Sprintf("f%d", i)] = ""
	}
	return all
}

func servers(count int) object {
	all := object{}
	for i := range count {
		all[fmt.Sprintf("s%d", i)] = object{"auth": "anonymous", "host": "proxy.example.org"}
	}
	return all
}

// A slip in a name of the whole document is the sender's, as it is in any other place.
func TestPUT_WholeConfigurationWithAnUnknownService_IsABadRequest(t *testing.T) {
	t.Parallel()
	n := start(t, simulate.Options{})
	got := n.must(http.MethodPut, "/1.0/system/config", `{"config":{"services":{"iscs1":{"enabled":true}}}}`)
	if got.code != http.StatusBadRequest || !strings.Contains(got.Error, "config.services.iscs1") {
		t.Errorf("%d %s", got.code, got.Error)
	}
}
