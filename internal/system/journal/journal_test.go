package journal_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/system/journal"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

func TestArgs_Query_BecomesOptionsOfJournalctl(t *testing.T) {
	common := []string{"--output=json", "--no-pager", "--quiet"}
	cases := map[string]struct {
		query journal.Query
		want  []string
	}{
		"nothing asked": {journal.Query{}, append(common, "--lines=10000", "--boot=0")},
		"all asked": {
			journal.Query{Unit: "incus.service", Boot: "-1", Entries: 5, Since: "2026-11-22 01:02:03", Until: "-10min"},
			append(common, "--lines=5", "--unit=incus.service", "--boot=-1", "--since=2026-11-22 01:02:03", "--until=-10min"),
		},
		"more than the limit": {journal.Query{Entries: 50000}, append(common, "--lines=10000", "--boot=0")},
		"boot id": {journal.Query{Boot: "0123456789abcdef0123456789abcdef"},
			append(common, "--lines=10000", "--boot=0123456789abcdef0123456789abcdef")},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := c.query.Args()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Whoever may read the log must not thereby read other files or follow without end.
func TestRead_ArgumentFromOutsideThatIsNone_RunsNothing(t *testing.T) {
	for name, query := range map[string]journal.Query{
		"option as unit":   {Unit: "--file=/etc/shadow"},
		"path as unit":     {Unit: "../x"},
		"option as boot":   {Boot: "--follow"},
		"word as boot":     {Boot: "all"},
		"newline in since": {Since: "now\n--follow"},
		"quote in until":   {Until: "now'"},
		"long since":       {Since: "2026-11-22 01:02:03 2026-11-22 01:02:03 2026-11-22 01:02:03 2026-11-22"},
		"negative entries": {Entries: -1},
	} {
		t.Run(name, func(t *testing.T) {
			ran := false
			r := journal.Reader{Run: func(context.Context, run.Command) (run.Result, error) {
				ran = true
				return run.Result{}, nil
			}}
			if _, err := r.Read(context.Background(), query); !errors.Is(err, journal.ErrQuery) || ran {
				t.Errorf("got error %v, ran %v", err, ran)
			}
		})
	}
}

func TestRead_Lines_BecomeEntries(t *testing.T) {
	r := journal.Reader{Run: func(context.Context, run.Command) (run.Result, error) {
		return run.Result{Stdout: []byte("{\"MESSAGE\":\"a\"}\n\n{\"MESSAGE\":[104,105]}\n")}, nil
	}}
	got, err := r.Read(context.Background(), journal.Query{})
	if err != nil {
		t.Fatal(err)
	}
	want := []json.RawMessage{json.RawMessage(`{"MESSAGE":"a"}`), json.RawMessage(`{"MESSAGE":[104,105]}`)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
