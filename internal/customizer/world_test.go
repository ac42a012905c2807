package customizer_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/customizer"
	"github.com/holdfast-os/holdfast/internal/splice"
)

const mib = 1 << 20

// region is a small seed partition.
var region = splice.Region{Offset: mib, Size: 4 * mib}

// raw is the unpacked image of a release.
func raw(version string) []byte {
	image := make([]byte, 6*mib)
	copy(image, "head of "+version)
	copy(image[region.Offset:], "an earlier seed")
	copy(image[5*mib:], "tail of "+version)
	return image
}

// clock is a clock that stands still until it is moved.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// world is a service over a tree of two releases: 202611220104 in stable, and 202611230104 in
// testing alone.
type world struct {
	t      testing.TB
	tree   string
	clock  *clock
	server *httptest.Server
	// service is what the server serves.
	service *customizer.Service
}

func start(t testing.TB, change ...func(*customizer.Options)) *world {
	t.Helper()
	w := &world{t: t, tree: t.TempDir(), clock: &clock{now: time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)}}
	stable := w.publish("202611220104", "stable", "testing")
	testing := w.publish("202611230104", "testing")
	w.write("index.json", document(t, api.Index{Format: api.Format, Updates: []api.Update{testing, stable}}))
	w.serve(change...)
	return w
}

func (w *world) serve(change ...func(*customizer.Options)) {
	w.t.Helper()
	o := customizer.Options{Tree: w.tree, Region: region, Now: w.clock.Now}
	for _, c := range change {
		c(&o)
	}
	service, err := customizer.New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.service, w.server = service, httptest.NewServer(service)
	w.t.Cleanup(func() {
		w.server.Close()
		if err := service.Close(); err != nil {
			w.t.Error(err)
		}
	})
}

func (w *world) publish(version string, channels ...string) api.Update {
	u := api.Update{Format: api.Format, Channels: channels, Origin: "test", Severity: api.SeverityNone, Version: version,
		PublishedAt: time.Date(2026, 11, 22, 1, 4, 0, 0, time.UTC), URL: "/" + version}
	for _, f := range []struct {
		name      string
		component api.Component
		kind      api.Type
		content   []byte
	}{
		{"Holdfast_" + version + ".img", api.ComponentOS, api.TypeImageRaw, raw(version)},
		{"Holdfast_" + version + ".iso", api.ComponentOS, api.TypeImageISO, raw(version + " iso")},
		{"Holdfast_" + version + ".efi", api.ComponentOS, api.TypeUpdateEFI, []byte("the UKI")},
		{"incus.raw", api.ComponentIncus, api.TypeApplication, bytes.Repeat([]byte("incus "), 1024)},
	} {
		packed := pack(w.t, f.name, f.content)
		sum := sha256.Sum256(packed)
		w.write(version+"/x86_64/"+f.name+".gz", packed)
		u.Files = append(u.Files, api.File{Architecture: "x86_64", Component: f.component, Filename: "x86_64/" + f.name + ".gz",
			SHA256: hex.EncodeToString(sum[:]), Size: int64(len(packed)), Type: f.kind})
	}
	w.write(version+"/update.json", document(w.t, u))
	w.write(version+"/update.sjson", []byte("signed "+version))
	return u
}

// carry makes the index carry these releases alone, and prunes what was prepared for others.
func (w *world) carry(releases ...api.Update) {
	w.t.Helper()
	w.write("index.json", document(w.t, api.Index{Format: api.Format, Updates: releases}))
	if err := w.service.Prepare(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// packed are files that were packed before, by name: each test has the same.
var packed sync.Map

func pack(t testing.TB, name string, content []byte) []byte {
	t.Helper()
	if known, ok := packed.Load(name); ok {
		data, _ := known.([]byte)
		return data
	}
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	_, err = z.Write(content)
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	packed.Store(name, out.Bytes())
	return out.Bytes()
}

func document(t testing.TB, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func (w *world) write(name string, content []byte) {
	w.t.Helper()
	path := filepath.Join(w.tree, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// response is an answer, read to its end.
type response struct {
	status int
	header http.Header
	body   []byte
}

// do asks as a program does that unpacks nothing by itself.
func (w *world) do(method, path, body string, header ...string) response {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), method, w.server.URL+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	transport := &http.Transport{DisableCompression: true}
	defer transport.CloseIdleConnections()
	answer, err := transport.RoundTrip(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return response{answer.StatusCode, answer.Header, data}
}

// envelope is an answer's JSON.
type envelope struct {
	Type      string          `json:"type"`
	ErrorCode int             `json:"error_code"`
	Error     string          `json:"error"`
	Metadata  json.RawMessage `json:"metadata"`
}

func (r response) envelope(t testing.TB) envelope {
	t.Helper()
	var e envelope
	if err := json.Unmarshal(r.body, &e); err != nil {
		t.Fatalf("%d %q: %v", r.status, r.body, err)
	}
	return e
}

// metadata reads the answer of a request that must work.
func metadata[T any](t testing.TB, r response) (value T) {
	t.Helper()
	e := r.envelope(t)
	if r.status != 200 || e.Type != "sync" {
		t.Fatalf("status %d: %s", r.status, r.body)
	}
	if err := json.Unmarshal(e.Metadata, &value); err != nil {
		t.Fatal(err)
	}
	return value
}

func unpack(t testing.TB, packed []byte) []byte {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func equal(t testing.TB, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}
