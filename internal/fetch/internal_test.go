package fetch

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/api/release"
)

// at is a moment, in seconds.
func at(seconds float64) time.Time {
	return time.Unix(0, int64(seconds*1e9))
}

// Fault 6: only the time in which somebody waits for the server counts against it.
func TestWatch_SlowServer_IsSeenAndASlowCallerIsNot(t *testing.T) {
	limits := Limits{}.withDefaults()
	type event struct {
		at    float64
		begin bool // else end
		bytes int
	}
	cases := map[string]struct {
		events []event
		at     float64
		slow   bool
	}{
		"waiting 59 s":                   {[]event{{0, true, 0}}, 59, false},
		"waiting 60 s":                   {[]event{{0, true, 0}}, 60, true},
		"silence in pieces":              {[]event{{0, true, 0}, {31, false, 0}, {31, true, 0}}, 60, true},
		"caller away for an hour":        {[]event{{0, true, 0}, {1, false, 10}, {3600, true, 0}}, 3658, false},
		"1,000 bytes a second":           {[]event{{0, true, 0}, {30, false, 30_000}, {30, true, 0}, {60, false, 30_000}}, 60, true},
		"1,100 bytes a second":           {[]event{{0, true, 0}, {30, false, 33_000}, {30, true, 0}, {60, false, 33_000}}, 60, false},
		"1,100 with a slow caller":       {[]event{{0, true, 0}, {30, false, 33_000}, {900, true, 0}, {930, false, 33_000}}, 1000, false},
		"fast, and then for 50 s silent": {[]event{{0, true, 0}, {1, false, 1 << 20}, {1, true, 0}}, 51, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := &watch{limits: limits}
			w.begin(at(0))
			w.answer(at(0))
			for _, e := range c.events {
				if e.begin {
					w.begin(at(e.at))
				} else {
					w.end(at(e.at), e.bytes)
				}
			}
			if err := w.check(at(c.at)); errors.Is(err, ErrSlow) != c.slow {
				t.Errorf("got %v", err)
			}
		})
	}
}

// A node's clock is injected everywhere: this one never moves by itself.
func TestBucket_ClockOfTheTest_WaitsExactlyWhatIsOwed(t *testing.T) {
	now := at(100)
	var waits []time.Duration
	clock := Clock{Now: func() time.Time { return now }, After: func(d time.Duration) <-chan time.Time {
		waits = append(waits, d)
		now = now.Add(d)
		done := make(chan time.Time, 1)
		done <- now
		return done
	}}
	limit := int64(1000)
	b := &bucket{limit: func() int64 { return limit }, clock: clock}
	if err := b.pay(t.Context(), 250); err != nil {
		t.Fatal(err)
	}
	limit = 10_000
	if err := b.pay(t.Context(), 500); err != nil {
		t.Fatal(err)
	}
	ms := time.Millisecond
	if diff := cmp.Diff([]time.Duration{100 * ms, 100 * ms, 50 * ms, 50 * ms}, waits); diff != "" {
		t.Error(diff)
	}
}

// A peer is never reached through a proxy of the environment.
func TestNewClient_Peer_HasNoProxy(t *testing.T) {
	proxied := func(o Options) bool {
		return newClient(o, Clock{Now: time.Now}).Transport.(*http.Transport).Proxy != nil
	}
	if diff := cmp.Diff([]bool{true, false}, []bool{proxied(Options{}), proxied(Options{Peer: &Peer{}})}); diff != "" {
		t.Error(diff)
	}
}

// Fault 9: a name that stands for the address where clouds keep secrets is not connected to.
func TestCheckDial_LinkLocalAddress_IsRefused(t *testing.T) {
	refused := map[string]bool{}
	for _, address := range []string{"169.254.169.254:80", "[fe80::1%eth0]:80", "[::ffff:169.254.0.1]:80", "224.0.0.1:80", "0.0.0.0:80", "127.0.0.1:80", "192.0.2.1:443", "[2001:db8::1]:443"} {
		refused[address] = errors.Is(checkDial("tcp", address, nil), ErrAddress)
	}
	want := map[string]bool{
		"169.254.169.254:80": true, "[fe80::1%eth0]:80": true, "[::ffff:169.254.0.1]:80": true, "224.0.0.1:80": true, "0.0.0.0:80": true,
		"127.0.0.1:80": false, "192.0.2.1:443": false, "[2001:db8::1]:443": false}
	if diff := cmp.Diff(want, refused); diff != "" {
		t.Error(diff)
	}
}

