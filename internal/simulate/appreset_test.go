package simulate_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	osapi "github.com/holdfast-os/holdfast/api/os"
	seeds "github.com/holdfast-os/holdfast/internal/seed"
	"github.com/holdfast-os/holdfast/internal/simulate"
)

const (
	incusData = "root/var/lib/incus"
	resetting = "Resetting the application incus"
	resetNote = "kept/state/application-reset.json"
)

// left is what lies in the data of Incus and beside it, by the folder's ending, and whether a
// reset is noted.
type left struct {
	Data  map[string][]string
	Noted bool
}

func (r *replaced) left() left {
	r.t.Helper()
	found := left{Data: map[string][]string{}}
	for _, ending := range []string{"", ".new", ".old"} {
		entries, err := os.ReadDir(r.path(incusData + ending))
		if os.IsNotExist(err) {
			continue
		}
		r.must(err)
		names := []string{}
		for _, entry := range entries {
			names = append(names, entry.Name())
		}
		found.Data[ending] = names
	}
	_, err := os.Stat(r.path(resetNote))
	found.Noted = err == nil
	return found
}

// fresh is an application that began anew.
var fresh = left{Data: map[string][]string{"": {"simulated"}}}

// A reset that has been answered is promised: a node that stops in the middle of it goes on
// when it starts, and says so.
func TestResetApplication_StoppedAtEachStep_GoesOnAtTheNextStart(t *testing.T) {
	for _, point := range []string{"apps.data-stop", "apps.data-start", "apps.initialize"} {
		r, ctx := replaceable(t, simulate.Fault{On: point, Panic: true, Times: 1}), t.Context()
		r.must(os.WriteFile(r.path(incusData+"/data"), []byte("of before"), 0o600))
		r.must(r.ResetApplication(ctx, "incus", osapi.ApplicationResetPost{}))
		r.ended(resetting)
		// Nothing else may take hold of the data meanwhile.
		if err := r.ResetApplication(ctx, "incus", osapi.ApplicationResetPost{}); err == nil || !strings.Contains(err.Error(), "is not finished") {
			t.Errorf("%s: another reset: %v", point, err)
		}
		r.must(r.Reboot(ctx))
		<-r.up
		r.ready()
		if failure := r.ended(resetting); failure != "" {
			t.Errorf("%s: the operation says %q", point, failure)
		}
		if diff := cmp.Diff(fresh, r.left()); diff != "" {
			t.Errorf("%s: %s", point, diff)
		}
		app, _, err := r.Application(ctx, "incus")
		r.must(err)
		if !app.State.Initialized {
			t.Errorf("%s: the application was not given its seed", point)
		}
	}
}

