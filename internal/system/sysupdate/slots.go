package sysupdate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/holdfast-os/holdfast/internal/system/block"
	"github.com/holdfast-os/holdfast/internal/system/multipath"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

// EmptyLabel is the label by which systemd-sysupdate knows a partition that it may fill.
const EmptyLabel = "_empty"

// maxSignature bounds what is read of a signature partition, in bytes.
const maxSignature = 16 << 10

// Parts are the numbers of the three partitions of a slot, from 1.
type Parts struct{ Signature, Verity, Usr int }

func (p Parts) numbers() [3]int { return [3]int{p.Signature, p.Verity, p.Usr} }

// Slots finds out what the slots of a disk hold.
type Slots struct {
	// Run starts programs; on a machine run.Host. Only Free needs it.
	Run run.Runner
	// Disk is the whole disk, as "/dev/vda", or an image of one.
	Disk string
	// Name is the image id, as "Holdfast": labels are NAME_VERSION, followed by
	// "_verity" and "_verity_sig".
	Name string
	// Parts are the slots.
	Parts []Parts
	// Root is put before /sys and /proc; default nothing.
	Root string
}

// Slot is what one slot holds.
type Slot struct {
	Parts Parts
	// Version is the release that all three labels name; "" when they do not agree.
	Version string
	// Empty is true when all three labels say so.
	Empty bool
	// Problem says why a slot that is not empty cannot be started; "" when it is complete:
	// labels, UUIDs and the beginning of each content fit each other. Contents are not read
	// to their end.
	Problem string
	// RootHash is the one that the signature is for, hexadecimal; "" when there is none.
	RootHash string
	// Active is true for the slot that /usr is mounted from.
	Active bool
	// Labels and UUIDs are those of signature, hash tree and content; UUIDs in lower case.
	Labels, UUIDs [3]string
	// Offset and Size of the content's partition, in bytes.
	Offset, Size int64
}

// Complete reports whether a release can be started from the slot.
func (s Slot) Complete() bool { return !s.Empty && s.Problem == "" }

// Read looks at the table and the beginning of each partition. A disk without a good
// table or without one of the partitions is an error.
func (s Slots) Read() ([]Slot, error) {
	disk, table, err := s.openTable()
	if err != nil {
		return nil, err
	}
	defer func() { _ = disk.Close() }() // it was only read
	active, err := s.active()
	if err != nil {
		return nil, err
	}
	out := make([]Slot, 0, len(s.Parts))
	for _, parts := range s.Parts {
		slot, err := s.readSlot(disk, table, parts)
		if err != nil {
			return nil, fmt.Errorf("reading the slots of %s: %w", s.Disk, err)
		}
		slot.Active = active(slot)
		out = append(out, slot)
	}
	return out, nil
}

func (s Slots) openTable() (*os.File, block.Table, error) {
	disk, err := os.Open(s.Disk)
	if err != nil {
		return nil, block.Table{}, fmt.Errorf("reading the slots: %w", err)
	}
	size, sector, err := block.Size(disk)
	if err != nil {
		return nil, block.Table{}, errors.Join(err, disk.Close())
	}
	table, err := block.ReadTable(disk, size, sector)
	if err == nil && table.State == block.TableNone {
		err = errors.New("it has no partition table")
	}
	if err != nil {
		return nil, block.Table{}, errors.Join(fmt.Errorf("reading the slots of %s: %w", s.Disk, err), disk.Close())
	}
	return disk, table, nil
}

// section is a partition's place on the disk.
func section(disk io.ReaderAt, table block.Table, number int) (*io.SectionReader, block.Entry, error) {
	at := slices.IndexFunc(table.Entries, func(e block.Entry) bool { return e.Number == number })
	if at < 0 {
		return nil, block.Entry{}, fmt.Errorf("there is no partition %d", number)
	}
	e, sector := table.Entries[at], int64(table.SectorSize)
	return io.NewSectionReader(disk, int64(e.First)*sector, int64(e.Last-e.First+1)*sector), e, nil
}

