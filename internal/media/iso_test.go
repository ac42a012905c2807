package media

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/seed"

	api "github.com/holdfast-os/holdfast/api/seed"
)

// on gives what a Plan makes of an image, without copying gigabytes of zeros.
func (p Plan) on(t *testing.T, m *memory) *memory {
	t.Helper()
	result := m.copyOf()
	if p.Size != 0 {
		result.size = p.Size
		for at := range result.pages {
			if at*page >= p.Size {
				delete(result.pages, at)
			}
		}
	}
	for _, r := range p.Rewrites {
		old := make([]byte, r.Size)
		if _, err := m.ReadAt(old, r.Offset); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		fresh, err := r.New(old)
		if err != nil {
			t.Fatal(err)
		}
		padded := make([]byte, r.Size)
		copy(padded, fresh)
		write(t, result, padded, r.Offset)
	}
	return result
}

// A CD has the same partitions at the same bytes, so that everything that knows the disk
// knows the CD; and a catalog for firmware that does not read tables on CDs.
func TestISO_Image_HasTheSamePartitionsAndACatalog(t *testing.T) {
	image := newImage(t, map[string][]byte{"EFI/BOOT/BOOTX64.EFI": []byte("loader")})
	plan, err := Customize(imageTable(t), Change{Add: &seed.Set{Install: &api.Install{}}, Only: true}, true)
	if err != nil {
		t.Fatal(err)
	}
	cd := plan.on(t, image)
	if cd.size%2048 != 0 || cd.size != 4468017152 {
		t.Errorf("the CD has %d bytes", cd.size)
	}
	table, err := ReadTable(cd, cd.size)
	if err != nil {
		t.Fatal(err)
	}
	want := imageTable(t)
	want.Sector, want.Length = 2048, 4468017152
	if diff := cmp.Diff(want, table); diff != "" {
		t.Error(diff)
	}
	sector := func(n int64) []byte {
		raw := make([]byte, 2048)
		if err := readAt(cd, raw, n*2048); err != nil {
			t.Fatal(err)
		}
		return raw
	}
	if volume := sector(16); string(volume[:7]) != "\x01CD001\x01" || string(volume[40:50]) != "HOLDFAST  " ||
		binary.LittleEndian.Uint32(volume[80:]) != 2181649 || binary.BigEndian.Uint32(volume[84:]) != 2181649 {
		t.Errorf("volume descriptor: %x", volume[:200])
	}
	if boot := sector(17); string(boot[:30]) != "\x00CD001\x01EL TORITO SPECIFICATION" || binary.LittleEndian.Uint32(boot[71:]) != 19 {
		t.Errorf("boot record: %x", boot[:80])
	}
	catalog := sector(19)
	var sum uint16
	for i := 0; i < 32; i += 2 {
		sum += binary.LittleEndian.Uint16(catalog[i:])
	}
	if sum != 0 || catalog[1] != 0xef || catalog[32] != 0x88 || binary.LittleEndian.Uint16(catalog[38:]) != 0 ||
		int64(binary.LittleEndian.Uint32(catalog[40:]))*2048 != layout.FirstByte {
		t.Errorf("catalog: %x", catalog[:64])
	}
	// The backup table is the last sector, and the seed is where nodes look.
	if last := sector(cd.size/2048 - 1); string(last[:8]) != "EFI PART" {
		t.Errorf("last sector: %x", last[:92])
	}
	raw := make([]byte, 1<<20)
	if err := readAt(cd, raw, seedAt); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"install.json {}\n"}, members(t, raw)); diff != "" {
		t.Error(diff)
	}
}

// Linux cannot mount the ESP of such a CD: that has to be found here.
func TestISO_SmallFATSectors_IsRefused(t *testing.T) {
	image := make([]byte, 4<<20)
	table := Table{Sector: 512, DiskGUID: diskGUID, Partitions: []Partition{{Number: 1, Label: "esp",
		Type: "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", GUID: "cccccccc-0000-4000-8000-000000000001", Start: 1 << 20, Size: 1 << 20}}}
	head, _, err := table.render(int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	copy(image, head)
	image[1<<20+12] = 2 // 512, little endian
	_, err = Stream(context.Background(), bytes.NewReader(image), io.Discard, ISO)
	if err == nil {
		t.Fatal("no error")
	}
	sameText(t, err.Error(), "making a CD: the ESP has a FAT with sectors of 512 bytes, which cannot be mounted from one: build the image anew, with sectors of 4096")
}
