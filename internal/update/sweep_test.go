package update_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"text/tabwriter"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/update"
)

// The goldens and the pictures of the documentation are written by
//
//	go test ./internal/update -write
var write = flag.Bool("write", false, "write the goldens and the pictures of the documentation")

// golden compares a text with a file, or writes the file.
func golden(t *testing.T, path, text string) {
	t.Helper()
	if *write {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text); diff != "" {
		t.Errorf("%s: %s", filepath.Base(path), diff)
	}
}

// story takes a machine from A to B to C, restarting as often as it takes. after hears of
// each end of a session and of each boot.
func (w *world) story(after func(outcome)) {
	w.t.Helper()
	next := []string{verC}
	w.published = []string{verB}
	check := func(ctx context.Context, a *update.Agent) {
		w.check(ctx, a)
		for len(next) > 0 && w.running == verB {
			w.published, next = append(w.published, next[0]), next[1:]
			w.check(ctx, a)
		}
	}
	for range 40 {
		w.boot()
		after("")
		switch out := w.session(check); {
		case out == settled && w.running == verC:
			return
		case out == settled:
			w.t.Fatalf("settled on %s with %s published", w.running, w.published)
		default:
			after(out)
		}
	}
	w.t.Fatalf("the machine restarts for ever: %v", w.boots)
}

// point is where the power was cut, and what came of it.
type point struct {
	state update.State // on the disk, before the cut
	mode  cut
	ran   string
}

// steps counts the writes and flushes of an undisturbed story.
func steps(t *testing.T) int {
	w := newWorld(t)
	w.story(func(outcome) {})
	return w.disk.steps
}

// Fault 18. The power is cut at every write and every flush of two updates, with what was
// not flushed kept, lost, torn and reordered. Each time the machine boots one of the two
// releases, opens its disk, remembers, blames no release, and ends on the newest.
func TestUpdate_PowerCutAtEveryWrite_EndsOnTheNewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := steps(t)
		table := map[point]map[string]int{}
		for _, mode := range cuts {
			for at := 1; at <= n; at++ {
				p, boots := cutOnce(t, at, mode)
				if table[p] == nil {
					table[p] = map[string]int{}
				}
				table[p][boots]++
			}
		}
		golden(t, filepath.Join("testdata", "powercut.txt"), render(n, table))
	})
}

// cutOnce runs the story with one cut; it gives where that was, and what booted next.
func cutOnce(t *testing.T, at int, mode cut) (point, string) {
	w := newWorld(t)
	w.disk.cutAt, w.disk.mode = at, mode
	p := point{mode: mode}
	ran, booted, before := "", "", update.State("idle")
	seen := func(out outcome) {
		switch {
		case out == wasCut:
			ran, p.state = w.running, before
		case ran != "" && booted == "":
			booted = "the same"
			if w.running != ran {
				booted = "the other"
			}
		}
	}
	w.story(func(out outcome) {
		if d := w.document(); d.State != "" {
			before = d.State
		}
		seen(out)
	})
	p.ran = ran
	if ran == "" {
		p.state, p.ran, booted = "boot loader", "-", "as it was to"
	}
	d := w.document()
	if len(d.Bad) > 0 || d.Proved == nil || d.Proved.Version != verC || d.Armed != nil || d.State == update.Failed {
		t.Errorf("cut at %d, %s: ends as %+v", at, mode, d)
	}
	if w.disk.cutAt != 0 && w.disk.steps < at {
		t.Errorf("cut at %d, %s: never came", at, mode)
	}
	return p, booted
}

func render(n int, table map[point]map[string]int) string {
	var out bytes.Buffer
	fmt.Fprintf(&out, "%d writes and flushes from A over B to C; the power cut at each, in %d ways.\n", n, len(cuts))
	fmt.Fprintf(&out, "Every run ended on C, with the disk open, the state readable and no release blamed.\n\n")
	rows := map[[3]string]map[cut]int{}
	names := map[string]string{verA: "A", verB: "B", verC: "C", "-": "-"}
	for p, boots := range table {
		for next, count := range boots {
			key := [3]string{string(p.state), names[p.ran], next}
			if rows[key] == nil {
				rows[key] = map[cut]int{}
			}
			rows[key][p.mode] += count
		}
	}
	tab := tabwriter.NewWriter(&out, 0, 8, 2, ' ', 0)
	fmt.Fprint(tab, "remembered\tran\tboots next")
	for _, mode := range cuts {
		fmt.Fprintf(tab, "\t%s", mode)
	}
	fmt.Fprintln(tab)
	for _, key := range slices.SortedFunc(maps.Keys(rows), func(a, b [3]string) int { return slices.Compare(a[:], b[:]) }) {
		fmt.Fprintf(tab, "%s\t%s\t%s", key[0], key[1], key[2])
		for _, mode := range cuts {
			fmt.Fprintf(tab, "\t%d", rows[key][mode])
		}
		fmt.Fprintln(tab)
	}
	if err := tab.Flush(); err != nil {
		panic(err)
	}
	return out.String()
}

// Two power cuts in one update: the second while the machine mends what the first left.
func TestUpdate_TwoPowerCuts_EndsOnTheNewest(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a second or two")
	}
	synctest.Test(t, func(t *testing.T) {
		n := steps(t)
		for first := 1; first <= n; first += 5 {
			for second := 1; second <= 60; second += 3 {
				mode := cuts[(first+second)%len(cuts)]
				w := newWorld(t)
				w.disk.cutAt, w.disk.mode = first, mode
				w.story(func(out outcome) {
					if out == wasCut && w.disk.cutAt == first {
						w.disk.cutAt = first + second
					}
				})
				if d := w.document(); len(d.Bad) > 0 || d.Proved == nil || d.Proved.Version != verC {
					t.Errorf("cuts at %d and %d later, %s: ends as %+v", first, second, mode, d)
				}
			}
		}
	})
}

// The return from a bad release survives a power cut at each of its writes too: the older
// release runs again and names what was wrong with the other.
func TestUpdate_PowerCutAtEveryWriteOfAReturn_EndsOnTheOlder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		run := func(at int, mode cut) *world {
			w := newWorld(t)
			w.kinds[verB], w.published = kindNoPool, []string{verB}
			w.disk.cutAt, w.disk.mode = at, mode
			w.live(w.check)
			return w
		}
		n := run(0, cutKeep).disk.steps
		for _, mode := range cuts {
			for at := 1; at <= n; at++ {
				w := run(at, mode)
				d := w.document()
				if w.running == verB || len(d.Bad) != 1 || d.Bad[0].Version != verB || d.Armed != nil {
					t.Errorf("cut at %d, %s: %s runs, %+v", at, mode, w.running, d)
					continue
				}
				if want := "pools: pool local was imported before and is not"; d.Bad[0].Reason != want {
					t.Errorf("cut at %d, %s: reason %q", at, mode, d.Bad[0].Reason)
				}
			}
		}
	})
}
