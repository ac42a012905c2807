package splice_test

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
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/splice"
	"github.com/holdfast-os/holdfast/test/needs"
)

const (
	kib = 1 << 10
	mib = 1 << 20
)

// region begins at an odd place, so that nothing relies on round numbers.
var region = splice.Region{Offset: 256*kib + 512, Size: 256 * kib}

// image is an unpacked image with content before and behind the region, and a rest of an
// earlier seed within.
func image(size int) []byte {
	raw := make([]byte, size)
	source := rand.NewChaCha8([32]byte{1})
	source.Read(raw[:64*kib])
	source.Read(raw[region.Offset : region.Offset+4096])
	source.Read(raw[size-64*kib:])
	return raw
}

// publish packs an image as a release does.
func publish(tb testing.TB, raw []byte) splice.Source {
	tb.Helper()
	var packed bytes.Buffer
	w, err := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := w.Write(raw); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return source(tb, packed.Bytes())
}

func source(tb testing.TB, packed []byte) splice.Source {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "image.img.gz")
	if err := os.WriteFile(path, packed, 0o600); err != nil {
		tb.Fatal(err)
	}
	sum := sha256.Sum256(packed)
	return splice.Source{Path: path, SHA256: hex.EncodeToString(sum[:])}
}

// prepared is a prepared image, and what is expected of it with a seed.
func prepared(tb testing.TB, size int, seed []byte) (*splice.Image, []byte) {
	tb.Helper()
	raw := image(size)
	m, err := splice.Prepare(tb.Context(), publish(tb, raw), region, tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	clear(raw[region.Offset : region.Offset+region.Size])
	copy(raw[region.Offset:], seed)
	return m, raw
}

func readAll(tb testing.TB, c *splice.Content) []byte {
	tb.Helper()
	r, err := c.Open()
	if err != nil {
		tb.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		tb.Fatal(err)
	}
	if int64(len(data)) != c.Size() {
		tb.Fatalf("%d bytes were announced, %d came", c.Size(), len(data))
	}
	return data
}

// unpackOne unpacks one gzip member, as browsers do, and wants nothing behind it.
func unpackOne(tb testing.TB, packed []byte) []byte {
	tb.Helper()
	rest := bytes.NewReader(packed)
	r, err := gzip.NewReader(rest)
	if err != nil {
		tb.Fatal(err)
	}
	r.Multistream(false)
	raw, err := io.ReadAll(r)
	if err != nil {
		tb.Fatal(err)
	}
	if rest.Len() > 0 {
		tb.Fatalf("%d bytes behind the first member", rest.Len())
	}
	return raw
}

// The image that a person gets is the release's, with the seed in its place and nothing of
// an earlier one behind it.
func TestImage_EverySeed_UnpacksToTheImageWithIt(t *testing.T) {
	seeds := map[string][]byte{
		"none": nil, "short": []byte("a seed"), "a unit": bytes.Repeat([]byte("s"), 64*kib),
		"more than a unit": bytes.Repeat([]byte("s"), 64*kib+1), "the whole partition": bytes.Repeat([]byte("s"), 256*kib),
	}
	for name, seed := range seeds {
		t.Run(name, func(t *testing.T) {
			m, want := prepared(t, 5*mib, seed)
			packed, err := m.Packed(seed)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(unpackOne(t, readAll(t, packed)), want) {
				t.Error("unpacked, the image is another one")
			}
			raw, err := m.Raw(seed)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(readAll(t, raw), want) {
				t.Error("the unpacked image is another one")
			}
		})
	}
}

// People unpack with gzip(1).
func TestImage_GzipProgram_UnpacksTheSame(t *testing.T) {
	needs.Programs(t, "gzip")
	seed := []byte("a seed")
	m, want := prepared(t, 5*mib, seed)
	packed, err := m.Packed(seed)
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), "gzip", "-dc")
	command.Stdin = bytes.NewReader(readAll(t, packed))
	got, err := command.Output()
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// A restart of the service must not break a download that goes on.
func TestImage_PreparedAgain_HasTheSameBytesAndTag(t *testing.T) {
	raw := image(5 * mib)
	from := publish(t, raw)
	var got [2][]byte
	var tags [2]string
	for i := range got {
		m, err := splice.Prepare(t.Context(), from, region, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		c, err := m.Packed([]byte("seed"))
		if err != nil {
			t.Fatal(err)
		}
		got[i], tags[i] = readAll(t, c), c.Tag()
	}
	if !bytes.Equal(got[0], got[1]) || tags[0] != tags[1] {
		t.Errorf("tags %v, %d and %d bytes", tags, len(got[0]), len(got[1]))
	}
}

// Another seed, and the other form, are other contents for a cache.
func TestImage_OtherBytes_HaveOtherTags(t *testing.T) {
	m, _ := prepared(t, 5*mib, nil)
	seen := map[string]string{}
	for _, seed := range []string{"", "a", "b"} {
		packed, err := m.Packed([]byte(seed))
		if err != nil {
			t.Fatal(err)
		}
		raw, err := m.Raw([]byte(seed))
		if err != nil {
			t.Fatal(err)
		}
		for form, c := range map[string]*splice.Content{"packed ": packed, "raw ": raw} {
			if other, ok := seen[c.Tag()]; ok {
				t.Errorf("%q and %q have the tag %s", other, form+seed, c.Tag())
			}
			seen[c.Tag()] = form + seed
		}
	}
}

func TestImage_SeedLargerThanPartition_IsRefused(t *testing.T) {
	m, _ := prepared(t, 5*mib, nil)
	if _, err := m.Packed(make([]byte, region.Size+1)); !errors.Is(err, splice.ErrTooLarge) {
		t.Errorf("packed: %v", err)
	}
	if _, err := m.Raw(make([]byte, region.Size+1)); !errors.Is(err, splice.ErrTooLarge) {
		t.Errorf("raw: %v", err)
	}
}

// A second start must not pack again; a region that has moved must.
func TestOpen_FindsWhatWasPrepared_AndNothingElse(t *testing.T) {
	from, dir := publish(t, image(5*mib)), t.TempDir()
	if _, err := splice.Open(dir, from.SHA256, region); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("before: %v", err)
	}
	if _, err := splice.Prepare(t.Context(), from, region, dir); err != nil {
		t.Fatal(err)
	}
	if _, err := splice.Open(dir, from.SHA256, region); err != nil {
		t.Errorf("after: %v", err)
	}
	if _, err := splice.Open(dir, from.SHA256, splice.Region{Offset: 256 * kib, Size: region.Size}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("another region: %v", err)
	}
	if err := os.Truncate(filepath.Join(dir, from.SHA256+".deflate"), 5); err != nil {
		t.Fatal(err)
	}
	if _, err := splice.Open(dir, from.SHA256, region); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("cut off: %v", err)
	}
}

