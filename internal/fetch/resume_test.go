package fetch_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/fetch"
)

func direct(*http.Request) (*url.URL, error) { return nil, nil }

// onDisk gives an empty folder and its path.
func onDisk(t *testing.T) (fetch.Dir, string) {
	t.Helper()
	path := t.TempDir()
	root, err := os.OpenRoot(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	return fetch.Folder(root), path
}

// files are the names in a folder and what is in them.
func files(t *testing.T, path string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(path, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		found[e.Name()] = string(data)
	}
	return found
}

func checkErr(t *testing.T, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("got error %v, want %v", got, want)
	}
}

const mib = 1 << 20

// Fault 11: a line that breaks at every percent still brings the file, once.
func TestFile_CutAtEveryPercent_GoesOnAndFetchesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := content(1, 10*mib)
		w := newWorld(t)
		base, sent := w.serve("a", cutting(good(data), 10*mib/100))
		d := w.downloader(fetch.Options{Mirrors: []string{base}})
		dir, path := onDisk(t)
		var last fetch.Progress
		if err := d.File(t.Context(), blobOf(data), dir, "usr", func(p fetch.Progress) { last = p }); err != nil {
			t.Fatal(err)
		}
		if !cmp.Equal(map[string]string{"usr": string(data)}, files(t, path)) {
			t.Error("the file is another")
		}
		if sent.Load() > 10*mib*102/100 || last.Fetched > 10*mib*102/100 {
			t.Errorf("%d bytes were sent and %d counted for %d", sent.Load(), last.Fetched, len(data))
		}
	})
}

// Fault 11 with a new process each time: it goes on where the last one was.
func TestFile_ProcessEndsAtEveryPercent_GoesOnAndFetchesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := content(2, 1_000_000)
		w := newWorld(t)
		base, sent := w.serve("a", cutting(good(data), 10_000))
		dir, path := onDisk(t)
		runs := 1
		for ; runs < 200; runs++ {
			d := w.downloader(fetch.Options{Mirrors: []string{base}, Limits: fetch.Limits{Attempts: 1}})
			err := d.File(t.Context(), blobOf(data), dir, "usr", nil)
			d.Close()
			if err == nil {
				break
			}
			checkErr(t, err, io.ErrUnexpectedEOF)
			have, err := fetch.Have(dir, "usr", blobOf(data))
			if err != nil || have != int64(runs)*10_000 {
				t.Fatalf("run %d has left %d bytes, %v", runs, have, err)
			}
		}
		synctest.Wait()
		if !cmp.Equal(map[string]string{"usr": string(data)}, files(t, path)) || runs != 100 || sent.Load() != 1_000_000 {
			t.Errorf("%d bytes were sent for %d in %d runs", sent.Load(), len(data), runs)
		}
	})
}

// Fault 11 for a consumer that reads along, as the one that applies a patch.
func TestStream_CutAtEveryPercent_GivesTheSameBytesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := content(3, 10*mib)
		w := newWorld(t)
		base, sent := w.serve("a", cutting(good(data), 10*mib/100))
		d := w.downloader(fetch.Options{Mirrors: []string{base}})
		r, err := d.Stream(t.Context(), blobOf(data))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if sent.Load() > 10*mib*102/100 {
			t.Errorf("%d bytes were sent for %d", sent.Load(), len(data))
		}
	})
}
