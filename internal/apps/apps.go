// Package apps decides which applications a node has, in which version, and brings them
// there: download, check, merge, start, initialize.
//
// An application is a signed system extension. Its images lie side by side, one folder
// per release, and a link says which one is merged into /usr:
//
//	/var/lib/incus-os-extensions/<version>/<name>.raw   folder 0700, written by obtain
//	/var/lib/extensions/<name>.raw                      link, owned by Extensions
//
// Parties: Store keeps the Records; Provider finds and fetches releases; Extensions
// verifies, links and merges; Units starts services; Program is the running application.
//
// Invariants:
//
//   - An image gets its name only after Extensions.Verify accepted the whole of it. What
//     is refused is removed, and nothing else has changed by then.
//   - The record is written before the link changes (Next), and again after the new
//     version answers (Version). Each step may be repeated. After a power cut in between,
//     the next boot goes on to Next once, because the application may already have
//     upgraded its data; when that boot does not finish either, it goes back.
//   - A version that was merged but did not work is remembered (Failed) and is not tried
//     again by itself, so that a bad release costs one interruption, not one per check.
//   - The version before the active one stays on disk, and so does the one that was active
//     when the release of the OS before this one last ran: see follow.
//
// This file holds the decisions, as pure functions; manager.go carries them out.
package apps

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	api "github.com/holdfast-os/holdfast/api/os"
)

// Causes of errors, for the API to choose a status by.
var (
	// ErrUnknown is a name that no application has.
	ErrUnknown = errors.New("unknown application")
	// ErrNotInstalled is an application that the node does not have.
	ErrNotInstalled = errors.New("application is not installed")
	// ErrInstalled is an application that the node has already.
	ErrInstalled = errors.New("application is already installed")
	// ErrPrimary is a removal of the primary application.
	ErrPrimary = errors.New("cannot remove a primary application")
	// ErrSecondPrimary is a primary application beside another one.
	ErrSecondPrimary = errors.New("a primary application is already installed")
	// ErrNeeded is a removal of what another application depends on.
	ErrNeeded = errors.New("another application depends on it")
	// ErrUnsupported is a known application or setting that this release cannot do yet.
	ErrUnsupported = errors.New("not supported yet")
	// ErrOlder is a provider whose newest release is older than the active one.
	ErrOlder = errors.New("the newest release is older than the active one")
	// ErrFailedBefore is a release that was tried and did not work.
	ErrFailedBefore = errors.New("this release did not work before and is skipped")
)

// Application is what the node knows of an application without having it.
type Application struct {
	// Primary is true for an application whose TLS listener carries the API. A node has one.
	Primary bool
	// Needs are applications of which one must be installed; empty for none.
	Needs []string
	// Weight orders the start: up to 0 before the primary application, above it after.
	Weight int
	// Installable is false for names that come with a later release.
	Installable bool
	// Sockets are started before Service.
	Sockets []string
	// Service is the main unit: restarted on changes, and active when all is well.
	// Empty for an application without one.
	Service string
	// Before and After are units around Service whose failure is logged and no more.
	Before, After []string
}

// Catalogue gives the applications by name. The value is the caller's own.
func Catalogue() map[string]Application {
	anyIncus := []string{"incus", "incus-lts-7.0"}
	return map[string]Application{
		"debug":       {Weight: -1},
		"gpu-support": {Weight: -1},
		"incus": {
			Primary: true, Installable: true,
			Sockets: []string{"incus.socket"},
			Service: "incus.service",
			Before:  []string{"lxcfs.service"},
			After:   []string{"incus-startup.service"},
		},
		"incus-lts-7.0":     {Primary: true},
		"incus-ceph":        {Weight: -1, Needs: anyIncus},
		"incus-linstor":     {Weight: -1, Needs: anyIncus},
		"migration-manager": {Primary: true},
		"openfga":           {Weight: 1},
		"operations-center": {Primary: true},
	}
}

// Record is what the node remembers of an installed application.
type Record struct {
	// Version is the active release.
	Version string `json:"version"`
	// Previous is the release before it, empty when there is none.
	Previous string `json:"previous,omitempty"`
	// Next is the release that a switch has begun to make active.
	Next string `json:"next,omitempty"`
	// NextTried is true once a boot has tried Next.
	NextTried bool `json:"next_tried,omitempty"`
	// Failed is the release that was tried and did not work.
	Failed string `json:"failed,omitempty"`
	// OS is the release of the OS that the node last ran.
	OS string `json:"os,omitempty"`
	// OtherOS is the one before it, and OtherVersion what was active when that last ran.
	OtherOS      string `json:"other_os,omitempty"`
	OtherVersion string `json:"other_version,omitempty"`
	// Initialized is true once the first-boot seed has been applied.
	Initialized bool `json:"initialized"`
	// LastRestored is when a backup was last restored.
	LastRestored *time.Time            `json:"last_restored,omitempty"`
	Config       api.ApplicationConfig `json:"config"`
}

// State is the document of all installed applications, by name.
type State map[string]Record