// A path from a manifest has no meaning in a URL.
func TestAddress_StrangePath_StaysAPath(t *testing.T) {
	base, err := url.Parse("https://a/os%2Fx")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range []string{"a/b.raw", "a?b#c", "%2e%2e/x", "a b", "a:b"} {
		got = append(got, address(base, p))
	}
	want := []string{"https://a/os%2Fx/a/b.raw", "https://a/os%2Fx/a%3Fb%23c", "https://a/os%2Fx/%252e%252e/x", "https://a/os%2Fx/a%20b", "https://a/os%2Fx/a:b"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestParseContentRange_Forms_AreReadOrRefused(t *testing.T) {
	type span struct{ From, To, Size int64 }
	good := map[string]span{"bytes 0-0/1": {0, 1, 1}, "bytes 5-9/20": {5, 10, 20}, "bytes 5-9/*": {5, 10, unknown}}
	for text, want := range good {
		from, to, size, err := parseContentRange(text)
		if diff := cmp.Diff(want, span{from, to, size}); diff != "" || err != nil {
			t.Errorf("%q: %v %s", text, err, diff)
		}
	}
	for _, text := range []string{"", "bytes */20", "bytes 9-5/20", "bytes 5-20/20", "bytes +5-9/20", "bytes 5-9", "items 5-9/20", "bytes 5-9/20 ",
		"bytes 5-9/99999999999999999999", "bytes -5-9/20"} {
		if _, _, _, err := parseContentRange(text); !errors.Is(err, errRange) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// A date of a server is measured by the server's clock: the node's may be wrong (fault 13).
func TestRetryAfter_NodeIn1970_WaitsWhatTheServerMeant(t *testing.T) {
	header := http.Header{"Retry-After": {"Sun, 22 Nov 2026 01:05:00 GMT"}, "Date": {"Sun, 22 Nov 2026 01:04:00 GMT"}}
	if got := retryAfter(header, time.Unix(0, 0)); got != time.Minute {
		t.Errorf("got %s", got)
	}
}

func FuzzParseContentRange(f *testing.F) {
	for _, text := range []string{"bytes 5-9/20", "bytes 5-9/*", "bytes */20", "bytes 9223372036854775807-9/1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		from, to, size, err := parseContentRange(text)
		if err == nil && (from < 0 || to <= from || (size != unknown && to > size)) {
			t.Errorf("%d to %d of %d", from, to, size)
		}
	})
}

func FuzzRetryAfter(f *testing.F) {
	f.Add("120", "")
	f.Add("Sun, 22 Nov 2026 01:05:00 GMT", "Sun, 22 Nov 2026 01:04:00 GMT")
	f.Fuzz(func(t *testing.T, text, date string) {
		got := retryAfter(http.Header{"Retry-After": {text}, "Date": {date}}, time.Unix(0, 0))
		if got < 0 || got > maxAsked {
			t.Errorf("got %s", got)
		}
	})
}

func FuzzReadNote(f *testing.F) {
	blob := release.Blob{Path: "a", Size: 20, SHA256: "00"}
	f.Add([]byte(`{"format":1,"size":20,"sha256":"00","offset":5,"sum":"11","mirror":"http://a","etag":"\"x\""}`))
	f.Add([]byte(`{"format":1,"size":20,"sha256":"00","offset":-5}`))
	f.Add([]byte(`{`))
	f.Fuzz(func(t *testing.T, data []byte) {
		n, ok := readNote(data, blob)
		if !ok {
			return
		}
		if n.Offset < 0 || n.Offset > blob.Size || n.SHA256 != blob.SHA256 || (n.ETag != "" && !strongETag(n.ETag)) || slices.Contains([]byte(n.ETag), '\n') {
			t.Errorf("%+v", n)
		}
	})
}
