package apps

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What a node gets by itself: see each row.
func TestWanted_SeedAndState_GiveOneListToInstall(t *testing.T) {
	for name, c := range map[string]struct {
		state  State
		seeded []string
		want   []string
		cause  error
	}{
		"nothing asked: incus":                 {want: []string{"incus"}},
		"asked for it":                         {seeded: []string{"incus"}, want: []string{"incus"}},
		"asked twice":                          {seeded: []string{"incus", "debug", "incus"}, want: []string{"debug", "incus"}},
		"a helper brings its primary":          {seeded: []string{"incus-ceph"}, want: []string{"incus-ceph", "incus"}},
		"an alternative counts":                {seeded: []string{"incus-ceph", "incus-lts-7.0"}, want: []string{"incus-ceph", "incus-lts-7.0"}},
		"what starts later comes later":        {seeded: []string{"openfga", "debug", "incus"}, want: []string{"debug", "incus", "openfga"}},
		"the seed counts on an empty node":     {state: State{"incus": {}}, seeded: []string{"operations-center"}, want: []string{"incus"}},
		"two primaries":                        {seeded: []string{"incus", "operations-center"}, cause: ErrSecondPrimary},
		"a helper of another family's primary": {seeded: []string{"operations-center", "incus-ceph"}, cause: ErrSecondPrimary},
		"unknown":                              {seeded: []string{"nonsense"}, cause: ErrUnknown},
	} {
		got, err := wanted(Catalogue(), c.state, c.seeded)
		if !errors.Is(err, c.cause) || (c.cause == nil && err != nil) {
			t.Errorf("%s: got error %v, want %v", name, err, c.cause)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// A node whose application depends on another must not lose that one.
func TestMayRemove_LastDependency_IsRefused(t *testing.T) {
	catalogue := map[string]Application{
		"a": {}, "b": {}, "user": {Needs: []string{"a", "b"}},
	}
	if err := mayRemove(catalogue, State{"a": {}, "user": {}}, "a"); !errors.Is(err, ErrNeeded) {
		t.Errorf("got %v", err)
	}
	if err := mayRemove(catalogue, State{"a": {}, "b": {}, "user": {}}, "a"); err != nil {
		t.Errorf("with the alternative installed: %v", err)
	}
}

// A second primary application would fight for the API's listener.
func TestMayAdd_SecondPrimary_IsRefused(t *testing.T) {
	catalogue := Catalogue()
	catalogue["operations-center"] = Application{Primary: true, Installable: true}
	if err := mayAdd(catalogue, State{"incus": {}}, "operations-center"); !errors.Is(err, ErrSecondPrimary) {
		t.Errorf("got %v", err)
	}
}

// Which version a boot runs, for each way in which the last one may have ended.
func TestAtBoot_EachPast_ChoosesAVersionOnDisk(t *testing.T) {
	for name, c := range map[string]struct {
		record  Record
		disk    []string
		version string
		after   Record
	}{
		"quiet":                      {Record{Version: "2", Previous: "1"}, []string{"1", "2"}, "2", Record{Version: "2", Previous: "1"}},
		"switch cut off":             {Record{Version: "1", Next: "2"}, []string{"1", "2"}, "2", Record{Version: "1", Next: "2", NextTried: true}},
		"switch died in a boot":      {Record{Version: "1", Next: "2", NextTried: true}, []string{"1", "2"}, "1", Record{Version: "1", Failed: "2"}},
		"switch target is gone":      {Record{Version: "1", Next: "2"}, []string{"1"}, "1", Record{Version: "1"}},
		"active image is gone":       {Record{Version: "2", Previous: "1"}, []string{"1"}, "1", Record{Version: "1"}},
		"both are gone, a third not": {Record{Version: "2", Previous: "1"}, []string{"0"}, "0", Record{Version: "0", Previous: "1"}},
		"no image at all":            {Record{Version: "2"}, nil, "", Record{Version: "2"}},
	} {
		version, after := atBoot(c.record, c.disk)
		if version != c.version {
			t.Errorf("%s: got version %q, want %q", name, version, c.version)
		}
		if diff := cmp.Diff(c.after, after); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
