package os

import "time"

// Update is /1.0/system/update.
type Update struct {
	// Config is what the owner asked for.
	Config UpdateConfig `json:"config" yaml:"config"`
	// State is what the node observes; it is not read from a request.
	State UpdateState `json:"state" yaml:"state"`
}

// UpdateConfig is also the seed named "update".
type UpdateConfig struct {
	// AutoReboot restarts the node by itself after an update of the OS; default false.
	AutoReboot bool `json:"auto_reboot" yaml:"auto_reboot"`
	// Channel is the release channel followed; default "stable".
	Channel string `json:"channel" yaml:"channel"`
	// CheckFrequency is a Go duration, or "never"; default "6h".
	CheckFrequency string `json:"check_frequency" yaml:"check_frequency"`
	// MaintenanceWindows limit when updates are applied; default always.
	MaintenanceWindows []MaintenanceWindow `json:"maintenance_windows,omitempty" yaml:"maintenance_windows,omitempty"`
}

// MaintenanceWindow is a daily or weekly span in the node's time zone, both ends included.
type MaintenanceWindow struct {
	// StartDayOfWeek is "Sunday" to "Saturday", or empty for every day.
	StartDayOfWeek string `json:"start_day_of_week,omitempty" yaml:"start_day_of_week,omitempty"`
	// StartHour is 0 to 23.
	StartHour int `json:"start_hour" yaml:"start_hour"`
	// StartMinute is 0 to 59.
	StartMinute int `json:"start_minute" yaml:"start_minute"`
	// EndDayOfWeek is "Sunday" to "Saturday"; it is given when StartDayOfWeek is, and only then.
	EndDayOfWeek string `json:"end_day_of_week,omitempty" yaml:"end_day_of_week,omitempty"`
	// EndHour is 0 to 23.
	EndHour int `json:"end_hour" yaml:"end_hour"`
	// EndMinute is 0 to 59; this minute still belongs to the window.
	EndMinute int `json:"end_minute" yaml:"end_minute"`
}

// UpdateState is what the update agent last did.
type UpdateState struct {
	// LastCheck is when the node last looked for updates; year 1 before the first time since its
	// start.
	LastCheck time.Time `json:"last_check" yaml:"last_check"`
	// Status says in words how the last check went, for a person; its wording may change.
	Status string `json:"status" yaml:"status"`
	// NeedsReboot is true when a newer release is on disk and runs after a restart.
	NeedsReboot bool `json:"needs_reboot" yaml:"needs_reboot"`
	// State is where the update agent is: "idle", "checking", "planned", "fetching", "staging",
	// "staged" (waits for a restart), "rebooting", "trial" (the release that runs is judged),
	// "good", "returning", "returned" (back from a release that was no good) or "failed".
	State string `json:"state,omitempty" yaml:"state,omitempty"`
	// StateSince is when that began.
	StateSince time.Time `json:"state_since,omitzero" yaml:"state_since,omitempty"`
	// Reason says why the state is "failed" or "returned".
	Reason string `json:"reason,omitempty" yaml:"reason,omitempty"`
	// RunningVersion is the release that runs.
	RunningVersion string `json:"running_version,omitempty" yaml:"running_version,omitempty"`
	// StagedVersion is the release that runs after the next restart.
	StagedVersion string `json:"staged_version,omitempty" yaml:"staged_version,omitempty"`
	// FetchingVersion is the release that is being fetched or written.
	FetchingVersion string `json:"fetching_version,omitempty" yaml:"fetching_version,omitempty"`
	// Checks are those of the health gate, of this boot's trial if it was one.
	Checks []UpdateCheckResult `json:"checks,omitempty" yaml:"checks,omitempty"`
	// Decisions are what the agent did and why, oldest first; the last 20.
	Decisions []UpdateDecision `json:"decisions,omitempty" yaml:"decisions,omitempty"`
	// BadReleases did not work on this node and are not taken again by themselves, oldest
	// first; the last 20.
	BadReleases []UpdateBadRelease `json:"bad_releases,omitempty" yaml:"bad_releases,omitempty"`
	// Slots are the releases that the boot loader can start.
	Slots []UpdateSlot `json:"slots,omitempty" yaml:"slots,omitempty"`
	// History is how long updates took, oldest first; the last 10.
	History []UpdateTiming `json:"history,omitempty" yaml:"history,omitempty"`
}

