package update

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-os/holdfast/api/release"
)

// The ways in which a part can be got.
const (
	ByDelta   = "delta"
	ByChunks  = "chunks"
	ByFull    = "full"
	ByPresent = "present"
)

// PartPlan is how one part of a release would be got.
type PartPlan struct {
	// Name is that of the manifest's part.
	Name string
	// Component and Type are the part's.
	Component release.Component
	Type      release.Type
	// Bytes is what would be fetched, FullBytes what the whole file would cost.
	Bytes, FullBytes int64
	// How is one of the ways above.
	How string
	// Why says why not a smaller way, or on what base; for a person.
	Why string
}

// Plan is what an update would do.
type Plan struct {
	// Version, Severity and PublishedAt are the newest release's.
	Version     string
	Severity    release.Severity
	PublishedAt time.Time
	Channel     string
	// Running is the release that runs, Staged the one that waits for a restart.
	Running, Staged string
	// Needed is false when nothing would be done; Why says the reason, and also why a
	// release is refused.
	Needed bool
	Why    string
	// Parts are those of the OS, and those of applications that the node has.
	Parts []PartPlan
	// Bytes is what would be fetched of all parts, FullBytes what that would be as whole files.
	Bytes, FullBytes int64
	// Changes are the packages by component, and CVEs all CVE numbers, sorted. They
	// compare with ChangesFrom, which need not be the running release.
	Changes     map[release.Component]release.ComponentChanges
	ChangesFrom string
	CVEs        []string
	// Reboot is true when the release runs after a restart only.
	Reboot bool
	// Restarts are the applications whose services restart while the node runs, sorted.
	Restarts []string
	// PCR says what the next boot measures, and whether the disk opens by itself.
	PCR string
	// Problems are what would keep the update from being done, as too little space.
	Problems []string
	// Last is how long the last update took; nil when there was none.
	Last *Timing
}

// PlanInput is all that a plan is made of.
type PlanInput struct {
	Found     Found
	Channel   string
	Running   string
	Staged    string
	Take      bool
	Why       string
	Parts     []PartPlan
	Changelog *release.Changelog
	// Prediction is nil when the TPM could not be asked; PredictionError says why.
	Prediction      *Prediction
	PredictionError string
	Problems        []string
	Timings         []Timing
}

// BuildPlan makes a plan. It is a pure function.
func BuildPlan(in PlanInput) Plan {
	m := in.Found.Manifest
	p := Plan{
		Version: m.Version, Severity: m.Severity, PublishedAt: m.PublishedAt, Channel: in.Channel,
		Running: in.Running, Staged: in.Staged, Needed: in.Take, Why: in.Why, Problems: in.Problems,
	}
	if n := len(in.Timings); n > 0 {
		p.Last = copyOf(&in.Timings[n-1])
	}
	if !in.Take {
		return p
	}
	p.Parts = in.Parts
	restarts := map[string]bool{}
	for _, part := range in.Parts {
		p.Bytes += part.Bytes
		p.FullBytes += part.FullBytes
		if part.Type == release.TypeApplication {
			restarts[string(part.Component)] = part.How != ByPresent
		} else {
			p.Reboot = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(restarts)) {
		if restarts[name] {
			p.Restarts = append(p.Restarts, name)
		}
	}
	if c := in.Changelog; c != nil {
		p.Changes, p.ChangesFrom = c.Components, c.PriorVersion
		p.CVEs = cves(*c)
	}
	switch {
	case in.Prediction == nil && in.PredictionError != "":
		p.PCR = "not known yet: " + in.PredictionError
	case in.Prediction == nil:
	case in.Prediction.Unlocks:
		p.PCR = in.Prediction.Note
	default:
		p.PCR = in.Prediction.Note + "; the disk is bound to it before the restart"
	}
	return p
}

func cves(c release.Changelog) []string {
	var all []string
	for _, changes := range c.Components {
		all = append(all, changes.CVEs...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Space is how much room there is, and how much a release needs; all in bytes.
type Space struct {
	// ESPFree is free on the ESP; ESPFreed is what removing the other slot's entry gives
	// back; ESPNeed is the size of the new entry.
	ESPFree, ESPFreed, ESPNeed int64
	// StageFree is free where parts are kept between fetching and writing; StageNeed is
	// what they take there, less what is there already.
	StageFree, StageNeed int64
	// Slots are the partitions of the other slot.
	Slots []SlotSpace
}

// SlotSpace is one partition and the part that goes into it.
type SlotSpace struct {
	// Part is the name of the part.
	Part string
	// Size is the partition's, Need the part's, in bytes.
	Size, Need int64
}

const (
	// espReserve stays free on the ESP: for the rename of an entry and the loader's seed.
	espReserve = 8 << 20
	// stageReserve stays free on the root file system, so that the state can be saved.
	stageReserve = 1 << 30
)

// problems says what is short of space, each for a person to mend.
func (s Space) problems() []string {
	var short []string
	if lack := s.ESPNeed + espReserve - s.ESPFree - s.ESPFreed; lack > 0 {
		short = append(short, fmt.Sprintf("the ESP lacks %s: remove what does not belong there", mib(lack)))
	}
	if lack := s.StageNeed + stageReserve - s.StageFree; lack > 0 {
		short = append(short, fmt.Sprintf("the root file system lacks %s: remove what is not needed", mib(lack)))
	}
	for _, slot := range s.Slots {
		if slot.Need > slot.Size {
			short = append(short, fmt.Sprintf("%s needs %s, its partition has %s: this release needs a new installation",
				slot.Part, mib(slot.Need), mib(slot.Size)))
		}
	}
	return short
}

func mib(bytes int64) string { return fmt.Sprintf("%d MiB", (bytes+1<<20-1)>>20) }