func (s Slots) readSlot(disk io.ReaderAt, table block.Table, parts Parts) (Slot, error) {
	slot := Slot{Parts: parts}
	var content [3]*io.SectionReader
	for i, number := range parts.numbers() {
		place, entry, err := section(disk, table, number)
		if err != nil {
			return Slot{}, err
		}
		content[i], slot.Labels[i], slot.UUIDs[i] = place, entry.Name, entry.GUID
		slot.Offset, slot.Size = int64(entry.First)*int64(table.SectorSize), place.Size()
	}
	if slot.Labels == [3]string{EmptyLabel, EmptyLabel, EmptyLabel} {
		slot.Empty = true
		return slot, nil
	}
	version, ok := strings.CutPrefix(slot.Labels[2], s.Name+"_")
	if !ok || slot.Labels != s.labels(version) {
		slot.Problem = fmt.Sprintf("the labels %s, %s and %s are not of one release", slot.Labels[0], slot.Labels[1], slot.Labels[2])
		return slot, nil
	}
	slot.Version = version
	var err error
	slot.RootHash, slot.Problem, err = readContent(content, slot.UUIDs)
	return slot, err
}

// readContent compares the signature with the UUIDs and looks at the magic of the others.
func readContent(content [3]*io.SectionReader, uuids [3]string) (rootHash, problem string, err error) {
	raw, err := io.ReadAll(io.NewSectionReader(content[0], 0, min(content[0].Size(), maxSignature)))
	if err != nil {
		return "", "", fmt.Errorf("reading a signature: %w", err)
	}
	var signature struct {
		RootHash string `json:"rootHash"`
	}
	if json.Unmarshal(bytes.TrimRight(raw, "\x00"), &signature) != nil {
		return "", "the signature is not readable", nil
	}
	data, verity := UUIDs(signature.RootHash)
	if data == "" || data != uuids[2] || verity != uuids[1] {
		return "", "the signature is for another release than the UUIDs", nil
	}
	magic := make([]byte, 8)
	if _, err := content[1].ReadAt(magic, 0); err != nil {
		return "", "", fmt.Errorf("reading a hash tree: %w", err)
	}
	if string(magic) != "verity\x00\x00" {
		return signature.RootHash, "the hash tree is none", nil
	}
	if _, err := content[2].ReadAt(magic[:4], 1024); err != nil {
		return "", "", fmt.Errorf("reading a file system: %w", err)
	}
	if binary.LittleEndian.Uint32(magic) != 0xe0f5e1e2 { // erofs
		return signature.RootHash, "the content is no file system", nil
	}
	return signature.RootHash, "", nil
}

// UUIDs are those that the partitions of content and hash tree have by the Discoverable
// Partitions Specification: the halves of the root hash. "" for what is no root hash of
// 32 bytes.
func UUIDs(rootHash string) (data, verity string) {
	raw, err := hex.DecodeString(rootHash)
	if err != nil || len(raw) != sha256.Size {
		return "", ""
	}
	form := func(b []byte) string {
		return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
	}
	return form(raw[:16]), form(raw[16:])
}

// active gives the way to know the slot of /usr: by the disk and partition below the
// mapping "usr", and where there is none, by the root hash on the command line.
func (s Slots) active() (func(Slot) bool, error) {
	numbers, err := s.mapped()
	if err != nil || len(numbers) > 0 {
		return func(slot Slot) bool { return slices.Contains(numbers, slot.Parts.Usr) }, err
	}
	line, err := os.ReadFile(filepath.Join(s.Root, "/proc/cmdline"))
	if err != nil {
		return nil, fmt.Errorf("finding the active slot: %w", err)
	}
	data, verity := "", ""
	for word := range strings.FieldsSeq(string(line)) {
		if hash, ok := strings.CutPrefix(word, "usrhash="); ok {
			data, verity = UUIDs(hash)
		}
	}
	return func(slot Slot) bool { return data != "" && slot.UUIDs[2] == data && slot.UUIDs[1] == verity }, nil
}

