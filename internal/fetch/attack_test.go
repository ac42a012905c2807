package fetch_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/fetch"
)

// hostile is a server that does not serve what it should.
type hostile struct {
	name    string
	fault   string // the number in the list of faults
	handler http.Handler
	want    error
}

// theFile is what everybody wants in these tests.
var theFile = content(10, 300_000)

// endless sends zeros until nobody listens; length is what it announces, "" for nothing.
func endless(length string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if length != "" {
			w.Header().Set("Content-Length", length)
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		block := make([]byte, 64<<10)
		for {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	})
}

// chunked sends bytes without saying how many.
func chunked(data []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		_ = http.NewResponseController(w).Flush()
		_, _ = w.Write(data)
	})
}

func page(kind string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		_, _ = io.WriteString(w, "<html>please log in</html>")
	})
}

func redirect(to string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) })
}

func status(code int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) })
}

// drip sends a beginning, and then a byte each time span.
func drip(beginning int, span time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.Itoa(len(theFile)))
		for i := range theFile {
			if i >= beginning {
				select {
				case <-time.After(span):
				case <-r.Context().Done():
					return
				}
			}
			_, _ = w.Write(theFile[i : i+1])
			if i >= beginning-1 {
				_ = http.NewResponseController(w).Flush()
			}
		}
	})
}

func silent() http.Handler {
	return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
}

func flipped(at int) []byte {
	data := bytes.Clone(theFile)
	data[at] ^= 1
	return data
}

var hostiles = []hostile{
	{"10 GB, told", "6", endless("10737418240"), fetch.ErrMismatch},
	{"endless zeros, not told", "6", endless(""), fetch.ErrMismatch},
	{"a byte a minute", "6", drip(0, time.Minute), fetch.ErrSlow},
	{"a byte a second", "6", drip(0, time.Second), fetch.ErrSlow},
	{"a beginning and then nothing", "6", drip(100_000, 1000*time.Hour), fetch.ErrSlow},
	{"no answer", "6", silent(), fetch.ErrSlow},
	{"compressed", "6", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(theFile)
	}), fetch.ErrEncoding},
	{"first byte wrong", "7", good(flipped(0)), fetch.ErrMismatch},
	{"last byte wrong", "7", good(flipped(len(theFile) - 1)), fetch.ErrMismatch},
	{"garbage behind, told", "7", good(append(bytes.Clone(theFile), "garbage"...)), fetch.ErrMismatch},
	{"too short, told", "7", good(theFile[:200_000]), fetch.ErrMismatch},
	{"too short, not told", "7", chunked(theFile[:200_000]), fetch.ErrMismatch},
	{"log-in page", "8", page("text/html; charset=utf-8"), fetch.ErrServer},
	{"log-in page in disguise", "8", page("application/octet-stream"), fetch.ErrMismatch},
	{"log-in page in chunks", "8", chunked([]byte("<html>please log in</html>")), fetch.ErrMismatch},
	{"redirect to cloud data", "9", redirect("http://169.254.169.254/latest"), fetch.ErrRedirect},
	{"redirect to another host", "9", redirect("http://other/tree"), fetch.ErrRedirect},
	{"redirect to another scheme", "9", redirect("https://bad/tree"), fetch.ErrRedirect},
	{"redirect without end", "9", redirect("/tree/again"), fetch.ErrRedirect},
	{"another file", "12", good(content(11, 300_000)), fetch.ErrMismatch},
	{"another file of another size", "12", good(content(11, 300_001)), fetch.ErrMismatch},
	{"a part where the whole was asked for", "10", status(http.StatusPartialContent), fetch.ErrServer},
	{"not found", "", http.NotFoundHandler(), fetch.ErrNotFound},
	{"forbidden", "", status(http.StatusForbidden), fetch.ErrServer},
	{"broken", "", status(http.StatusInternalServerError), fetch.ErrServer},
}

