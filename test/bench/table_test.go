package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What a reader sees: a number that was never taken says so and why, one that was keeps
// its date, and one that misses its target says it with the reason.
func TestRender_RecordsOfAllKinds_SayWhatTheyAre(t *testing.T) {
	all := []measurement{
		{Name: "quick", Rows: []metric{
			{ID: "size", What: "size|of it", Unit: inBytes, Limit: 280e6, Against: "IncusOS", Missed: "never shown."},
			{ID: "never", What: "never taken", Unit: inSeconds, Limit: 10},
			{ID: "slow", What: "slow", Unit: inSeconds, Limit: 1.5, Times: true, Against: "Debian", Missed: "the UKI is large; a smaller one would close it."},
			{ID: "odd", What: "odd", Unit: inBytes, Limit: 40e6},
		}},
		{Name: "cold", Apart: "it takes an hour", Rows: []metric{
			{ID: "cold", What: "all of it", Unit: inSeconds, Limit: 2100},
			{ID: "ci", What: "CI", Unit: inSeconds, Limit: 1500},
		}},
	}
	records := []record{
		{ID: "size", Taken: day(20), Conditions: "2 processors", Value: 238.5e6, Other: 477e6, How: "gzip."},
		{ID: "slow", Taken: day(22), Conditions: "tcg", Value: 90, Other: 45, How: "in turn."},
		{ID: "odd", Taken: day(22), Conditions: "tcg", Value: 41e6, How: "read."},
		{ID: "cold", Taken: day(1), Conditions: "c", Value: 810.75, How: "by hand."},
	}
	_, table, _ := strings.Cut(render(all, records), "\n\n| what ")
	want := `| value | target | compared with | ratio | taken | how it was taken |
|---|---|---|---|---|---|---|
| size\|of it | 238.5 MB | 280 MB | IncusOS, 477.0 MB | 0.50 | 2026-11-20 | 2 processors: gzip. |
| never taken | not measured | 10 s |  |  |  | it was not run yet: ` + "`go run ./test/bench -only quick`" + ` |
| slow | 90.0 s | 1.5 times, **missed** | Debian, 45.0 s | 2.00 | 2026-11-22 | tcg: in turn. Missed: the UKI is large; a smaller one would close it. |
| odd | 41.0 MB | 40 MB, **missed** |  |  | 2026-11-22 | tcg: read. Missed; why is not known yet. |
| all of it | 13.5 min | 35 min |  |  | 2026-11-01 | c: by hand. |
| CI | not measured | 25 min |  |  |  | it was not run yet: ` + "`go run ./test/bench -only cold`" + `; it is not part of ` + "`make bench`" + `: it takes an hour |
`
	if diff := cmp.Diff(want, table); diff != "" {
		t.Error(diff)
	}
}

// A ratio without its other side keeps no promise.
func TestMissed_Limits_AreUpperBounds(t *testing.T) {
	absolute, times := metric{Limit: 10}, metric{Limit: 1.5, Times: true}
	for _, c := range []struct {
		row          metric
		value, other float64
		want         bool
	}{
		{absolute, 10, 0, false},
		{absolute, 10.1, 0, true},
		{absolute, 10.1, 100, true},
		{times, 15, 10, false},
		{times, 15.1, 10, true},
		{times, 1, 0, true},
	} {
		if got := missed(c.row, record{Value: c.value, Other: c.other}); got != c.want {
			t.Errorf("%v of %v under %+v: missed is %v", c.value, c.other, c.row, got)
		}
	}
}

func TestMedian_Numbers_GiveTheirMiddle(t *testing.T) {
	for _, c := range []struct {
		in   []float64
		want float64
	}{{nil, 0}, {[]float64{7}, 7}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 2, 9}, 3}} {
		if got := median(c.in); got != c.want {
			t.Errorf("%v: %v, want %v", c.in, got, c.want)
		}
	}
}