// Whatever a cut has left on the disk, between any two moves, the next start ends the reset.
func TestStart_WithANotedReset_EndsItFromAnyState(t *testing.T) {
	decided := `{"version":1,"data":{"application":"incus","started":"2026-11-22T01:04:00Z","by":"local","initialized":true,"works":false}}`
	works := strings.Replace(decided, `"works":false`, `"works":true`, 1)
	for name, c := range map[string]struct {
		note string
		dirs map[string]string // the name of a file, by the folder's ending
		want left
	}{
		"decided":                      {decided, map[string]string{"": "of-before"}, fresh},
		"room was made":                {decided, map[string]string{"": "of-before", ".new": ""}, fresh},
		"in the middle of the swap":    {decided, map[string]string{".old": "of-before", ".new": ""}, fresh},
		"an empty folder was made":     {decided, map[string]string{"": "", ".old": "of-before", ".new": ""}, fresh},
		"swapped":                      {decided, map[string]string{"": "", ".old": "of-before"}, fresh},
		"started once":                 {decided, map[string]string{"": "half", ".old": "of-before"}, fresh},
		"it works":                     {works, map[string]string{"": "of-after", ".old": "of-before"}, left{Data: map[string][]string{"": {"of-after", "simulated"}}}},
		"the data of before half gone": {works, map[string]string{"": "of-after", ".new": "of-before"}, left{Data: map[string][]string{"": {"of-after", "simulated"}}}},
		"only the note is left":        {works, map[string]string{"": "of-after"}, left{Data: map[string][]string{"": {"of-after", "simulated"}}}},
		"a note of nobody":             {strings.Replace(decided, "incus", "openfga", 1), map[string]string{"": "of-before"}, left{Data: map[string][]string{"": {"of-before", "simulated"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := folder(t)
			r, stop := replaceableIn(t, dir)
			stop()
			r.must(os.RemoveAll(r.path(incusData)))
			for ending, file := range c.dirs {
				r.must(os.MkdirAll(r.path(incusData+ending), 0o700))
				if file != "" {
					r.must(os.WriteFile(filepath.Join(r.path(incusData+ending), file), nil, 0o600))
				}
			}
			r.must(os.WriteFile(r.path(resetNote), []byte(c.note), 0o600))
			r, _ = replaceableIn(t, dir)
			if diff := cmp.Diff(c.want, r.left()); diff != "" {
				t.Error(diff)
			}
			var kept struct {
				Data map[string]struct{ Initialized bool }
			}
			r.must(json.Unmarshal([]byte(r.read("kept/state/applications.json")), &kept))
			if !kept.Data["incus"].Initialized {
				t.Error("the application counts as one without its seed")
			}
		})
	}
}

// A reset that goes on and fails leaves the application with what it had, as one that was
// never stopped does.
func TestStart_WithANotedResetThatFails_GivesTheDataBack(t *testing.T) {
	r, ctx := replaceable(t, simulate.Fault{On: "apps.data-stop", Panic: true, Times: 1}, simulate.Fault{On: "apps.initialize", Error: "a wrong seed", Times: 1}), t.Context()
	r.must(os.WriteFile(r.path(incusData+"/data"), []byte("of before"), 0o600))
	r.must(r.ResetApplication(ctx, "incus", osapi.ApplicationResetPost{}))
	r.ended(resetting)
	r.must(r.Reboot(ctx))
	<-r.up
	r.ready()
	if failure := r.ended(resetting); !strings.Contains(failure, "a wrong seed") {
		t.Errorf("the operation says %q", failure)
	}
	if diff := cmp.Diff(left{Data: map[string][]string{"": {"data", "simulated"}}}, r.left()); diff != "" {
		t.Error(diff)
	}
}

// The new seed is the one that the application begins with and that the node keeps, also when
// the reset was stopped; one that does not work leaves the seed of before.
func TestResetApplication_WithASeed_BeginsWithItAndTheNodeKeepsIt(t *testing.T) {
	const first, second = `{"version":"1"}`, `{"version":"2","apply_defaults":true}`
	with := func(text string) osapi.ApplicationResetPost {
		return osapi.ApplicationResetPost{Seeds: map[string]json.RawMessage{"incus": json.RawMessage(text)}}
	}
	for name, c := range map[string]struct {
		fault   simulate.Fault
		restart bool
		want    string
	}{
		"nothing happens":      {simulate.Fault{On: "apps.restart", Error: "never"}, false, second},
		"stopped early":        {simulate.Fault{On: "apps.data-stop", Panic: true, Times: 1}, true, second},
		"stopped at its start": {simulate.Fault{On: "apps.data-start", Panic: true, Times: 1}, true, second},
		"stopped with it":      {simulate.Fault{On: "apps.initialize", Panic: true, Times: 1}, true, second},
		"it does not work":     {simulate.Fault{On: "apps.initialize", Error: "a wrong seed", Times: 1}, false, first},
	} {
		t.Run(name, func(t *testing.T) {
			dir := folder(t)
			r, stop := replaceableIn(t, dir)
			r.must(r.ResetApplication(t.Context(), "incus", with(first)))
			if failure := r.ended(resetting); failure != "" {
				t.Fatal(failure)
			}
			stop()
			r, _ = replaceableIn(t, dir, c.fault)
			r.must(r.ResetApplication(t.Context(), "incus", with(second)))
			r.ended(resetting)
			if c.restart {
				r.must(r.Reboot(t.Context()))
				<-r.up
				r.ready()
			}
			if got := r.read(incusData + "/seed.json"); got != c.want {
				t.Errorf("the application began with %s", got)
			}
			f, err := os.Open(r.path("seed.tar"))
			r.must(err)
			defer f.Close()
			set, err := seeds.Parse(f)
			r.must(err)
			text, err := json.Marshal(set.Incus)
			r.must(err)
			if string(text) != c.want || set.Applications == nil {
				t.Errorf("the node has the seed %s, and of the applications %v", text, set.Applications)
			}
			if got := r.left(); got.Noted || len(got.Data) != 1 {
				t.Errorf("left behind: %+v", got)
			}
		})
	}
}
