// Package health decides whether a release that was just booted is good: whether what
// ran before runs again.
//
// Parties: a Baseline, saved by the last boot that was found good, says what ran before;
// an Observer says what is; the functions of judge.go compare the two, and are pure; the
// Gate (gate.go) asks until all is well or the time is over.
//
// Invariants:
//
//   - Only what ran before can be missed. What the owner removed since is no longer in
//     the Baseline, since that is taken anew before each restart into another release.
//   - A check that fails is asked again until its own time is over: an application that
//     starts slowly is no bad release. One that holds is asked again at the end, so that
//     an answer between two crashes does not count.
//   - Nothing asks for the internet: a node whose upstream is away is no bad release.
//   - A question that is never answered ends with its time, whatever it waits for.
package health

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Baseline is what ran before the update.
type Baseline struct {
	// Version is the release that ran then.
	Version string `json:"version,omitempty"`
	// At is when it was looked at, UTC.
	At time.Time `json:"at,omitzero"`
	// Applications are the names of those that ran and were ready, sorted.
	Applications []string `json:"applications,omitempty"`
	// Pools are the names of the imported ZFS pools, sorted.
	Pools []string `json:"pools,omitempty"`
	// Interfaces are those that had an address usable from outside, sorted.
	Interfaces []string `json:"interfaces,omitempty"`
	// Instances are the running ones as "project/name", sorted; looked at only where the
	// settings ask for it.
	Instances []string `json:"instances,omitempty"`
}

// Application is one installed application as it is now.
type Application struct {
	// Name is as "incus".
	Name string
	// Ready is true when its units run and it answers.
	Ready bool
	// Detail says why it is not ready, for a person.
	Detail string
}

// Network is the node's network as it is now.
type Network struct {
	// Missing are the configured static addresses that their interface does not have, each
	// as "address on interface".
	Missing []string
	// Interfaces are those with an address usable from outside.
	Interfaces []string
}

// missing are the members of before that now does not have.
func missing(before, now []string) []string {
	var gone []string
	for _, name := range before {
		if !slices.Contains(now, name) {
			gone = append(gone, name)
		}
	}
	return gone
}

func judgeApplications(before Baseline, now []Application) error {
	var wrong []error
	for _, name := range before.Applications {
		at := slices.IndexFunc(now, func(a Application) bool { return a.Name == name })
		switch {
		case at < 0:
			wrong = append(wrong, fmt.Errorf("application %s ran before and is not there", name))
		case !now[at].Ready:
			wrong = append(wrong, fmt.Errorf("application %s is not ready: %s", name, orElse(now[at].Detail, "no reason given")))
		}
	}
	return errors.Join(wrong...)
}

func judgePools(before Baseline, now []string) error {
	if gone := missing(before.Pools, now); len(gone) > 0 {
		return fmt.Errorf("pool %s was imported before and is not", strings.Join(gone, ", "))
	}
	return nil
}

func judgeNetwork(before Baseline, now Network) error {
	var wrong []error
	if len(now.Missing) > 0 {
		wrong = append(wrong, fmt.Errorf("configured address missing: %s", strings.Join(now.Missing, ", ")))
	}
	if gone := missing(before.Interfaces, now.Interfaces); len(gone) > 0 {
		wrong = append(wrong, fmt.Errorf("interface %s had an address before and has none", strings.Join(gone, ", ")))
	}
	return errors.Join(wrong...)
}

func judgeInstances(before Baseline, now []string) error {
	if gone := missing(before.Instances, now); len(gone) > 0 {
		return fmt.Errorf("instance %s ran before and does not", strings.Join(gone, ", "))
	}
	return nil
}

func orElse(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}
