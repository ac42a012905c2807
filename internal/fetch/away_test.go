package fetch_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/fetch"
)

// Fault 14: name service away for 30 days. Each call ends by itself and says what to look
// at; when it is back, the next call goes on with the part, without a restart.
func TestFile_NameServiceAwayFor30Days_SaysSoAndGoesOnAfterwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		cuts := 1
		base, sent := w.serve("a", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if cuts--; cuts == 0 {
				w.setFault(&net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "a", IsNotFound: true}})
				cutting(good(theFile), 120_000).ServeHTTP(rw, r)
			}
			good(theFile).ServeHTTP(rw, r)
		}))
		d := w.downloader(fetch.Options{Mirrors: []string{base}})
		dir, path := onDisk(t)
		for day := range 30 {
			start := time.Now()
			err := d.File(t.Context(), blobOf(theFile), dir, "usr", nil)
			checkErr(t, err, fetch.ErrName)
			if took := time.Since(start); took > 10*time.Minute {
				t.Fatalf("day %d: the call took %s", day, took)
			}
			if !strings.Contains(err.Error(), "config.dns of /1.0/system/network") {
				t.Fatalf("day %d: it does not say what to look at: %v", day, err)
			}
			<-time.After(24 * time.Hour)
		}
		w.setFault(nil)
		if err := d.File(t.Context(), blobOf(theFile), dir, "usr", nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if !cmp.Equal(map[string]string{"usr": string(theFile)}, files(t, path)) || sent.Load() != 300_000 {
			t.Errorf("%d bytes were sent", sent.Load())
		}
		if diff := cmp.Diff([]fetch.MirrorState{{URL: base}}, d.State()); diff != "" {
			t.Error(diff)
		}
	})
}

// Fault 14: what is away is named, with the place where it is configured.
func TestDownloader_SomethingAway_SaysWhatToLookAt(t *testing.T) {
	dial := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	proxied := func(*http.Request) (*url.URL, error) { return url.Parse("http://127.0.0.1:3128") }
	cases := map[string]struct {
		fault error
		proxy func(*http.Request) (*url.URL, error)
		want  error
		look  string
	}{
		"name":       {dial(&net.DNSError{Err: "server misbehaving", Name: "a", IsTemporary: true}), direct, fetch.ErrName, "config.dns"},
		"connection": {dial(errors.New("connection refused")), direct, fetch.ErrConnect, "the firewall"},
		"proxy":      {dial(errors.New("connection refused")), proxied, fetch.ErrProxy, "config.proxy"},
		"proxy name": {dial(&net.DNSError{Err: "no such host", Name: "proxy"}), proxied, fetch.ErrProxy, "config.proxy"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.setFault(c.fault)
				d := w.downloader(fetch.Options{Mirrors: []string{"https://a/tree"}, Proxy: c.proxy})
				_, err := d.Small(t.Context(), "timestamp.json", 1000)
				checkErr(t, err, c.want)
				if !strings.Contains(fmt.Sprint(err), c.look) {
					t.Errorf("it does not name %q: %v", c.look, err)
				}
			})
		})
	}
}

// A proxy that wants a password, or forbids the server, is not mistaken for the server.
func TestDownloader_ProxyRefuses_IsErrProxy(t *testing.T) {
	for _, base := range []string{"http://a/tree", "https://a/tree"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.serve("proxy", status(http.StatusProxyAuthRequired))
			d := w.downloader(fetch.Options{Mirrors: []string{base}, Proxy: func(*http.Request) (*url.URL, error) { return url.Parse("http://proxy:80") }})
			_, err := d.Small(t.Context(), "timestamp.json", 1000)
			checkErr(t, err, fetch.ErrProxy)
		})
	}
}

// asks runs a server that answers the first request with a status and a header, and notes
// after what time each request came.
func asks(code int, retryAfter string) (http.Handler, *[]time.Duration) {
	var times []time.Duration
	start := time.Now()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		times = append(times, time.Since(start))
		if len(times) == 1 {
			w.Header().Set("Retry-After", retryAfter)
			w.WriteHeader(code)
			return
		}
		good(theFile).ServeHTTP(w, r)
	}), &times
}

