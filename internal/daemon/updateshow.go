package daemon

import (
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/update"
	"github.com/holdfast-os/holdfast/internal/update/health"
)

// showUpdates is what the agent knows, as the API has it.
func showUpdates(s update.Snapshot) osapi.UpdateState {
	state := osapi.UpdateState{
		LastCheck: s.LastCheck, Status: s.Status, NeedsReboot: s.Armed != nil,
		State: string(s.State), StateSince: s.Since, Reason: s.Reason, RunningVersion: s.Running, Checks: showChecks(s.Checks),
	}
	if s.Armed != nil {
		state.StagedVersion = s.Armed.Version
	}
	if s.Work != nil {
		state.FetchingVersion = s.Work.Version
	}
	for _, d := range s.Decisions {
		state.Decisions = append(state.Decisions, osapi.UpdateDecision(d))
	}
	for _, b := range s.Bad {
		state.BadReleases = append(state.BadReleases, osapi.UpdateBadRelease{
			Version: b.Version, Reason: b.Reason, At: b.At, Checks: showChecks(b.Checks), Journal: b.Journal,
		})
	}
	for _, e := range s.Entries {
		state.Slots = append(state.Slots, osapi.UpdateSlot{
			Version: e.Version, Running: e.Version == s.Running, Trial: e.Counted, TriesLeft: e.TriesLeft, TriesDone: e.TriesDone,
		})
	}
	for _, t := range s.Timings {
		state.History = append(state.History, showTiming(t))
	}
	return state
}

func showTiming(t update.Timing) osapi.UpdateTiming {
	return osapi.UpdateTiming{
		Version: t.Version, From: t.From, Bytes: t.Bytes, Fetch: secondsOf(t.Fetch), Write: secondsOf(t.Write), Boot: secondsOf(t.Boot), Gate: secondsOf(t.Gate),
	}
}

func secondsOf(d time.Duration) float64 { return d.Round(time.Millisecond).Seconds() }

func showChecks(results []health.Result) []osapi.UpdateCheckResult {
	var shown []osapi.UpdateCheckResult
	for _, r := range results {
		shown = append(shown, osapi.UpdateCheckResult{Name: r.Name, OK: r.OK, Error: r.Error, Duration: secondsOf(r.Duration)})
	}
	return shown
}

// showPlan is a plan as the API has it.
func showPlan(p update.Plan) osapi.UpdatePlan {
	shown := osapi.UpdatePlan{
		Needed: p.Needed, Why: p.Why, Channel: p.Channel, Version: p.Version, Severity: string(p.Severity), PublishedAt: p.PublishedAt,
		RunningVersion: p.Running, StagedVersion: p.Staged, Bytes: p.Bytes, FullBytes: p.FullBytes, ChangesFrom: p.ChangesFrom, CVEs: p.CVEs,
		Reboot: p.Reboot, Restarts: p.Restarts, PCR: p.PCR, Problems: p.Problems,
	}
	for _, part := range p.Parts {
		shown.Parts = append(shown.Parts, osapi.UpdatePlanPart{
			Name: part.Name, Component: string(part.Component), How: part.How, Why: part.Why, Bytes: part.Bytes, FullBytes: part.FullBytes,
		})
	}
	for component, changes := range p.Changes {
		if shown.Changes == nil {
			shown.Changes = map[string]osapi.UpdateChanges{}
		}
		shown.Changes[string(component)] = osapi.UpdateChanges{Added: changes.Added, Updated: changes.Updated, Removed: changes.Removed}
	}
	if p.Last != nil {
		last := showTiming(*p.Last)
		shown.Last = &last
	}
	return shown
}
