package update

import (
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-os/holdfast/internal/update/health"
)

// Resume is what a start of the daemon finds: which event the time since the last save of
// the document was, and what there is to say about it.
type Resume struct {
	// On is the event; empty when the document tells the truth as it is.
	On Event
	// Version is the release that it is about.
	Version string
	// Reason says what was wrong with it; for OnCameBack and OnGone.
	Reason string
	// Mark has the release marked as bad first: it has tries left, and must not be started
	// again.
	Mark bool
	// Unarmed says that the release that the document holds for staged is not.
	Unarmed bool
}

// known is true for a state of this program; a newer release may have others.
func (s State) known() bool {
	return slices.Contains([]State{Idle, Checking, Planned, Fetching, Staging, Staged, Rebooting, Trial, Good, Returning, Returned, Failed}, s)
}

// resume compares what is remembered with what is. It answers for every pair of the two:
// whichever write a power cut took away, and also when nothing is remembered at all.
func resume(d Document, m Machine) Resume {
	switch {
	case d.State == Returning && d.Verdict != nil && d.Verdict.Version == m.Running:
		if m.onTrial() {
			return Resume{On: OnBooted, Version: m.Running}
		}
		return Resume{On: OnBlessed, Version: m.Running, Reason: d.Verdict.Reason}
	case m.onTrial():
		return Resume{On: OnBooted, Version: m.Running}
	case names(d.Trial, m.Running) || isRelease(d.Armed, m.Running) || isRelease(d.Work, m.Running):
		return Resume{On: OnBlessed, Version: m.Running}
	}
	return older(d, m)
}

// older is resume for a machine that runs a release that has proved itself.
func older(d Document, m Machine) Resume {
	r := interrupted(d.State)
	other, there := waiting(d, m)
	expected := d.Armed != nil || d.Trial != nil
	switch {
	case !there && d.State == Staging:
		r.Unarmed = true
		return r
	case !there && expected:
		version := subject(d)
		return Resume{On: OnGone, Version: version, Reason: fmt.Sprintf("the boot entry of %s is gone", version)}
	case !there:
		return r
	}
	_, told := d.bad(other.Version)
	started := other.TriesDone > 0 || names(d.Trial, other.Version)
	switch {
	case other.Bad() && told && !expected:
		return r // old news
	case other.Bad() || started:
		return Resume{On: OnCameBack, Version: other.Version, Reason: story(d, other), Mark: !other.Bad()}
	case d.Armed == nil:
		return Resume{On: OnAdopted, Version: other.Version}
	case d.State == Rebooting:
		return Resume{On: OnStayed, Version: other.Version}
	}
	return r
}

// interrupted says what an end of the daemon means for a state.
func interrupted(s State) Resume {
	switch s {
	case Checking, Fetching, Staging:
		return Resume{On: OnInterrupted}
	}
	return Resume{}
}

// waiting is the boot entry of the release that is to take over, or was.
func waiting(d Document, m Machine) (Entry, bool) {
	if version := subject(d); version != "" {
		return m.entry(version)
	}
	for _, e := range m.Entries {
		if e.Version != m.Running && e.Counted {
			return e, true
		}
	}
	return Entry{}, false
}

// subject is the release that the document is about; empty when there is none.
func subject(d Document) string {
	switch {
	case d.Armed != nil:
		return d.Armed.Version
	case d.Trial != nil:
		return d.Trial.Version
	}
	return ""
}

// story tells why a release is not the one that runs.
func story(d Document, e Entry) string {
	if v := d.Verdict; v != nil && v.Version == e.Version {
		return v.Reason
	}
	if !names(d.Trial, e.Version) {
		return fmt.Sprintf("did not start (no word from it after %s)", tries(e.TriesDone))
	}
	text := fmt.Sprintf("started, but was not found good in %s", tries(max(e.TriesDone, d.Trial.Boots)))
	if open := unwell(d.Trial.Results); open != "" {
		text += "; last: " + open
	}
	return text
}

func tries(n int) string {
	if n == 1 {
		return "1 try"
	}
	return fmt.Sprintf("%d tries", n)
}

// unwell names the checks that did not hold.
func unwell(results []health.Result) string {
	var open []string
	for _, r := range results {
		if !r.OK {
			open = append(open, r.Name+": "+r.Error)
		}
	}
	return strings.Join(open, "; ")
}

func names(t *TrialRun, version string) bool { return t != nil && t.Version == version }

func isRelease(r *Release, version string) bool { return r != nil && r.Version == version }