func TestPrune_KeepsWhatIsNamedAndWhatIsForeign(t *testing.T) {
	dir, one, two := t.TempDir(), strings.Repeat("1", 64), strings.Repeat("2", 64)
	for _, name := range []string{one + ".json", one + ".raw", two + ".json", two + ".deflate", "notes.json", two + ".txt"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := splice.Prune(dir, []string{one}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{one + ".json", one + ".raw", two + ".txt", "notes.json"}, names(t, dir)); diff != "" {
		t.Error(diff)
	}
}

func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// Nothing of a damaged image may stay: a later start would serve it.
func TestPrepare_BadImage_FailsAndLeavesNothing(t *testing.T) {
	good := publish(t, image(5*mib))
	packed, err := os.ReadFile(good.Path)
	if err != nil {
		t.Fatal(err)
	}
	cut, stop := context.WithCancel(t.Context())
	stop()
	other := good
	other.SHA256 = strings.Repeat("0", 64)
	for name, c := range map[string]struct {
		ctx    context.Context
		source splice.Source
	}{
		"another sum":   {t.Context(), other},
		"cut off":       {t.Context(), source(t, packed[:len(packed)-10_000])},
		"too short":     {t.Context(), publish(t, image(5 * mib)[:region.Offset+region.Size-1])},
		"not gzip":      {t.Context(), source(t, []byte("not gzip at all"))},
		"stopped":       {cut, good},
		"not there":     {t.Context(), splice.Source{Path: "/nonexistent", SHA256: good.SHA256}},
		"no such a sum": {t.Context(), splice.Source{Path: good.Path, SHA256: "../../etc/passwd"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if _, err := splice.Prepare(c.ctx, c.source, region, dir); err == nil {
				t.Error("it was taken")
			}
			if left := names(t, dir); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// Browsers and curl ask for the rest of a cut download.
func TestServe_Requests_AreAnsweredAsHTTPSays(t *testing.T) {
	seed := []byte("a seed")
	m, raw := prepared(t, 5*mib, seed)
	content, err := m.Raw(seed)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		if r.URL.Path == "/encoded" {
			w.Header().Set("Content-Encoding", "x-test")
		}
		if _, err := content.Serve(w, r); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	around := fmt.Sprintf("bytes=%d-%d", region.Offset-3, region.Offset+5)
	for _, c := range []struct {
		name, method, path string
		header             map[string]string
		status             int
		length             int64
		body               []byte
	}{
		{"whole", "GET", "/", nil, 200, 5 * mib, raw},
		{"whole with an encoding", "GET", "/encoded", nil, 200, 5 * mib, raw},
		{"head", "HEAD", "/", nil, 200, 5 * mib, nil},
		{"around the seed", "GET", "/", map[string]string{"Range": around}, 206, 9, append(make([]byte, 3), seed...)},
		{"the rest", "GET", "/encoded", map[string]string{"Range": "bytes=5242360-"}, 206, 520, raw[5242360:]},
		{"the rest of the same", "GET", "/", map[string]string{"Range": "bytes=5242360-", "If-Range": content.Tag()}, 206, 520, raw[5242360:]},
		{"the rest of another", "GET", "/", map[string]string{"Range": "bytes=5242360-", "If-Range": `"other"`}, 200, 5 * mib, raw},
		{"several ranges", "GET", "/", map[string]string{"Range": "bytes=0-1,5-6"}, 200, 5 * mib, raw},
		{"unchanged", "GET", "/", map[string]string{"If-None-Match": content.Tag()}, 304, 0, nil},
		{"behind the end", "GET", "/encoded", map[string]string{"Range": "bytes=5242880-"}, 416, -2, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), c.method, server.URL+c.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			for k, v := range c.header {
				req.Header.Set(k, v)
			}
			res, err := http.DefaultTransport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			if err != nil {
				t.Fatal(err)
			}
			if res.StatusCode != c.status || (c.length >= 0 && c.status != 304 && res.ContentLength != c.length) {
				t.Errorf("status %d, length %d", res.StatusCode, res.ContentLength)
			}
			if c.body != nil && !bytes.Equal(body, c.body) {
				t.Errorf("%d bytes, not the expected ones", len(body))
			}
		})
	}
}

// spy is a connection that notes the files it is handed.
type spy struct {
	*httptest.ResponseRecorder
	files int64
}

func (s *spy) ReadFrom(src io.Reader) (int64, error) {
	n, err := io.Copy(s.ResponseRecorder, src)
	if limited, ok := src.(*io.LimitedReader); ok {
		if _, ok := limited.R.(*os.File); ok {
			s.files += n
		}
	}
	return n, err
}

// Only what arrives at the connection as a file goes out by sendfile.
func TestServe_SectionsOfFiles_ReachTheConnectionAsFiles(t *testing.T) {
	m, want := prepared(t, 5*mib, nil)
	content, err := m.Raw(nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &spy{ResponseRecorder: httptest.NewRecorder()}
	ended, err := content.Serve(w, httptest.NewRequest("GET", "/", nil))
	if err != nil || !ended {
		t.Fatalf("ended: %t, %v", ended, err)
	}
	if w.files != 5*mib-64*kib || !bytes.Equal(w.Body.Bytes(), want) {
		t.Errorf("%d of %d bytes came as files; all but the seed's first 64 KiB should", w.files, w.Body.Len())
	}
}

// A link is used up by its last byte alone.
func TestServe_Ended_IsTheLastByteSent(t *testing.T) {
	m, _ := prepared(t, 5*mib, nil)
	content, err := m.Raw(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		method, ranges string
		want           bool
	}{
		{"GET", "", true}, {"HEAD", "", false}, {"GET", "bytes=0-9", false}, {"GET", "bytes=-1", true}, {"GET", "bytes=99999999-", false},
	} {
		r := httptest.NewRequest(c.method, "/", nil)
		if c.ranges != "" {
			r.Header.Set("Range", c.ranges)
		}
		ended, err := content.Serve(httptest.NewRecorder(), r)
		if err != nil || ended != c.want {
			t.Errorf("%s %q: %t, %v", c.method, c.ranges, ended, err)
		}
	}
}

// A file of the cache that is gone must be an error, not half an image.
func TestServe_CacheRemoved_FailsBeforeTheFirstByte(t *testing.T) {
	dir := t.TempDir()
	from := publish(t, image(5*mib))
	m, err := splice.Prepare(t.Context(), from, region, dir)
	if err != nil {
		t.Fatal(err)
	}
	content, err := m.Packed(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, from.SHA256+".deflate")); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	if _, err := content.Serve(w, httptest.NewRequest("GET", "/", nil)); !errors.Is(err, os.ErrNotExist) || w.Body.Len() > 0 {
		t.Errorf("%v after %d bytes", err, w.Body.Len())
	}
}

// What it costs to make an image out of a prepared one; the size of what lies before and
// behind the partition makes no difference. The partition has its real size, 100 MiB.
func BenchmarkPacked_100MiBPartition_SeedOf10KiB(b *testing.B) {
	real := splice.Region{Offset: 64 * mib, Size: 100 * mib}
	m, err := splice.Prepare(b.Context(), publish(b, make([]byte, 256*mib)), real, b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	seed := make([]byte, 10<<10)
	rand.NewChaCha8([32]byte{2}).Read(seed)
	b.ResetTimer()
	for b.Loop() {
		if _, err := m.Packed(seed); err != nil {
			b.Fatal(err)
		}
	}
}
