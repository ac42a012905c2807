package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func day(n int) time.Time { return time.Date(2026, 11, n, 8, 0, 0, 0, time.UTC) }

// A measurement of half an hour that is not taken today must not vanish from the page.
func TestMerge_SomeTakenAnew_OthersKeepTheirLastRecord(t *testing.T) {
	kept := []record{{ID: "b", Taken: day(20), Value: 1}, {ID: "gone-from-the-list", Taken: day(1), Value: 9}, {ID: "c", Taken: day(20), Value: 5}}
	fresh := []record{{ID: "b", Taken: day(22), Value: 2}, {ID: "a", Taken: day(22), Value: 3}, {ID: "c", Taken: day(19), Value: 6}}
	want := []record{
		{ID: "a", Taken: day(22), Value: 3},
		{ID: "b", Taken: day(22), Value: 2},
		{ID: "c", Taken: day(20), Value: 5},
		{ID: "gone-from-the-list", Taken: day(1), Value: 9},
	}
	if diff := cmp.Diff(want, merge(kept, fresh)); diff != "" {
		t.Error(diff)
	}
}

func TestRecords_WrittenAndRead_AreTheSame(t *testing.T) {
	path := filepath.Join(t.TempDir(), "results.json")
	if got, err := loadRecords(path); err != nil || got != nil {
		t.Errorf("without a file: %v, %v", got, err)
	}
	want := []record{
		{ID: "a", Taken: day(20), Conditions: "2 processors", Value: 0.1, Other: 3, How: "so"},
		{ID: "b", Taken: day(22), Value: 265_100_000},
	}
	if err := saveRecords(path, want); err != nil {
		t.Fatal(err)
	}
	got, err := loadRecords(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Records of a form that this program does not know must not be overwritten with less.
func TestLoadRecords_UnknownFileOrVersion_IsAnError(t *testing.T) {
	for _, text := range []string{`{"version":2,"records":[]}`, `{}`, `[`} {
		path := filepath.Join(t.TempDir(), "results.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := loadRecords(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
}

// The key of a record and the name behind -only mean one thing each.
func TestMeasurements_NamesAndIDs_AreUnique(t *testing.T) {
	seen := map[string]bool{}
	for _, m := range measurements() {
		keys := []string{"name " + m.Name}
		for _, row := range m.Rows {
			keys = append(keys, "id "+row.ID)
			if row.What == "" || row.Limit < 0 || row.Times && row.Against == "" {
				t.Errorf("%s: the row has not all it needs: %+v", m.Name, row)
			}
		}
		for _, key := range keys {
			if seen[key] {
				t.Errorf("%s is there twice", key)
			}
			seen[key] = true
		}
		if m.Take == nil || len(m.Rows) == 0 {
			t.Errorf("%s takes nothing", m.Name)
		}
	}
}

func TestChoose_Names_TakeTheirMeasurementsInTheOrderOfTheList(t *testing.T) {
	all := []measurement{{Name: "a"}, {Name: "long", Apart: "it is long"}, {Name: "b"}}
	for _, c := range []struct{ only, want, wrong string }{
		{"", "a b", ""},
		{"b,long", "long b", ""},
		{"none", "", ""},
		{"a,x", "", "x"},
		{"a,a", "", "a"},
	} {
		chosen, err := choose(all, c.only)
		var names []string
		for _, m := range chosen {
			names = append(names, m.Name)
		}
		if got := strings.Join(names, " "); got != c.want || (err != nil) != (c.wrong != "") || err != nil && !strings.Contains(err.Error(), `"`+c.wrong+`"`) {
			t.Errorf("%q: %q, %v", c.only, got, err)
		}
	}
}
