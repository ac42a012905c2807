package fetch_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/fetch"
)

// Fault 18 for a download: cut at each write, sync, rename and removal, in every order in
// which a disk may have done them, the old file or the new one is there, whole, and the next
// call fetches no more than what lies behind the last note.
func TestFile_CutAtEveryStep_OldOrNewFileAndThePartIsUsed(t *testing.T) {
	const checkpoint, buffer = 32 << 10, 32 << 10
	limits := fetch.Limits{Checkpoint: checkpoint}
	for name, ending := range endings {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				base, _ := w.serve("a", good(theFile))
				d := w.downloader(fetch.Options{Mirrors: []string{base}, Limits: limits})
				outcomes := map[string]int{}
				cut := 1
				for ; ; cut++ {
					disk := newDisk()
					disk.put("usr", "old")
					disk.cut = cut
					err := d.File(t.Context(), blobOf(theFile), disk, "usr", nil)
					finished := err == nil
					if !finished {
						checkErr(t, err, errPower)
					}
					written := disk.longest
					disk.restart(ending)
					outcome := outcomeOf(t, cut, disk)
					outcomes[outcome]++
					again := 0
					err = d.File(t.Context(), blobOf(theFile), disk, "usr", func(p fetch.Progress) { again = int(p.Fetched) })
					if err != nil {
						t.Fatalf("cut %d: the next call: %v", cut, err)
					}
					if lost := again + written - len(theFile); outcome != "whole" && lost > checkpoint+buffer {
						t.Errorf("cut %d: %d bytes were fetched again", cut, lost)
					}
					if outcome == "whole" && again > 0 {
						t.Errorf("cut %d: the file was there, and %d bytes were fetched", cut, again)
					}
					if diff := cmp.Diff([]string{"usr"}, slices.Sorted(maps.Keys(disk.names))); diff != "" || disk.text("usr") != string(theFile) {
						t.Errorf("cut %d: in the end: %s", cut, diff)
					}
					if finished {
						break
					}
				}
				t.Logf("%d cuts: %v", cut-1, outcomes)
				if cut < 40 || outcomes["nothing"] == 0 || outcomes["part"] < 20 || outcomes["whole"] == 0 {
					t.Errorf("%d cuts with outcomes %v: the table does not cover all", cut-1, outcomes)
				}
			})
		})
	}
}

// outcomeOf says what a cut has left: "nothing", a usable "part", or the "whole" file.
func outcomeOf(t *testing.T, cut int, disk *disk) string {
	t.Helper()
	switch disk.text("usr") {
	case string(theFile):
		return "whole"
	case "old":
	default:
		t.Fatalf("cut %d: the file is neither the old nor the new one, but %d bytes", cut, len(disk.text("usr")))
	}
	have, err := fetch.Have(disk, "usr", blobOf(theFile))
	if err != nil {
		t.Fatalf("cut %d: %v", cut, err)
	}
	if have == 0 {
		return "nothing"
	}
	if !strings.HasPrefix(disk.text("usr.part"), string(theFile[:have])) {
		t.Fatalf("cut %d: %d bytes are called usable and are not", cut, have)
	}
	return "part"
}

// Two power cuts in a row, at any two steps, are no worse than one.
func TestFile_CutAgainWhileGoingOn_OldOrNewFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		base, _ := w.serve("a", good(theFile))
		d := w.downloader(fetch.Options{Mirrors: []string{base}, Limits: fetch.Limits{Checkpoint: 64 << 10}})
		for _, ending := range endings {
			for cut := 1; cut < 140; cut += 7 {
				disk := newDisk()
				disk.put("usr", "old")
				for again := cut; ; again += 11 {
					disk.steps, disk.cut = 0, again
					err := d.File(t.Context(), blobOf(theFile), disk, "usr", nil)
					if err == nil {
						break
					}
					checkErr(t, err, errPower)
					disk.restart(ending)
					outcomeOf(t, cut, disk)
				}
				if disk.text("usr") != string(theFile) {
					t.Fatalf("cut %d: the file is another", cut)
				}
			}
		}
	})
}

// Fault 25 for the note: whatever stands in it and in the part, the file is right.
func TestFile_DamagedPartOrNote_BeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		base, _ := w.serve("a", good(theFile))
		cut, _ := w.serve("b", cutting(good(theFile), 200_000))
		left := newDisk()
		err := w.downloader(fetch.Options{Mirrors: []string{cut}, Limits: fetch.Limits{Attempts: 1}}).File(t.Context(), blobOf(theFile), left, "usr", nil)
		if err == nil || left.text("usr.part") != string(theFile[:200_000]) {
			t.Fatalf("%v", err)
		}
		part, text := left.text("usr.part"), left.text("usr.part.json")
		d := w.downloader(fetch.Options{Mirrors: []string{base}})
		cases := []struct {
			name, part, note string
			fetched          int64
		}{
			{"as it was left", part, text, 100_000},
			{"longer part", part + "more", text, 100_000},
			{"no note", part, "", 300_000},
			{"cut note", part, text[:40], 300_000},
			{"empty part", "", text, 300_000},
			{"short part", part[:199_999], text, 300_000},
			{"changed part", "x" + part[1:], text, 300_000},
			{"another file's", part, strings.Replace(text, blobOf(theFile).SHA256, strings.Repeat("0", 64), 1), 300_000},
			{"newer format", part, strings.Replace(text, `"format":1`, `"format":2`, 1), 300_000},
			{"negative offset", part, strings.Replace(text, `"offset":200000`, `"offset":-1`, 1), 300_000},
			{"offset behind the end", part, strings.Replace(text, `"offset":200000`, `"offset":300001`, 1), 300_000},
			{"all there, wrong", string(flipped(1)), noteOf(t, flipped(1)), 300_000},
			{"all there", string(theFile), noteOf(t, theFile), 0},
		}
		for _, c := range cases {
			disk := newDisk()
			disk.put("usr.part", c.part)
			disk.put("usr.part.json", c.note)
			fetched := int64(0)
			if err := d.File(t.Context(), blobOf(theFile), disk, "usr", func(p fetch.Progress) { fetched = p.Fetched }); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			if fetched != c.fetched || disk.text("usr") != string(theFile) {
				t.Errorf("%s: %d bytes were fetched, want %d; right: %v", c.name, fetched, c.fetched, disk.text("usr") == string(theFile))
			}
		}
	})
}

// noteOf is the note of a part that holds all of data.
func noteOf(t *testing.T, data []byte) string {
	t.Helper()
	return `{"format":1,"size":300000,"sha256":"` + blobOf(theFile).SHA256 + `","offset":300000,"sum":"` + blobOf(data).SHA256 + `"}`
}