// A server under load says when to come back. It is obeyed, with a little more, so that not
// all come at that moment; but not for longer than the limit.
func TestFile_RetryAfter_IsHonouredAndBounded(t *testing.T) {
	cases := []struct {
		code     int
		header   string
		min, max time.Duration
	}{
		{503, "120", 120 * time.Second, 180 * time.Second},
		{429, "120", 120 * time.Second, 180 * time.Second},
		{304, "120", 120 * time.Second, 180 * time.Second},
		{503, "Sat, 01 Jan 2000 00:02:00 GMT", 118 * time.Second, 182 * time.Second},
		{503, "99999999999", 15 * time.Minute, 23 * time.Minute},
		{503, "999999999999999999999", 0, time.Second},
		{503, "Fri, 31 Dec 1999 00:00:00 GMT", 0, time.Second},
		{503, "-5", 0, time.Second},
		{503, "soon", 0, time.Second},
	}
	for _, c := range cases {
		t.Run(fmt.Sprint(c.code, " ", c.header), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				h, times := asks(c.code, c.header)
				base, _ := w.serve("a", h)
				dir, _ := onDisk(t)
				if err := w.downloader(fetch.Options{Mirrors: []string{base}}).File(t.Context(), blobOf(theFile), dir, "usr", nil); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if len(*times) != 2 || (*times)[1] < c.min || (*times)[1] > c.max {
					t.Errorf("asked after %v, want the second between %s and %s", *times, c.min, c.max)
				}
			})
		})
	}
}

// While one mirror wants to be left alone, the next one serves at once; and a call that has
// no time for the wait ends at once instead of waiting in vain, and so does the next.
func TestSmall_RetryAfterLongerThanTheCall_OtherMirrorOrAnErrorAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		h, times := asks(503, "600")
		busy, _ := w.serve("busy", h)
		other, _ := w.serve("other", good(theFile))
		start := time.Now()
		both := w.downloader(fetch.Options{Mirrors: []string{busy, other}})
		if _, err := both.Small(t.Context(), "timestamp.json", mib); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		*times = nil
		only := w.downloader(fetch.Options{Mirrors: []string{busy}})
		for range 2 {
			_, err := only.Small(t.Context(), "timestamp.json", mib)
			var status *fetch.StatusError
			if !errors.As(err, &status) || status.RetryAfter < 600*time.Second {
				t.Errorf("got %v", err)
			}
		}
		synctest.Wait()
		if time.Since(start) != 0 || len(*times) != 1 {
			t.Errorf("it took %s and %d requests", time.Since(start), len(*times))
		}
		<-time.After(20 * time.Minute)
		if _, err := only.Small(t.Context(), "timestamp.json", mib); err != nil {
			t.Error(err)
		}
	})
}

// The waits of one call: doubling, bounded, and with an end.
func TestFile_ServerStaysAway_WaitsLongerAndGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var times []time.Duration
		start := time.Now()
		base, _ := w.serve("a", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			times = append(times, time.Since(start).Round(time.Second))
			w.WriteHeader(http.StatusBadGateway)
		}))
		d, err := fetch.New(fetch.Options{
			Mirrors: []string{base}, Dial: w.dial, Proxy: direct, Limits: fetch.Limits{Attempts: 9},
			Rand: func(n int64) int64 { return n - 1 }})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		dir, path := onDisk(t)
		checkErr(t, d.File(t.Context(), blobOf(theFile), dir, "usr", nil), fetch.ErrServer)
		synctest.Wait()
		s := time.Second
		want := []time.Duration{0, 1 * s, 3 * s, 7 * s, 15 * s, 31 * s, 63 * s, 123 * s, 183 * s}
		if diff := cmp.Diff(want, times); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(map[string]string{}, files(t, path)); diff != "" {
			t.Errorf("nothing came, and files are left: %s", diff)
		}
	})
}

// A mirror that fails is asked after the others, until its time is over.
func TestDownloader_MirrorFails_IsPutBehindForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var asked []string
		broken := true
		a, _ := w.serve("a", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked = append(asked, "a")
			if broken {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
			good(theFile).ServeHTTP(w, r)
		}))
		b, _ := w.serve("b", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked = append(asked, "b")
			good(theFile).ServeHTTP(w, r)
		}))
		d := w.downloader(fetch.Options{Mirrors: []string{a, b}})
		small := func() {
			if _, err := d.Small(t.Context(), "timestamp.json", mib); err != nil {
				t.Error(err)
			}
		}
		small()
		small()
		<-time.After(31 * time.Second)
		small() // fails again: twice as long
		<-time.After(29 * time.Second)
		small()
		<-time.After(32 * time.Second)
		synctest.Wait()
		broken = false
		small()
		small()
		synctest.Wait()
		if diff := cmp.Diff([]string{"a", "b", "b", "a", "b", "b", "a", "a"}, asked); diff != "" {
			t.Error(diff)
		}
	})
}

