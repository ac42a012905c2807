package fetch_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/fetch"
)

// What is there and right costs nothing, and what an older call has left goes away.
func TestFile_ThereAndRight_NobodyIsAsked(t *testing.T) {
	w := newWorld(t)
	dir, path := onDisk(t)
	for name, text := range map[string]string{"usr": string(theFile), "usr.part": "x", "usr.part.json": "{}"} {
		if err := os.WriteFile(filepath.Join(path, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d := w.downloader(fetch.Options{Mirrors: []string{"http://a"}})
	if err := d.File(t.Context(), blobOf(theFile), dir, "usr", nil); err != nil {
		t.Fatal(err)
	}
	if !cmp.Equal(map[string]string{"usr": string(theFile)}, files(t, path)) || w.dials != 0 {
		t.Errorf("%d connections", w.dials)
	}
	if have, err := fetch.Have(dir, "usr", blobOf(theFile)); err != nil || have != 300_000 {
		t.Errorf("%d bytes are there, %v", have, err)
	}
}

// A file without a byte is a file too.
func TestFile_Empty_IsMade(t *testing.T) {
	w := newWorld(t)
	dir, path := onDisk(t)
	d := w.downloader(fetch.Options{Mirrors: []string{"http://a"}})
	if err := d.File(t.Context(), blobOf(nil), dir, "empty", nil); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"empty": ""}, files(t, path)); diff != "" {
		t.Error(diff)
	}
}

// Nobody else may read what is fetched, or lead its writing elsewhere.
func TestFile_OnDisk_IsPrivateAndFollowsNoLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		base, _ := w.serve("a", good(theFile))
		d := w.downloader(fetch.Options{Mirrors: []string{base}})
		for _, link := range []string{"usr", "usr.part", "usr.part.json", "usr.part.json.new"} {
			dir, path := onDisk(t)
			aim := filepath.Join(path, "aim")
			if err := errors.Join(os.WriteFile(aim, []byte("precious"), 0o600), os.Symlink("aim", filepath.Join(path, link))); err != nil {
				t.Fatal(err)
			}
			err := d.File(t.Context(), blobOf(theFile), dir, "usr", nil)
			if link != "usr.part.json.new" && err == nil { // small files need no note
				t.Errorf("%s: a link was followed", link)
			}
			if text, err := os.ReadFile(aim); err != nil || string(text) != "precious" {
				t.Errorf("%s: the aim is %d bytes, %v", link, len(text), err)
			}
		}
		dir, path := onDisk(t)
		if err := d.File(t.Context(), blobOf(theFile), dir, "usr", nil); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(path, "usr"))
		if err != nil || info.Mode() != 0o600 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
	})
}

// Two downloads of one file would write into each other's part.
func TestFile_TwiceAtTheSameTime_TheSecondIsErrInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		base, _ := w.serve("a", good(theFile))
		d := w.downloader(fetch.Options{Mirrors: []string{base}})
		dir, path := onDisk(t)
		var second error
		err := d.File(t.Context(), blobOf(theFile), dir, "usr", func(p fetch.Progress) {
			if p.Done < p.Total {
				second = d.File(t.Context(), blobOf(theFile), dir, "usr", nil)
			}
		})
		if err != nil {
			t.Error(err)
		}
		checkErr(t, second, fetch.ErrInUse)
		if !cmp.Equal(map[string]string{"usr": string(theFile)}, files(t, path)) {
			t.Error("the file is another")
		}
	})
}

// A real folder answers as File expects.
func TestFolder_RealDisk_KeepsTheContract(t *testing.T) {
	dir, _ := onDisk(t)
	_, err := dir.Open("a", false)
	checkErr(t, err, fs.ErrNotExist)
	h, err := dir.Open("a", true)
	if err != nil {
		t.Fatal(err)
	}
	_, err = dir.Open("a", true)
	checkErr(t, err, fetch.ErrInUse)
	reader, err := dir.Open("a", false)
	if err != nil {
		t.Fatal(err)
	}
	free, err := dir.Free()
	if free <= 0 {
		t.Errorf("%d bytes are free", free)
	}
	if err := errors.Join(err, dir.Rename("a", "b"), dir.Remove("a"), dir.Sync(), h.Close(), reader.Close(), dir.Remove("b"), dir.Remove("b")); err != nil {
		t.Error(err)
	}
}