// UpdateCheckResult is one check of the health gate.
type UpdateCheckResult struct {
	// Name is "api", "applications", "instances", "network", "pools" or "state".
	Name string `json:"name" yaml:"name"`
	// OK is true when it holds.
	OK bool `json:"ok" yaml:"ok"`
	// Error says what is wrong; empty when OK.
	Error string `json:"error,omitempty" yaml:"error,omitempty"`
	// Duration is how long it took to hold, or has not held, in seconds.
	Duration float64 `json:"duration" yaml:"duration"`
}

// UpdateDecision is one thing that the update agent decided.
type UpdateDecision struct {
	// At is when, in UTC.
	At time.Time `json:"at" yaml:"at"`
	// What was done, or left.
	What string `json:"what" yaml:"what"`
	// Why it was so.
	Why string `json:"why,omitempty" yaml:"why,omitempty"`
	// Next is what comes next, and when.
	Next string `json:"next,omitempty" yaml:"next,omitempty"`
	// Times is how often the same was decided in a row, when it was more than once.
	Times int `json:"times,omitempty" yaml:"times,omitempty"`
}

// UpdateBadRelease is a release that did not work on this node.
type UpdateBadRelease struct {
	// Version is the release.
	Version string `json:"version" yaml:"version"`
	// Reason says what was wrong.
	Reason string `json:"reason" yaml:"reason"`
	// At is when that was known, in UTC.
	At time.Time `json:"at" yaml:"at"`
	// Checks are those of the health gate; none when nothing was heard of the release.
	Checks []UpdateCheckResult `json:"checks,omitempty" yaml:"checks,omitempty"`
	// Journal are the last lines of the log of its boot; of the newest three releases.
	Journal []string `json:"journal,omitempty" yaml:"journal,omitempty"`
}

// UpdateSlot is a release that the boot loader can start.
type UpdateSlot struct {
	// Version is the release.
	Version string `json:"version" yaml:"version"`
	// Running is true for the one that runs.
	Running bool `json:"running" yaml:"running"`
	// Trial is true while its starts are counted.
	Trial bool `json:"trial" yaml:"trial"`
	// TriesLeft is how often it may still be started; only while Trial.
	TriesLeft int `json:"tries_left,omitempty" yaml:"tries_left,omitempty"`
	// TriesDone is how often it was started; only while Trial.
	TriesDone int `json:"tries_done,omitempty" yaml:"tries_done,omitempty"`
}

// UpdateTiming is how long one update took.
type UpdateTiming struct {
	// Version is the release.
	Version string `json:"version" yaml:"version"`
	// From is the release that ran before.
	From string `json:"from,omitempty" yaml:"from,omitempty"`
	// Bytes is what was fetched.
	Bytes int64 `json:"bytes" yaml:"bytes"`
	// Fetch is how long downloading took, in seconds.
	Fetch float64 `json:"fetch" yaml:"fetch"`
	// Write is how long writing the slot took, in seconds.
	Write float64 `json:"write" yaml:"write"`
	// Boot is from the restart to the judging, in seconds; 0 when it is not known.
	Boot float64 `json:"boot" yaml:"boot"`
	// Gate is how long the judging took, in seconds.
	Gate float64 `json:"gate" yaml:"gate"`
}