// Faults 6, 7, 8, 9 and 12: a bad server costs neither the disk nor the file that is there.
func TestFile_OnlyAHostileMirror_RefusesAndKeepsTheOldFile(t *testing.T) {
	for _, h := range hostiles {
		t.Run(h.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				base, _ := w.serve("bad", h.handler)
				d := w.downloader(fetch.Options{Mirrors: []string{base}})
				dir, path := onDisk(t)
				if err := os.WriteFile(filepath.Join(path, "usr"), []byte("old"), 0o600); err != nil {
					t.Fatal(err)
				}
				most := int64(0)
				err := d.File(t.Context(), blobOf(theFile), dir, "usr", func(p fetch.Progress) { most = max(most, p.Done) })
				checkErr(t, err, h.want)
				found := files(t, path)
				if found["usr"] != "old" || len(found["usr.part"]) > len(theFile) || most > int64(len(theFile)) {
					t.Errorf("the old file is now %q, the part has %d bytes, %d were told", found["usr"], len(found["usr.part"]), most)
				}
			})
		})
	}
}

// Faults 6 to 12: one good mirror behind any bad one is enough, also for what reads along
// where the bad one was seen in time, and for metadata.
func TestDownloader_HostileMirrorFirst_TheNextOneServes(t *testing.T) {
	for _, h := range hostiles {
		t.Run(h.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				bad, _ := w.serve("bad", h.handler)
				next, sent := w.serve("good", good(theFile))
				d := w.downloader(fetch.Options{Mirrors: []string{bad, next}})
				dir, path := onDisk(t)
				if err := d.File(t.Context(), blobOf(theFile), dir, "usr", nil); err != nil {
					t.Fatal(err)
				}
				if !cmp.Equal(map[string]string{"usr": string(theFile)}, files(t, path)) {
					t.Error("the file is another")
				}
				if sent.Load() > int64(len(theFile)) {
					t.Errorf("the good mirror has sent %d bytes", sent.Load())
				}
				data, err := d.Checked(t.Context(), "timestamp.json", mib, func(data []byte) error {
					if !bytes.Equal(data, theFile) {
						return errors.New("the signature is wrong")
					}
					return nil
				})
				if err != nil || !bytes.Equal(data, theFile) {
					t.Errorf("metadata: %d bytes, %v", len(data), err)
				}
			})
		})
	}
}

// Fault 6: metadata of any length, speed or packing ends in time and in few bytes.
func TestSmall_OnlyAHostileMirror_Refuses(t *testing.T) {
	cases := []struct {
		name    string
		handler http.Handler
		want    error
	}{
		{"10 GB, told", endless("10737418240"), fetch.ErrLimit},
		{"endless", endless(""), fetch.ErrLimit},
		{"a byte too long", good(content(12, 1001)), fetch.ErrLimit},
		{"a byte a minute", drip(0, time.Minute), fetch.ErrSlow},
		{"no answer", silent(), fetch.ErrSlow},
		{"log-in page", page("text/html"), fetch.ErrServer},
		{"redirect", redirect("http://169.254.169.254/latest"), fetch.ErrRedirect},
		{"not found", http.NotFoundHandler(), fetch.ErrNotFound},
		{"cut", cutting(good(content(12, 900)), 100), io.ErrUnexpectedEOF},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				base, sent := w.serve("bad", c.handler)
				d := w.downloader(fetch.Options{Mirrors: []string{base}})
				start := time.Now()
				_, err := d.Small(t.Context(), "1.root.json", 1000)
				checkErr(t, err, c.want)
				if took := time.Since(start); took > 2*time.Minute || sent.Load() > mib {
					t.Errorf("it took %s and %d bytes", took, sent.Load())
				}
			})
		})
	}
}

// What fits exactly is not too long.
func TestSmall_AsLongAsAccepted_IsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		base, _ := w.serve("a", good(content(13, 1000)))
		d := w.downloader(fetch.Options{Mirrors: []string{base}})
		data, err := d.Small(t.Context(), "1.root.json", 1000)
		if err != nil || !bytes.Equal(data, content(13, 1000)) {
			t.Errorf("%d bytes, %v", len(data), err)
		}
	})
}

