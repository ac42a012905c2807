package customizer_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	api "github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/splice"

	"github.com/holdfast-os/holdfast/internal/customizer"
)

// crowd is how many people download at once.
const crowd = 50

// download reads from url in a crowd and gives the time that it took. Each answer must be
// this long.
func download(t testing.TB, url string, length int64) time.Duration {
	t.Helper()
	transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: crowd}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	failed := make(chan error, crowd)
	start := time.Now()
	for range crowd {
		go func() { failed <- discard(t.Context(), client, url, length) }()
	}
	var all error
	for range crowd {
		all = errors.Join(all, <-failed)
	}
	if all != nil {
		t.Fatal(all)
	}
	return time.Since(start)
}

func discard(ctx context.Context, client *http.Client, url string, length int64) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	n, err := io.Copy(io.Discard, answer.Body)
	if err == nil && (n != length || answer.StatusCode != http.StatusOK) {
		err = fmt.Errorf("status %d, %d bytes of %d", answer.StatusCode, n, length)
	}
	return err
}

// busy is a service with an image whose packed form has about size bytes, the link of a
// choice, and the same bytes as a file of a plain server.
func busy(t testing.TB, size int) (service, static string, length int64) {
	t.Helper()
	tree := t.TempDir()
	w := &world{t: t, tree: tree, clock: &clock{now: time.Unix(0, 0)}}
	image := make([]byte, region.Offset+region.Size+int64(size))
	if _, err := rand.NewChaCha8([32]byte{3}).Read(image[region.Offset+region.Size:]); err != nil {
		t.Fatal(err)
	}
	w.single(image)
	w.serve()
	link := metadata[shown](t, w.do("POST", "/1.0/choices", smallChoice)).Link
	link = strings.Replace(link, "?", ".img.gz?", 1)
	answer := w.do("GET", link, "")
	w.write("static/image", answer.body)
	plain := httptest.NewServer(http.FileServer(http.Dir(filepath.Join(tree, "static"))))
	t.Cleanup(plain.Close)
	return w.server.URL + link, plain.URL + "/image", int64(len(answer.body))
}

// single publishes one release with one image.
func (w *world) single(image []byte) {
	w.t.Helper()
	var packed bytes.Buffer
	z, err := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	if err != nil {
		w.t.Fatal(err)
	}
	_, err = z.Write(image)
	if err := errors.Join(err, z.Close()); err != nil {
		w.t.Fatal(err)
	}
	const version, name = "202611220104", "x86_64/Holdfast_202611220104.img.gz"
	sum := sha256.Sum256(packed.Bytes())
	w.write(version+"/"+name, packed.Bytes())
	w.write("index.json", document(w.t, api.Index{Format: api.Format, Updates: []api.Update{{
		Format: api.Format, Channels: []string{"stable"}, Version: version, Files: []api.File{{
			Architecture: "x86_64", Component: api.ComponentOS, Filename: name, SHA256: hex.EncodeToString(sum[:]),
			Size: int64(packed.Len()), Type: api.TypeImageRaw,
		}},
	}}}))
}

// A whole class that downloads at once must be served, with hardly any memory.
func TestImages_FiftyAtOnce_AllGetTheWholeImage(t *testing.T) {
	service, static, length := busy(t, 2*mib)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	ours := download(t, service, length)
	runtime.ReadMemStats(&after)
	theirs := download(t, static, length)
	t.Logf("50 times %d bytes: %s, a static file server %s: %.2f of its throughput", length, ours, theirs, theirs.Seconds()/ours.Seconds())
	if grown := int64(after.Sys) - int64(before.Sys); grown > 200<<20 {
		t.Errorf("the memory has grown by %d bytes", grown)
	}
}

// The throughput as a share of that of http.FileServer with the same bytes, 50 at once.
func BenchmarkImages_FiftyAtOnce_AgainstAStaticServer(b *testing.B) {
	service, static, length := busy(b, 32*mib)
	var ours, theirs time.Duration
	for b.Loop() {
		ours += download(b, service, length)
		theirs += download(b, static, length)
	}
	b.SetBytes(crowd * length)
	b.ReportMetric(theirs.Seconds()/ours.Seconds(), "of-static")
}

// From the request of a choice's link to the first byte of the image, whose partition has the
// real size of 100 MiB.
func BenchmarkImages_FirstByte(b *testing.B) {
	real := splice.Region{Offset: mib, Size: layout.Size(layout.Seed)}
	w := &world{t: b, tree: b.TempDir(), clock: &clock{now: time.Unix(0, 0)}}
	w.single(make([]byte, real.Offset+real.Size+64*mib))
	w.serve(func(o *customizer.Options) { o.Region = real })
	link := metadata[shown](b, w.do("POST", "/1.0/choices", smallChoice)).Link
	w.do("GET", link, "") // it is prepared now
	for b.Loop() {
		r, err := http.NewRequestWithContext(b.Context(), http.MethodGet, w.server.URL+link, nil)
		if err != nil {
			b.Fatal(err)
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := answer.Body.Read(make([]byte, 1)); err != nil {
			b.Fatal(err)
		}
		if err := answer.Body.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			b.Fatal(err)
		}
	}
}