// mapped are the numbers of the partitions of this disk that the mapping "usr" is on.
func (s Slots) mapped() ([]int, error) {
	names, err := filepath.Glob(filepath.Join(s.Root, "/sys/block/dm-*/dm/name"))
	if err != nil {
		return nil, fmt.Errorf("finding the active slot: %w", err)
	}
	disk, err := filepath.EvalSymlinks(s.Disk)
	if err != nil {
		return nil, fmt.Errorf("finding the active slot: %w", err)
	}
	var numbers []int
	for _, name := range names {
		text, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) || err == nil && strings.TrimSpace(string(text)) != "usr" {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("finding the active slot: %w", err)
		}
		slaves, err := filepath.Glob(filepath.Join(filepath.Dir(filepath.Dir(name)), "slaves/*"))
		if err != nil {
			return nil, fmt.Errorf("finding the active slot: %w", err)
		}
		for _, slave := range slaves {
			number, ok, err := s.partitionOf(slave, filepath.Base(disk))
			if err != nil {
				return nil, fmt.Errorf("finding the active slot: %w", err)
			}
			if ok {
				numbers = append(numbers, number)
			}
		}
	}
	return numbers, nil
}

// partitionOf gives the number of the partition that a link in /sys leads to, if it is
// one of the disk.
func (s Slots) partitionOf(link, disk string) (number int, ok bool, err error) {
	place, err := filepath.EvalSymlinks(link)
	if err != nil {
		return 0, false, err
	}
	maps := multipath.Devices{Sys: filepath.Join(s.Root, "/sys")}
	if parent, number, err := maps.Partition(filepath.Base(place)); err != nil || parent != "" {
		return number, parent == disk, err
	}
	if filepath.Base(filepath.Dir(place)) != disk {
		return 0, false, nil
	}
	text, err := os.ReadFile(filepath.Join(place, "partition"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil // it lies on the whole disk
	}
	if err != nil {
		return 0, false, err
	}
	number, err = strconv.Atoi(strings.TrimSpace(string(text)))
	return number, err == nil, err
}

// ErrLabels is a slot that does not run and that systemd-sysupdate would not find, or would
// take for the running one.
var ErrLabels = errors.New("the labels of the other slot are not those of a release")

// Check says whether an update may begin while the release running is mounted: one slot
// must be active and labelled so, since systemd-sysupdate goes by labels and would take
// any other for free; and the second slot must be labelled empty or as a release, or it
// would not be found. ErrLabels is a second slot that Free mends.
func Check(slots []Slot, running string) error {
	active := slices.DeleteFunc(slices.Clone(slots), func(s Slot) bool { return !s.Active })
	if len(active) != 1 {
		return fmt.Errorf("%d slots are active, want 1: no update is possible until the machine was started again", len(active))
	}
	if active[0].Version != running {
		return fmt.Errorf("the active slot is labelled %s, not %s: repair its labels before any update", strings.Join(active[0].Labels[:], ", "), running)
	}
	name := strings.TrimSuffix(active[0].Labels[2], running)
	for _, slot := range slots {
		if slot.Version == running && !slot.Active {
			return fmt.Errorf("%w: both slots are labelled %s: free the one of partition %d before any update", ErrLabels, running, slot.Parts.Usr)
		}
		for _, label := range slot.Labels {
			if label != EmptyLabel && !strings.HasPrefix(label, name) {
				return fmt.Errorf("%w: a partition is labelled %q: free the slot of partition %d before any update", ErrLabels, label, slot.Parts.Usr)
			}
		}
	}
	if len(slots) < 2 {
		return errors.New("there is no second slot: start the machine from an installed disk")
	}
	return nil
}

// Free labels the partitions of a slot as empty, so that the next update fills it. The
// active slot is refused. Contents stay.
func (s Slots) Free(ctx context.Context, slot Slot) error {
	slots, err := s.Read()
	if err != nil {
		return err
	}
	at := slices.IndexFunc(slots, func(other Slot) bool { return other.Parts == slot.Parts })
	if at < 0 || slots[at].Active {
		return fmt.Errorf("freeing the slot of partition %d: it is the active one, or none", slot.Parts.Usr)
	}
	for i, number := range slot.Parts.numbers() {
		if slots[at].Labels[i] == EmptyLabel {
			continue
		}
		if err := s.sfdisk(ctx, number, "--part-label", EmptyLabel); err != nil {
			return fmt.Errorf("freeing partition %d of %s: %w", number, s.Disk, err)
		}
	}
	return s.flush()
}