// UpdatePlan is what an update would do: the answer to POST /1.0/system/update/:plan.
type UpdatePlan struct {
	// Needed is false when nothing would be done.
	Needed bool `json:"needed" yaml:"needed"`
	// Why says the reason, also of a refusal.
	Why string `json:"why" yaml:"why"`
	// Channel is the one that is followed.
	Channel string `json:"channel" yaml:"channel"`
	// Version is the channel's newest release.
	Version string `json:"version" yaml:"version"`
	// Severity is "none", "low", "medium", "high" or "critical".
	Severity string `json:"severity,omitempty" yaml:"severity,omitempty"`
	// PublishedAt is when the release was published.
	PublishedAt time.Time `json:"published_at,omitzero" yaml:"published_at,omitempty"`
	// RunningVersion is the release that runs now.
	RunningVersion string `json:"running_version" yaml:"running_version"`
	// StagedVersion is the release that runs after the next restart; empty for none.
	StagedVersion string `json:"staged_version,omitempty" yaml:"staged_version,omitempty"`
	// Bytes is what would be fetched.
	Bytes int64 `json:"bytes" yaml:"bytes"`
	// FullBytes is what the same would be as whole files.
	FullBytes int64 `json:"full_bytes" yaml:"full_bytes"`
	// Parts are the files of the release that concern this node.
	Parts []UpdatePlanPart `json:"parts,omitempty" yaml:"parts,omitempty"`
	// Changes are the packages that change, by component.
	Changes map[string]UpdateChanges `json:"changes,omitempty" yaml:"changes,omitempty"`
	// ChangesFrom is the release that Changes compare with.
	ChangesFrom string `json:"changes_from,omitempty" yaml:"changes_from,omitempty"`
	// CVEs are those that the changes close, sorted.
	CVEs []string `json:"cves,omitempty" yaml:"cves,omitempty"`
	// Reboot is true when the release runs after a restart only.
	Reboot bool `json:"reboot" yaml:"reboot"`
	// Restarts are the applications that restart while the node runs.
	Restarts []string `json:"restarts,omitempty" yaml:"restarts,omitempty"`
	// PCR says what the next boot measures, and whether the disk opens by itself.
	PCR string `json:"pcr,omitempty" yaml:"pcr,omitempty"`
	// Problems would keep the update from being done, as too little space.
	Problems []string `json:"problems,omitempty" yaml:"problems,omitempty"`
	// Last is how long the last update took.
	Last *UpdateTiming `json:"last,omitempty" yaml:"last,omitempty"`
}

// UpdatePlanPart is one file of a release and how it would be got.
type UpdatePlanPart struct {
	// Name is the file's.
	Name string `json:"name" yaml:"name"`
	// Component is the part of the product that it belongs to, as "os" or "incus".
	Component string `json:"component" yaml:"component"`
	// How is "delta", "chunks", "full" or "present".
	How string `json:"how" yaml:"how"`
	// Why says why so.
	Why string `json:"why" yaml:"why"`
	// Bytes is what would be fetched.
	Bytes int64 `json:"bytes" yaml:"bytes"`
	// FullBytes is what the whole file would be.
	FullBytes int64 `json:"full_bytes" yaml:"full_bytes"`
}

// UpdateChanges are the packages of a component that change, as "openssl 3.5.1-1" and, for
// those that are updated, "openssl 3.5.1-1 to 3.5.1-2".
type UpdateChanges struct {
	// Added are new.
	Added []string `json:"added,omitempty" yaml:"added,omitempty"`
	// Updated have another version.
	Updated []string `json:"updated,omitempty" yaml:"updated,omitempty"`
	// Removed are gone.
	Removed []string `json:"removed,omitempty" yaml:"removed,omitempty"`
}

// UpdateCheckPost is the body of POST /1.0/system/update/:check; it may be empty.
type UpdateCheckPost struct {
	// OSOnly leaves the applications alone; default false.
	OSOnly bool `json:"os_only" yaml:"os_only"`
	// Force takes a release also when it did not work on this node before; default false.
	Force bool `json:"force,omitempty" yaml:"force,omitempty"`
}
