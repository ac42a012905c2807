package earlyboot

import (
	"slices"

	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/system/bootloader"
)

// Outcome is what a failed start leads to.
type Outcome int

// The outcomes.
const (
	// StartAgain restarts: there are tries left, or the loader takes the other release.
	StartAgain Outcome = iota
	// GiveUp takes all tries from the release that ran, and restarts: the loader takes the
	// other one.
	GiveUp
	// Recover stays: no restart leads anywhere else.
	Recover
)

// failuresInARow is after how many failed starts a release that has proved itself is given up:
// as many as the boot loader gives to a new one.
const failuresInARow = 3

// AfterFailure decides what a failed start leads to. entries are the kernel images on the ESP,
// failures how often the one that runs has failed in a row, this start included.
//
// The loader counts down the tries of a release on trial; one that has proved itself has no
// counter, and would be started for ever: it is counted here. An image that cannot be told to
// be the one that runs leads to a restart, as anything else that is not known does.
func AfterFailure(entries []bootloader.Entry, failures int) Outcome {
	at := slices.IndexFunc(entries, func(e bootloader.Entry) bool { return e.Booted })
	if at < 0 {
		return StartAgain
	}
	running := entries[at]
	other := slices.ContainsFunc(entries, func(e bootloader.Entry) bool { return !e.Booted && !e.Bad() })
	switch {
	case running.TriesLeft > 0:
		return StartAgain
	case !other:
		return Recover
	case running.TriesLeft == 0 || failures < failuresInARow:
		return StartAgain
	}
	return GiveUp
}

// canRecover tells whether a disk is that of a node: an install medium, or a CD, has no second
// slot, and a person is there who can take it out.
func canRecover(disk Disk) bool {
	for number := layout.ESP; number <= layout.UsrB; number++ {
		if number != layout.Seed && disk.Partitions[number] == "" {
			return false
		}
	}
	return !disk.ReadOnly
}
