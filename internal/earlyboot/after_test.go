package earlyboot

import (
	"testing"

	"github.com/holdfast-os/holdfast/internal/system/bootloader"
)

// A node restarts as long as that can lead anywhere else, and stays to be helped when not.
func TestAfterFailure_EveryPairOfReleases_StaysOnlyWhenNothingIsLeft(t *testing.T) {
	const good = -1
	entry := func(version string, left int, booted bool) bootloader.Entry {
		return bootloader.Entry{Version: version, TriesLeft: left, Booted: booted}
	}
	const runs, other = true, false
	for _, c := range []struct {
		name     string
		entries  []bootloader.Entry
		failures int
		want     Outcome
	}{
		{"good, and alone", []bootloader.Entry{entry("2", good, runs)}, 1, Recover},
		{"good, the other has no tries", []bootloader.Entry{entry("1", good, runs), entry("2", 0, other)}, 1, Recover},
		{"good, the other has tries", []bootloader.Entry{entry("1", good, runs), entry("2", 2, other)}, 1, StartAgain},
		{"both good, once", []bootloader.Entry{entry("2", good, runs), entry("1", good, other)}, 1, StartAgain},
		{"both good, twice", []bootloader.Entry{entry("2", good, runs), entry("1", good, other)}, 2, StartAgain},
		{"both good, three times", []bootloader.Entry{entry("2", good, runs), entry("1", good, other)}, 3, GiveUp},
		{"on trial", []bootloader.Entry{entry("2", 2, runs), entry("1", good, other)}, 1, StartAgain},
		{"on trial, and the other is bad", []bootloader.Entry{entry("2", 1, runs), entry("1", 0, other)}, 2, StartAgain},
		{"on trial, and alone", []bootloader.Entry{entry("2", 1, runs)}, 2, StartAgain},
		{"last try, the other is good", []bootloader.Entry{entry("2", 0, runs), entry("1", good, other)}, 3, StartAgain},
		{"last try, the other is bad", []bootloader.Entry{entry("2", 0, runs), entry("1", 0, other)}, 3, Recover},
		{"last try, and alone", []bootloader.Entry{entry("2", 0, runs)}, 3, Recover},
		{"nobody knows what runs", []bootloader.Entry{entry("2", 0, other), entry("1", 0, other)}, 9, StartAgain},
		{"an empty ESP", nil, 9, StartAgain},
	} {
		if got := AfterFailure(c.entries, c.failures); got != c.want {
			t.Errorf("%s: got %d, want %d", c.name, got, c.want)
		}
	}
}

// What waits for a rescue medium writes to the disk it was started from: that has to be a
// node's.
func TestCanRecover_OnlyTheDiskOfANode(t *testing.T) {
	disk := func(readOnly bool, numbers ...int) Disk {
		d := Disk{Partitions: map[int]string{}, ReadOnly: readOnly}
		for _, number := range numbers {
			d.Partitions[number] = "there"
		}
		return d
	}
	for name, c := range map[string]struct {
		disk Disk
		want bool
	}{
		"a node":                  {disk(false, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11), true},
		"a node without its seed": {disk(false, 1, 3, 4, 5, 6, 7, 8), true},
		"an install medium":       {disk(false, 1, 2, 3, 4, 5), false},
		"a CD":                    {disk(true, 1, 2, 3, 4, 5, 6, 7, 8), false},
	} {
		if got := canRecover(c.disk); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
