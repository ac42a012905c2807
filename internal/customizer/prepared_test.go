package customizer_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A publisher takes a release back and brings it again: the service must go on without a
// restart.
func TestImages_ReleaseGoneAndBack_ArePreparedAnew(t *testing.T) {
	w := start(t)
	stable, testing := w.publish("202611220104", "stable", "testing"), w.publish("202611230104", "testing")
	w.carry(testing, stable)
	link := metadata[shown](t, w.do("POST", "/1.0/choices", smallChoice)).Link
	first := w.do("GET", link, "")
	equal(t, "before", first.status, 200)
	once := metadata[map[string]string](t, w.do("POST", "/1.0/images", smallChoice))["image"]
	w.carry(testing)
	if left, err := filepath.Glob(filepath.Join(w.tree, ".customizer", stable.Files[0].SHA256+"*")); err != nil || len(left) > 0 {
		t.Fatalf("of the release that is gone there is %v (%v)", left, err)
	}
	equal(t, "while it is gone", w.do("GET", link, "").status, 404)
	w.carry(testing, stable)
	again := w.do("GET", link, "")
	equal(t, "back", again.status, 200)
	equal(t, "tag", again.header.Get("ETag"), first.header.Get("ETag"))
	equal(t, "one-shot link of before", w.do("GET", once, "").status, 200)
}

// Who clears the cache by hand takes nothing that cannot be made again.
func TestImages_CacheCleared_ArePreparedAnew(t *testing.T) {
	w := start(t)
	once := func() string {
		return metadata[map[string]string](t, w.do("POST", "/1.0/images", smallChoice))["image"]
	}
	link := metadata[shown](t, w.do("POST", "/1.0/choices", smallChoice)).Link
	first := w.do("GET", link, "")
	for _, ending := range []string{"", ".deflate", ".raw"} {
		before := once()
		gone, err := filepath.Glob(filepath.Join(w.tree, ".customizer", "*"+ending))
		if err != nil || len(gone) == 0 {
			t.Fatalf("nothing to clear: %v", err)
		}
		for _, file := range gone {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		}
		equal(t, "one-shot link without "+ending, w.do("GET", before, "").status, 200)
		equal(t, "tag without "+ending, w.do("GET", link, "").header.Get("ETag"), first.header.Get("ETag"))
	}
}

// A one-shot link of a release that is gone for good says so, and is no fault of the service.
func TestFiles_ReleaseGone_AreNotFound(t *testing.T) {
	w := start(t)
	stable, testing := w.publish("202611220104", "stable"), w.publish("202611230104", "testing")
	w.carry(testing, stable)
	once := metadata[map[string]string](t, w.do("POST", "/1.0/images", smallChoice))["image"]
	if err := os.RemoveAll(filepath.Join(w.tree, "202611220104")); err != nil {
		t.Fatal(err)
	}
	equal(t, "while the prepared image is there", w.do("HEAD", once, "").status, 200)
	w.carry(testing)
	got := w.do("GET", once, "")
	equal(t, "status", got.status, 404)
	equal(t, "error", got.envelope(t).Error, "not found: the release of this image is not published any more; ask for another one")
}

// A disk that is full of what nobody can ask for must not stay so because the new image does
// not fit, or cannot be prepared for another reason.
func TestPrepare_ImageThatCannotBePrepared_StillPrunes(t *testing.T) {
	w := start(t)
	old := filepath.Join(w.tree, ".customizer", strings.Repeat("0", 64)+".raw")
	w.write(filepath.Join(".customizer", filepath.Base(old)), []byte("of a release that is gone"))
	w.write("202611230104/x86_64/Holdfast_202611230104.img.gz", []byte("damaged"))
	if err := w.service.Prepare(t.Context()); err == nil {
		t.Error("a damaged image is prepared")
	}
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was prepared for a release that is gone: %v", err)
	}
}
