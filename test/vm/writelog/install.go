package writelog

import (
	"errors"
	"fmt"
	"slices"
)

// Where in an installation a moment lies.
const (
	AmidData    = "amid the data"
	BeforeTable = "before the table"
	AmidTable   = "amid the table"
	BehindTable = "behind the table"
)

// Moment is a moment of a recorded installation to cut the power at.
type Moment struct {
	// After is how many entries of the log have happened.
	After int
	// Where is one of the constants above.
	Where string
	// Rest is what becomes of the writes that nobody had flushed: "lost", "torn" or "kept".
	Rest string
}

// tableRoom is what an installation leaves for partition tables at both ends of a disk, in
// bytes.
const tableRoom = 1 << 20

// Moments picks count moments of an installation, recorded on a disk of size bytes that was
// blank and has sectors of 512 bytes: one when all data are on the disk and nothing of a table
// is, one when the table is, from five on one between its two copies, and the others evenly by
// the bytes that were written before. At least two. The table is there when its protective MBR
// is, which sfdisk writes last: firmware does not look at the copies without it.
func (d *Disk) Moments(size int64, count int) ([]Moment, error) {
	header := []byte("EFI PART")
	primary, first, err := d.First(512, header)
	backup, second, err2 := d.First(size-512, header)
	protective, third, err3 := d.First(510, []byte{0x55, 0xaa})
	if err := errors.Join(err, err2, err3); err != nil {
		return nil, err
	}
	if !first || !second || !third {
		return nil, fmt.Errorf("the recording of %d writes does not have a partition table (first copy: %v, second: %v, protective MBR: %v)", len(d.Entries), first, second, third)
	}
	begun, copied := min(primary, backup, protective), max(primary, backup)
	complete := max(copied, protective)
	// Behind the last of the data come flushes and then the first write of a table, which may be
	// the removal of an old one: the cut lies right before that one.
	writes := func(e Entry) bool { return e.Length > 0 && !e.Discard }
	data := begun
	for data > 0 && !(writes(d.Entries[data-1]) && d.Entries[data-1].Offset >= tableRoom && d.Entries[data-1].Offset < size-tableRoom) {
		data--
	}
	before := data + slices.IndexFunc(d.Entries[data:], writes)
	durable := slices.IndexFunc(d.Entries[complete:], func(e Entry) bool { return e.Flush })
	if data == 0 || durable < 0 {
		return nil, fmt.Errorf("the recording of %d writes has %d up to the last of the data, tables at %d and %d, and a flush behind them: %v",
			len(d.Entries), data, primary, backup, durable >= 0)
	}
	special := []Moment{{before, BeforeTable, "lost"}}
	if count >= 5 {
		special = append(special, Moment{copied, AmidTable, "kept"})
	}
	special = append(special, Moment{complete + durable + 1, BehindTable, "lost"})
	var all []Moment
	for i, after := range Spread(d.Entries, 0, data, count-len(special)) {
		all = append(all, Moment{after, AmidData, []string{"torn", "lost", "kept"}[i%3]})
	}
	return append(all, special...), nil
}
