package media

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// small is a table in an image that a test can change by hand.
func small(t testing.TB, sector int64) (Table, []byte) {
	t.Helper()
	const size = 256 << 10
	table := Table{Sector: sector, DiskGUID: diskGUID, Length: size, Partitions: []Partition{
		{Number: 1, Label: "esp", Type: "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", GUID: "cccccccc-0000-4000-8000-000000000001", Start: 64 << 10, Size: 32 << 10},
		{Number: 3, Label: "Größe", Type: "0fc63daf-8483-4772-8e79-3d69d8477de4", GUID: "cccccccc-0000-4000-8000-000000000003", Start: 96 << 10, Size: 64 << 10, Attributes: 1 << 60},
	}}
	image := make([]byte, size)
	head, tail, err := table.render(size)
	if err != nil {
		t.Fatal(err)
	}
	copy(image, head)
	copy(image[size-len(tail):], tail)
	return table, image
}

// What is written for a disk, a CD and a disk with large sectors is read as the same.
func TestReadTable_EverySector_GivesWhatWasWritten(t *testing.T) {
	for _, sector := range []int64{512, 2048, 4096} {
		want, image := small(t, sector)
		got, err := ReadTable(bytes.NewReader(image), int64(len(image)))
		if err != nil {
			t.Fatalf("%d: %v", sector, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%d: %s", sector, diff)
		}
	}
}

// A wrong table must not lead a write to the wrong place.
func TestReadTable_Wrong_IsNoImage(t *testing.T) {
	// reseal makes the sums right again after a change of the entries or the header.
	reseal := func(image []byte) {
		h := image[512:][:gptHeader]
		binary.LittleEndian.PutUint32(h[88:], crc32.ChecksumIEEE(image[1024:][:128*128]))
		clear(h[16:20])
		binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h))
	}
	for name, c := range map[string]struct {
		change func(image []byte) []byte
		want   string
	}{
		"nothing":    {func([]byte) []byte { return nil }, "this is no image of Holdfast: it has no partition table (GPT)"},
		"zeros":      {func(i []byte) []byte { clear(i); return i }, "this is no image of Holdfast: it has no partition table (GPT)"},
		"header":     {func(i []byte) []byte { i[512+60]++; return i }, "reading the partition table: this is no image of Holdfast: its header is damaged"},
		"entries":    {func(i []byte) []byte { i[1024+60]++; return i }, "reading the partition table: this is no image of Holdfast: its entries are damaged"},
		"cut off":    {func(i []byte) []byte { return i[:128<<10] }, "reading the partition table: this is no image of Holdfast: partition 3 lies outside (the file may be cut off)"},
		"two tables": {func(i []byte) []byte { _, cd := small(t, 4096); copy(i[4096:8192], cd[4096:]); return i }, "this is no image of Holdfast: it has partition tables for sectors of 512 and of 4096 bytes"},
		"overlap": {func(i []byte) []byte {
			binary.LittleEndian.PutUint64(i[1024+2*128+32:], 130) // partition 3 begins inside partition 1
			reseal(i)
			return i
		}, "reading the partition table: this is no image of Holdfast: partitions 1 and 3 overlap"},
		"too many": {func(i []byte) []byte {
			binary.LittleEndian.PutUint32(i[512+80:], 1<<30)
			reseal(i)
			return i
		}, "reading the partition table: this is no image of Holdfast: it has 1073741824 entries of 128 bytes, at most 1024 of 128 are read"},
		"huge partition": {func(i []byte) []byte {
			binary.LittleEndian.PutUint64(i[1024+40:], 1<<63)
			reseal(i)
			return i
		}, "reading the partition table: this is no image of Holdfast: partition 1 lies outside (the file may be cut off)"},
	} {
		_, image := small(t, 512)
		image = c.change(image)
		_, err := ReadTable(bytes.NewReader(image), int64(len(image)))
		if !errors.Is(err, ErrNotImage) {
			t.Fatalf("%s: got %v", name, err)
		}
		sameText(t, err.Error(), c.want)
	}
}

// A tool that was written for another disk must not find its place in ours by accident.
func TestSeedPlace_OnlyOursAtItsPlace_IsTaken(t *testing.T) {
	got, err := SeedPlace(imageTable(t))
	if want := (Region{2148532224, 104857600}); err != nil || got != want {
		t.Errorf("got %v, %v", got, err)
	}
	for name, change := range map[string]func(p *Partition){
		"label": func(p *Partition) { p.Label = "data" },
		"type":  func(p *Partition) { p.Type = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b" },
		"place": func(p *Partition) { p.Start += 512 },
		"none":  func(p *Partition) { p.Number = 9 },
	} {
		table := imageTable(t)
		change(&table.Partitions[1])
		if _, err := SeedPlace(table); !errors.Is(err, ErrNotImage) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestKindOf_Image_SaysReleaseAndArchitecture(t *testing.T) {
	table := imageTable(t)
	got, err := table.KindOf()
	if want := (Kind{"x86_64", "202611220104"}); err != nil || got != want {
		t.Errorf("got %v, %v", got, err)
	}
	table.Partitions[4].Label = "root"
	if _, err := table.KindOf(); !errors.Is(err, ErrNotImage) {
		t.Errorf("got %v", err)
	}
}

// Images come from anywhere.
func FuzzReadTable(f *testing.F) {
	for _, sector := range []int64{512, 2048, 4096} {
		_, image := small(f, sector)
		f.Add(image[:40<<10])
	}
	f.Fuzz(func(t *testing.T, image []byte) {
		table, err := ReadTable(bytes.NewReader(image), int64(len(image)))
		if err != nil {
			return
		}
		for _, p := range table.Partitions {
			if p.Start < 0 || p.Size <= 0 || p.Start+p.Size > int64(len(image)) {
				t.Fatalf("partition %d is outside", p.Number)
			}
		}
	})
}
