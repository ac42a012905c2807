// Package writelog gives a disk as a power cut would have left it.
//
// QEMU records every write, discard and flush of a guest (driver blklogwrites) in the format
// of the kernel's dm-log-writes: a first sector that names the format, then entries of one
// sector each with the data behind it. A disk with a volatile cache has, after a cut, all that
// was written before the last flush, and of what was written since then any part: nothing, all
// of it, or some of it in any order.
//
// Disk replays a log on a file that holds what the disk had when the recording began. It only
// goes forward: what a flush made durable is never taken back. What is kept of the rest is
// taken back before the next cut.
package writelog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// magic and version of the format, in Linux' drivers/md/dm-log-writes.c.
const (
	magic   = 0x6a736677736872
	version = 1
)

// Flags of an entry.
const (
	flagFlush   = 1 << 0
	flagFUA     = 1 << 1
	flagDiscard = 1 << 2
)

// maxWrite bounds one write in bytes; QEMU splits larger ones.
const maxWrite = 1 << 30

// Entry is one event of a log.
type Entry struct {
	// Offset and Length are where on the disk, in bytes; a flush has no length.
	Offset, Length int64
	// Flush says that all before is on the disk for good, Discard that the place is free.
	Flush, Discard bool
	// Through says that this one write is on the disk for good.
	Through bool
	// data is where in the log the bytes are.
	data int64
}

// End is where in the log this entry ends, in bytes.
func (e Entry) End() int64 {
	if e.Discard {
		return e.data
	}
	return e.data + e.Length
}

// Read reads the entries of a log, up to the first one that is not there as a whole: the
// machine may still run, or have been killed.
func Read(path string) (_ []Entry, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading a log of writes: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading a log of writes: %w", err)
	}
	var head [28]byte
	if _, err := file.ReadAt(head[:], 0); err != nil {
		return nil, fmt.Errorf("reading a log of writes: %w", err)
	}
	sector := int64(binary.LittleEndian.Uint32(head[24:]))
	if binary.LittleEndian.Uint64(head[:]) != magic || binary.LittleEndian.Uint64(head[8:]) != version || sector < 512 || sector > 1<<16 {
		return nil, fmt.Errorf("reading a log of writes: %s is none", path)
	}
	var entries []Entry
	for at := sector; at+sector <= info.Size(); {
		var raw [32]byte
		if _, err := file.ReadAt(raw[:], at); err != nil {
			return nil, fmt.Errorf("reading a log of writes at %d: %w", at, err)
		}
		flags := binary.LittleEndian.Uint64(raw[16:])
		e := Entry{
			Offset: int64(binary.LittleEndian.Uint64(raw[:])) * sector, Length: int64(binary.LittleEndian.Uint64(raw[8:])) * sector,
			Flush: flags&flagFlush != 0, Discard: flags&flagDiscard != 0, Through: flags&flagFUA != 0, data: at + sector,
		}
		if e.Length < 0 || e.Offset < 0 || !e.Discard && e.Length > maxWrite {
			return nil, fmt.Errorf("reading a log of writes: the entry at %d has %d bytes", at, e.Length)
		}
		if e.End() > info.Size() {
			break
		}
		at = e.End()
		entries = append(entries, e)
	}
	return entries, nil
}

// Disk is a disk file that follows a log.
type Disk struct {
	// Entries are those of the log, in order.
	Entries []Entry

	disk, log *os.File
	// durable is how many entries are on the disk for good.
	durable int
	// kept are the bytes that were there before those of a cut.
	kept []old
}

type old struct {
	offset int64
	data   []byte
}

// Open opens the file of a disk, which has what it had when the log began.
func Open(disk, log string) (*Disk, error) {
	entries, err := Read(log)
	if err != nil {
		return nil, err
	}
	d := &Disk{Entries: entries}
	if d.log, err = os.Open(log); err != nil {
		return nil, fmt.Errorf("opening a log of writes: %w", err)
	}
	if d.disk, err = os.OpenFile(disk, os.O_RDWR, 0); err != nil {
		return nil, fmt.Errorf("opening the disk of a log: %w", errors.Join(err, d.log.Close()))
	}
	return d, nil
}

// Close closes the files; the disk's stays as it is.
func (d *Disk) Close() error { return errors.Join(d.disk.Close(), d.log.Close()) }