// The end of the metadata is where no mirror has a next version: a mirror that is away must
// not hold that up.
func TestSmall_MissingHereAndAwayThere_IsNotFoundAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		base, _ := w.serve("a", http.NotFoundHandler())
		d := w.downloader(fetch.Options{Mirrors: []string{base, "http://away"}})
		start := time.Now()
		_, err := d.Small(t.Context(), "2.root.json", 1000)
		checkErr(t, err, fetch.ErrNotFound)
		if time.Since(start) != 0 {
			t.Errorf("it took %s", time.Since(start))
		}
		if first := d.State()[0]; first.Failures != 0 {
			t.Errorf("a missing file counted as a failure: %+v", first)
		}
	})
}

// Faults 7 and 12 for a reader that cannot give bytes back: it must not see io.EOF, and the
// next try must not begin with the same bad mirror.
func TestStream_WrongSum_ErrorInPlaceOfEOFAndTheNextCallAsksAnotherMirror(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		bad, _ := w.serve("bad", good(flipped(1000)))
		next, _ := w.serve("good", good(theFile))
		d := w.downloader(fetch.Options{Mirrors: []string{bad, next}})
		read := func() ([]byte, error) {
			r, err := d.Stream(t.Context(), blobOf(theFile))
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			return io.ReadAll(r)
		}
		data, err := read()
		checkErr(t, err, fetch.ErrMismatch)
		if len(data) != len(theFile) {
			t.Errorf("%d bytes were handed out", len(data))
		}
		if data, err := read(); err != nil || !bytes.Equal(data, theFile) {
			t.Errorf("the second time: %d bytes, %v", len(data), err)
		}
	})
}

// A log-in page in the middle of a download must not cost what is there.
func TestFile_LoginPageInTheMiddle_KeepsThePart(t *testing.T) {
	for _, portal := range []http.Handler{page("text/html"), page("application/octet-stream"), chunked([]byte("<html>"))} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			first := true
			base, _ := w.serve("a", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if first {
					first = false
					cutting(good(theFile), 250_000).ServeHTTP(rw, r)
				}
				portal.ServeHTTP(rw, r)
			}))
			dir, path := onDisk(t)
			err := w.downloader(fetch.Options{Mirrors: []string{base}}).File(t.Context(), blobOf(theFile), dir, "usr", nil)
			if err == nil {
				t.Fatal("a log-in page was taken for the file")
			}
			have, err := fetch.Have(dir, "usr", blobOf(theFile))
			if err != nil || have != 250_000 {
				t.Errorf("%d bytes are left, %v", have, err)
			}
			if part := files(t, path)["usr.part"]; part != string(theFile[:250_000]) {
				t.Errorf("the part has %d bytes", len(part))
			}
		})
	}
}

// A manifest is checked before, but nobody should depend on that.
func TestDownloader_MalformedBlobOrName_IsRefusedBeforeAnybodyIsAsked(t *testing.T) {
	w := newWorld(t)
	d := w.downloader(fetch.Options{Mirrors: []string{"http://a"}})
	dir, path := onDisk(t)
	plain := blobOf(theFile)
	for _, bad := range []string{"", ".", "..", "/etc/shadow", "../x", "a/../x", "a//b", "a/", "a\x00b", "a\\b", "a\nb", string(make([]byte, 2000))} {
		blob := plain
		blob.Path = bad
		checkErr(t, d.File(t.Context(), blob, dir, "usr", nil), fetch.ErrBlob)
		_, err := d.Small(t.Context(), bad, 10)
		checkErr(t, err, fetch.ErrBlob)
	}
	for _, bad := range []string{"", "..", "a/b", "/a", "a\x00"} {
		checkErr(t, d.File(t.Context(), plain, dir, bad, nil), fetch.ErrBlob)
		checkErr(t, fetch.Discard(dir, bad), fetch.ErrBlob)
	}
	negative, huge, noSum, upper := plain, plain, plain, plain
	negative.Size, huge.Size, noSum.SHA256 = -1, 1<<50, ""
	upper.SHA256 = fmt.Sprintf("%064X", 0xabc)
	for _, blob := range []release.Blob{negative, huge, noSum, upper} {
		checkErr(t, d.File(t.Context(), blob, dir, "usr", nil), fetch.ErrBlob)
	}
	if diff := cmp.Diff(map[string]string{}, files(t, path)); diff != "" || w.dials != 0 {
		t.Errorf("%d connections, files: %s", w.dials, diff)
	}
}
