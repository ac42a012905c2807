package sysupdate

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/holdfast-os/holdfast/internal/system/block"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

// Where systemd-sysupdate cannot run, as in the initrd, a slot is filled by Free, Fill and
// Label in this order. They leave the same labels, UUIDs and marks, so that the next update
// finds what it expects.

// ErrTooLarge is a file that its partition does not hold.
var ErrTooLarge = errors.New("the partition is too small for the file")

// readOnlyBit is the mark of the Discoverable Partitions Specification that "ReadOnly=1" of a
// transfer sets.
const readOnlyBit = 60

// fillTail is how much behind the file is made zero, in bytes: what is left of a longer
// signature would be read as a part of it.
const fillTail = 64 << 10

// Fill writes a file into a partition, flushes it, and compares what the disk gives back. The
// label stays. An error of content ends it, and so does the end of ctx; a file that does not
// fit is ErrTooLarge. What was in the partition is lost in any case.
func (s Slots) Fill(ctx context.Context, number int, content io.Reader) (err error) {
	fail := func(err error) error { return fmt.Errorf("filling partition %d of %s: %w", number, s.Disk, err) }
	at, err := s.place(number)
	if err != nil {
		return fail(err)
	}
	disk, err := os.OpenFile(s.Disk, os.O_RDWR, 0)
	if err != nil {
		return fail(err)
	}
	defer func() { err = errors.Join(err, disk.Close()) }()
	want := sha256.New()
	length, err := fill(ctx, io.NewOffsetWriter(disk, at.offset), at.size, io.TeeReader(content, want))
	if err == nil {
		err = block.Sync(disk)
	}
	if err != nil {
		return fail(err)
	}
	got := sha256.New()
	if _, err := io.Copy(got, io.NewSectionReader(disk, at.offset, length)); err != nil {
		return fail(fmt.Errorf("reading it back: %w", err))
	}
	if !slices.Equal(got.Sum(nil), want.Sum(nil)) {
		return fail(errors.New("the disk does not keep what was written to it: it is damaged"))
	}
	return nil
}

type span struct{ offset, size int64 }

func (s Slots) place(number int) (span, error) {
	disk, table, err := s.openTable()
	if err != nil {
		return span{}, err
	}
	defer func() { _ = disk.Close() }() // it was only read
	part, entry, err := section(disk, table, number)
	if err != nil {
		return span{}, err
	}
	return span{int64(entry.First) * int64(table.SectorSize), part.Size()}, nil
}

// fill copies content and the zeros behind it; it gives the length of content.
func fill(ctx context.Context, to io.Writer, room int64, content io.Reader) (length int64, err error) {
	buffer := make([]byte, 1<<20)
	for {
		if err := ctx.Err(); err != nil {
			return length, err
		}
		n, err := readFull(content, buffer)
		last := errors.Is(err, io.EOF)
		if err != nil && !last {
			return length, err
		}
		if length+int64(n) > room {
			return length, fmt.Errorf("%w, which has more than its %d bytes", ErrTooLarge, room)
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return length, err
		}
		if length += int64(n); last {
			_, err := to.Write(make([]byte, min(room-length, fillTail)))
			return length, err
		}
	}
}

// readFull fills the buffer as far as content goes. Unlike io.ReadFull it tells an end from a
// stream that says itself that it broke off (io.ErrUnexpectedEOF).
func readFull(content io.Reader, buffer []byte) (n int, err error) {
	for n < len(buffer) && err == nil {
		var more int
		more, err = content.Read(buffer[n:])
		n += more
	}
	return n, err
}

// Label gives the partitions of a slot the labels and UUIDs of a release, the signature first
// and the content last, and flushes the table. A slot that is half labelled is told by Read.
func (s Slots) Label(ctx context.Context, parts Parts, version string, uuids [3]string) error {
	disk, table, err := s.openTable()
	if err != nil {
		return err
	}
	if err := disk.Close(); err != nil {
		return fmt.Errorf("closing %s: %w", s.Disk, err)
	}
	for i, number := range parts.numbers() {
		_, entry, err := section(disk, table, number)
		if err != nil {
			return fmt.Errorf("labelling the slot of partition %d of %s: %w", parts.Usr, s.Disk, err)
		}
		for _, change := range [][2]string{{"--part-uuid", uuids[i]}, {"--part-attrs", marks(entry.Attributes)}, {"--part-label", s.labels(version)[i]}} {
			if err := s.sfdisk(ctx, number, change[0], change[1]); err != nil {
				return fmt.Errorf("labelling partition %d of %s: %w", number, s.Disk, err)
			}
		}
	}
	return s.flush()
}

// labels are those of a release's signature, hash tree and content.
func (s Slots) labels(version string) [3]string {
	name := s.Name + "_" + version
	return [3]string{name + "_verity_sig", name + "_verity", name}
}

// marks are the attributes of a partition as sfdisk takes them, with the one for read-only.
func marks(attributes uint64) string {
	names := []string{"RequiredPartition", "NoBlockIOProtocol", "LegacyBIOSBootable"}
	var set []string
	for bit := range 64 {
		switch {
		case attributes&(1<<bit) == 0 && bit != readOnlyBit:
		case bit < len(names):
			set = append(set, names[bit])
		case bit >= 48:
			set = append(set, "GUID:"+strconv.Itoa(bit))
		}
	}
	return strings.Join(set, ",")
}

// sfdisk changes one partition in the table, and does not tell the kernel.
func (s Slots) sfdisk(ctx context.Context, number int, what, value string) error {
	_, err := s.Run(ctx, run.Command{Name: "sfdisk", Args: []string{
		"--quiet", "--no-reread", "--no-tell-kernel", "--force", what, s.Disk, strconv.Itoa(number), value}})
	return err
}

func (s Slots) flush() error {
	disk, err := os.OpenFile(s.Disk, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("flushing the partition table of %s: %w", s.Disk, err)
	}
	return errors.Join(block.Sync(disk), disk.Close())
}