// Cut makes the disk what it was after the first n entries and a power cut: all that was
// flushed, and of the later writes those that keep says, by their number. A nil keep keeps
// none. n may not be smaller than before.
func (d *Disk) Cut(n int, keep func(entry int) bool) error {
	if n > len(d.Entries) {
		return fmt.Errorf("cutting the power after %d writes: the log has %d", n, len(d.Entries))
	}
	for i := len(d.kept) - 1; i >= 0; i-- {
		if _, err := d.disk.WriteAt(d.kept[i].data, d.kept[i].offset); err != nil {
			return fmt.Errorf("taking back what was not flushed: %w", err)
		}
	}
	d.kept = nil
	flushed := n
	for flushed > 0 && !d.Entries[flushed-1].Flush {
		flushed--
	}
	if flushed < d.durable && n < d.durable {
		return fmt.Errorf("cutting the power after %d writes: %d are on the disk for good", n, d.durable)
	}
	for ; d.durable < flushed; d.durable++ {
		if err := d.apply(d.Entries[d.durable], false); err != nil {
			return err
		}
	}
	for i := flushed; i < n; i++ {
		if e := d.Entries[i]; e.Through || keep != nil && keep(i) {
			if err := d.apply(e, true); err != nil {
				return err
			}
		}
	}
	return nil
}

// Rest adds to another file, which is a copy of this disk after Cut(n, nil), those of the
// writes that nobody had flushed that keep says: what Cut would do with them, without a way
// back and without remembering what was there, which may be gigabytes.
func (d *Disk) Rest(copied string, n int, keep func(entry int) bool) (err error) {
	file, err := os.OpenFile(copied, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("opening the copy of a disk: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	for i := d.durable; i < n; i++ {
		// A write that went through is on the copy, and may lie above one that is added now.
		if e := d.Entries[i]; (e.Through || keep != nil && keep(i)) && e.Length > 0 && !e.Discard {
			if err := d.write(file, e); err != nil {
				return err
			}
		}
	}
	return nil
}

// First is the first entry that writes these bytes at an offset of the disk, and false when
// none does.
func (d *Disk) First(offset int64, content []byte) (int, bool, error) {
	length := int64(len(content))
	for i, e := range d.Entries {
		if e.Discard || offset < e.Offset || offset+length > e.Offset+e.Length {
			continue
		}
		found := make([]byte, length)
		if _, err := d.log.ReadAt(found, e.data+offset-e.Offset); err != nil {
			return 0, false, fmt.Errorf("reading a log of writes at %d: %w", e.data, err)
		}
		if bytes.Equal(found, content) {
			return i, true, nil
		}
	}
	return 0, false, nil
}

// spreadAs bounds what one write counts when places are spread by bytes, since a range of
// zeros is one write of any length.
const spreadAs = 1 << 20

// Spread gives count places behind writes from entry first up to entry end, which is not one
// of them, evenly by the bytes that were written there; fewer when there are not as many.
func Spread(entries []Entry, first, end, count int) []int {
	counts := func(e Entry) int64 {
		if e.Discard {
			return 0
		}
		return min(e.Length, spreadAs)
	}
	var total int64
	for _, e := range entries[first:end] {
		total += counts(e)
	}
	var places []int
	var done int64
	for i := first; i < end && len(places) < count; i++ {
		done += counts(entries[i])
		// The middle of each share, so that neither the first nor the last write is picked.
		if counts(entries[i]) > 0 && done*int64(2*count) >= total*int64(2*len(places)+1) {
			places = append(places, i+1)
		}
	}
	return places
}

func (d *Disk) apply(e Entry, takeBack bool) error {
	if e.Length == 0 {
		return nil
	}
	if takeBack && !e.Discard {
		before := make([]byte, e.Length)
		if _, err := d.disk.ReadAt(before, e.Offset); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("reading the disk at %d: %w", e.Offset, err)
		}
		d.kept = append(d.kept, old{e.Offset, before})
	}
	if e.Discard { // what is read there is not promised: what was there may stay
		return nil
	}
	return d.write(d.disk, e)
}

// write writes the bytes of an entry. Zeros become holes: an installation begins with
// gigabytes of them.
func (d *Disk) write(to *os.File, e Entry) error {
	buffer, zeros := make([]byte, min(e.Length, 1<<20)), make([]byte, 1<<20)
	for done := int64(0); done < e.Length; {
		piece := buffer[:min(e.Length-done, int64(len(buffer)))]
		if _, err := d.log.ReadAt(piece, e.data+done); err != nil {
			return fmt.Errorf("reading a log of writes at %d: %w", e.data+done, err)
		}
		err := error(unix.EOPNOTSUPP)
		if bytes.Equal(piece, zeros[:len(piece)]) {
			err = unix.Fallocate(int(to.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, e.Offset+done, int64(len(piece)))
		}
		if err != nil {
			_, err = to.WriteAt(piece, e.Offset+done)
		}
		if err != nil {
			return fmt.Errorf("writing the disk at %d: %w", e.Offset+done, err)
		}
		done += int64(len(piece))
	}
	return nil
}
