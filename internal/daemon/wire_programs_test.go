package daemon

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/keyupdate"
	"github.com/holdfast-os/holdfast/internal/pcr"
)

// A header has few places: bindings of releases long gone make room, but never the one that
// has opened this start.
func TestOutdated_BindingsOfOldReleases_GoWhenThisStartIsKnown(t *testing.T) {
	oldest, old, present, next := keyupdate.Policy{1}, keyupdate.Policy{2}, keyupdate.Policy{3}, keyupdate.Policy{4}
	tokens := func(policies ...keyupdate.Policy) (list []keyupdate.Token) {
		for _, p := range policies {
			list = append(list, keyupdate.Token{Policy: p})
		}
		return list
	}
	for name, test := range map[string]struct {
		tokens []keyupdate.Token
		want   []keyupdate.Policy
	}{
		"first update":             {tokens(present), nil},
		"later update":             {tokens(oldest, old, present), []keyupdate.Policy{oldest, old}},
		"asked twice":              {tokens(old, present, next), []keyupdate.Policy{old}},
		"this start is not known":  {tokens(oldest, old), nil},
		"no binding with a policy": {nil, nil},
	} {
		if diff := cmp.Diff(test.want, outdated(test.tokens, present, next)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestMeasured_NoteOfTheStart_HasItsHashesOrIsRefused(t *testing.T) {
	one, two, three := strings.Repeat("01", 32), strings.Repeat("02", 32), strings.Repeat("03", 32)
	got, err := startedPrograms{Loaders: map[string]string{"EFI/BOOT/BOOTX64.EFI": one}, UKI: two, Kernel: three}.measured()
	if err != nil {
		t.Fatal(err)
	}
	value := func(b byte) (v pcr.Value) {
		for i := range v {
			v[i] = b
		}
		return v
	}
	want := pcr.Started{Loaders: map[string]pcr.Value{"EFI/BOOT/BOOTX64.EFI": value(1)}, UKI: value(2), Kernel: value(3)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for name, bad := range map[string]startedPrograms{
		"nothing":   {},
		"half":      {UKI: two, Kernel: three[1:]},
		"no number": {UKI: strings.Repeat("zz", 32), Kernel: three},
		"loader":    {UKI: two, Kernel: three, Loaders: map[string]string{"x": "01"}},
	} {
		if got, err := bad.measured(); err == nil {
			t.Errorf("%s: got %v", name, got)
		}
	}
}