// mayAdd refuses what cannot be installed beside what is.
func mayAdd(catalogue map[string]Application, state State, name string) error {
	app, known := catalogue[name]
	if !known {
		return fmt.Errorf("%q: %w", name, ErrUnknown)
	}
	if _, installed := state[name]; installed {
		return fmt.Errorf("%s: %w", name, ErrInstalled)
	}
	if !app.Installable {
		return fmt.Errorf("application %s comes with a later release of Holdfast: %w", name, ErrUnsupported)
	}
	if primary := primaryOf(catalogue, state); app.Primary && primary != "" {
		return fmt.Errorf("%s: %w: %s", name, ErrSecondPrimary, primary)
	}
	return nil
}

// mayRemove refuses what others need.
func mayRemove(catalogue map[string]Application, state State, name string) error {
	if err := mustHave(catalogue, state, name); err != nil {
		return err
	}
	if catalogue[name].Primary {
		return fmt.Errorf("%s: %w; a factory reset empties it instead", name, ErrPrimary)
	}
	for _, other := range slices.Sorted(maps.Keys(state)) {
		needs := catalogue[other].Needs
		rest := slices.DeleteFunc(slices.Clone(needs), func(n string) bool {
			_, installed := state[n]
			return n == name || !installed
		})
		if slices.Contains(needs, name) && len(rest) == 0 {
			return fmt.Errorf("%s: %w: %s; remove that first", name, ErrNeeded, other)
		}
	}
	return nil
}

func mustHave(catalogue map[string]Application, state State, name string) error {
	if _, known := catalogue[name]; !known {
		return fmt.Errorf("%q: %w", name, ErrUnknown)
	}
	if _, installed := state[name]; !installed {
		return fmt.Errorf("%s: %w", name, ErrNotInstalled)
	}
	return nil
}

func primaryOf(catalogue map[string]Application, state State) string {
	for _, name := range slices.Sorted(maps.Keys(state)) {
		if catalogue[name].Primary {
			return name
		}
	}
	return ""
}

// wanted gives what a node should have, in the order of installation: what it has, or
// the seed's list when it has nothing; with incus when no primary application is among
// them, and the first of each missing set of alternatives.
func wanted(catalogue map[string]Application, state State, seeded []string) ([]string, error) {
	names := slices.Clone(seeded)
	if len(state) > 0 {
		names = slices.Collect(maps.Keys(state))
	}
	var primaries []string
	for i := 0; i < len(names); i++ {
		app, known := catalogue[names[i]]
		if !known {
			return nil, fmt.Errorf("%q: %w", names[i], ErrUnknown)
		}
		if app.Primary && !slices.Contains(primaries, names[i]) {
			primaries = append(primaries, names[i])
		}
		has := func(n string) bool { return slices.Contains(names, n) }
		if len(app.Needs) > 0 && !slices.ContainsFunc(app.Needs, has) {
			names = append(names, app.Needs[0])
		}
	}
	if len(primaries) > 1 {
		return nil, fmt.Errorf("%w: %s; choose one", ErrSecondPrimary, strings.Join(primaries, ", "))
	}
	if len(primaries) == 0 {
		names = append(names, "incus")
	}
	startOrder(catalogue, names)
	return slices.Compact(names), nil
}

// startOrder sorts names: weights up to 0, the primary application, weights above.
func startOrder(catalogue map[string]Application, names []string) {
	rank := func(name string) int {
		app := catalogue[name]
		switch {
		case app.Primary:
			return 1
		case app.Weight > 0:
			return 2
		}
		return 0
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a, b))
	})
}

// atBoot decides which version a boot merges, and what to remember before it does.
// onDisk is sorted, oldest first. An empty version means that there is no image.
func atBoot(r Record, onDisk []string) (string, Record) {
	has := func(version string) bool { return version != "" && slices.Contains(onDisk, version) }
	if r.Next != "" {
		if has(r.Next) && !r.NextTried {
			r.NextTried = true
			return r.Next, r
		}
		if r.NextTried {
			r.Failed = r.Next
		}
		r.Next, r.NextTried = "", false
	}
	switch {
	case has(r.Version):
	case has(r.Previous):
		r.Version, r.Previous = r.Previous, ""
	case len(onDisk) > 0:
		r.Version = onDisk[len(onDisk)-1]
	default:
		return "", r
	}
	return r.Version, r
}

// check decides whether a release should replace the active one. complete says that the
// active version's image is on disk; retry asks for a failed release once more.
func check(r Record, latest string, complete, retry bool) (bool, error) {
	switch {
	case latest == r.Version:
		return !complete, nil
	case older(latest, r.Version):
		return false, fmt.Errorf("%w: version %s is newer than available update %s, skipping", ErrOlder, r.Version, latest)
	case latest == r.Failed && !retry:
		return false, fmt.Errorf("%w: %s", ErrFailedBefore, latest)
	}
	return true, nil
}

// older compares release versions, which are UTC times of one length; other names have
// no order, and a different one is an update.
func older(a, b string) bool {
	return releaseTime.MatchString(a) && releaseTime.MatchString(b) && a < b
}

// kept are the versions that stay on disk.
func kept(r Record) []string { return []string{r.Version, r.Previous, r.Next, r.OtherVersion} }

var (
	releaseTime = regexp.MustCompile(`^[0-9]{12}$`)
	version     = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z._-]{0,63}$`)
)

// checkVersion refuses a release name that could not be a folder's.
func checkVersion(name string) error {
	if !version.MatchString(name) {
		return fmt.Errorf("release version %.80q is not a plain name of at most 64 characters", name)
	}
	return nil
}