// A caller that goes away is obeyed in every wait.
func TestDownloader_Cancelled_EndsAtOnce(t *testing.T) {
	for name, h := range map[string]http.Handler{"no answer": silent(), "silence": drip(10, time.Hour), "back-off": status(500)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				base, _ := w.serve("a", h)
				d := w.downloader(fetch.Options{Mirrors: []string{base}})
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				start := time.Now()
				dir, _ := onDisk(t)
				checkErr(t, d.File(ctx, blobOf(theFile), dir, "usr", nil), context.DeadlineExceeded)
				if time.Since(start) != 100*time.Millisecond {
					t.Errorf("it took %s", time.Since(start))
				}
			})
		})
	}
}

// A stream that was closed gives no more bytes and holds no connection.
func TestStream_Closed_ReadIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		base, _ := w.serve("a", good(theFile))
		r, err := w.downloader(fetch.Options{Mirrors: []string{base}}).Stream(t.Context(), blobOf(theFile))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, r, 1000); err != nil {
			t.Error(err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if n, err := r.Read(make([]byte, 10)); n != 0 || err == nil || err == io.EOF {
			t.Errorf("%d bytes, %v", n, err)
		}
	})
}

// A reader that takes its time is not the server's fault.
func TestStream_SlowReader_IsNotBlamedOnTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		base, _ := w.serve("a", good(theFile))
		d := w.downloader(fetch.Options{Mirrors: []string{base}})
		r, err := d.Stream(t.Context(), blobOf(theFile))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		for {
			_, err := io.CopyN(io.Discard, r, 10_000)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			<-time.After(3 * time.Minute)
		}
		if diff := cmp.Diff([]fetch.MirrorState{{URL: base}}, d.State()); diff != "" {
			t.Error(diff)
		}
	})
}

// A token must not stand in an error, wherever the request fails.
func TestDownloader_TokenInTheQuery_StandsInNoError(t *testing.T) {
	for name, h := range map[string]http.Handler{
		"status": status(403), "redirect": redirect("http://other/x"), "cut": cutting(good(theFile), 10), "silence": silent()} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			sent := ""
			base, _ := w.serve("a", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				sent = r.URL.Query().Get("token") + r.Header.Get("X-Token")
				h.ServeHTTP(w, r)
			}))
			authorize := func(r *http.Request) error {
				query := r.URL.Query()
				query.Set("token", "s3cret")
				r.URL.RawQuery = query.Encode()
				r.Header.Set("X-Token", "t0ken")
				return nil
			}
			d := w.downloader(fetch.Options{Mirrors: []string{base, "http://nowhere/tree"}, Authorize: authorize})
			_, err := d.Small(t.Context(), "timestamp.json", mib)
			synctest.Wait()
			if err == nil || strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "t0ken") || sent != "s3crett0ken" {
				t.Errorf("%s: sent %q, error %v", name, sent, err)
			}
		})
	}
}

// A mistake in the list of mirrors is named before anything is fetched, all at once.
func TestNew_BadMirrors_AreAllNamed(t *testing.T) {
	_, err := fetch.New(fetch.Options{Mirrors: []string{"http://169.254.169.254/os", "http://[fe80::1]/os", "http://[::ffff:169.254.0.1]/"}})
	checkErr(t, err, fetch.ErrAddress)
	for _, bad := range []string{"", "ftp://x/", "https://", "/os", "https://x/os?token=1", "https://x/#a", "https://user:s3cret@x/", "http://a b/\x00s3cret"} {
		_, err := fetch.New(fetch.Options{Mirrors: []string{"https://good/", bad}})
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := fetch.New(fetch.Options{}); err == nil {
		t.Error("no mirror was accepted")
	}
	if _, err := fetch.New(fetch.Options{Mirrors: []string{"https://a/"}, Peer: &fetch.Peer{}, Proxy: direct}); err == nil {
		t.Error("a proxy to a peer was accepted")
	}
}
