package install

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/layout"
)

// sparse is a partition whose first bytes are given; the rest reads as zeros.
type sparse struct {
	data []byte
	size int64
}

func (s sparse) ReadAt(p []byte, offset int64) (int, error) {
	if offset >= s.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), s.size-offset))
	clear(p[:n])
	if offset < int64(len(s.data)) {
		copy(p[:n], s.data[offset:])
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func put16(b []byte, at int, v uint16) { binary.LittleEndian.PutUint16(b[at:], v) }
func put32(b []byte, at int, v uint32) { binary.LittleEndian.PutUint32(b[at:], v) }

// fat32 has 65525 clusters of 512 bytes: clusters 2 (the root directory), 3, 4, 10 and
// the last one are used. The tables have 512 sectors each, and the data begins at
// (32 + 2*512) * 512 = 540672.
func fat32() sparse {
	b := make([]byte, 32*512+512*512)
	put16(b, 11, 512)
	b[13], b[16], b[21] = 1, 2, 0xf8
	put16(b, 14, 32)
	put32(b, 32, 32+2*512+65525)
	put32(b, 36, 512)
	put32(b, 44, 2)
	b[510], b[511] = 0x55, 0xaa
	for cluster, next := range map[int]uint32{0: 0x0ffffff8, 1: 0x0fffffff, 2: 0x0fffffff, 3: 4, 4: 0x0fffffff,
		7: 0xf0000000, 10: 0x0ffffff7, 65526: 0x0fffffff} {
		put32(b, 32*512+4*cluster, next)
	}
	return sparse{b, 40 << 20}
}

// fat16 has 4200 clusters of 512 bytes, of which 3 is used, and a root directory of 32
// sectors. The data begins at (1 + 2*17 + 32) * 512 = 34304.
func fat16() sparse {
	b := make([]byte, 512+17*512)
	put16(b, 11, 512)
	b[13], b[16], b[21] = 1, 2, 0xf8
	put16(b, 14, 1)
	put16(b, 17, 512)
	put16(b, 19, 1+2*17+32+4200)
	put16(b, 22, 17)
	b[510], b[511] = 0x55, 0xaa
	put16(b, 512, 0xfff8)
	put16(b, 512+2*3, 0xffff)
	return sparse{b, 4 << 20}
}

// erofs has 164556 blocks and no checksum.
func erofs() sparse {
	b := make([]byte, 4096)
	put32(b, 1024, 0xe0f5e1e2)
	b[1024+12] = 12
	put32(b, 1024+36, 164556)
	return sparse{b, 2 << 30}
}

// verity protects 164556 blocks: its tree has 1286 + 11 + 1 blocks behind the first.
func verity() sparse {
	b := make([]byte, 512)
	copy(b, "verity\x00\x00")
	put32(b, 8, 1)
	put32(b, 12, 1)
	copy(b[32:], "sha256")
	put32(b, 64, 4096)
	put32(b, 68, 4096)
	put32(b, 72, 164556)
	return sparse{b, 64 << 20}
}

// Reading 4 GiB from a slow stick takes most of an installation; what is used is a
// fifth of that. Every number is counted by hand in the comments above.
func TestUsed_KnownFileSystems_GivesTheirPieces(t *testing.T) {
	for name, test := range map[string]struct {
		number int
		disk   sparse
		want   []Range
	}{
		"FAT32":     {layout.ESP, fat32(), []Range{{0, 542208}, {544768, 512}, {540672 + 65524*512, 512}}},
		"FAT16":     {layout.ESP, fat16(), []Range{{0, 34304}, {34816, 512}}},
		"EROFS":     {layout.UsrA, erofs(), []Range{{0, 674021376}}},
		"dm-verity": {layout.VerityA, verity(), []Range{{0, 5320704}}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, start := range []int64{0, 1 << 20} {
				parts := []Part{{Number: test.number, Start: start, Size: test.disk.size}}
				got, problems := Used(shifted{test.disk, start}, parts)
				want := map[int][]Range{test.number: nil}
				for _, r := range test.want {
					want[test.number] = append(want[test.number], Range{start + r.Offset, r.Size})
				}
				if diff := cmp.Diff(want, got); diff != "" || problems != nil {
					t.Errorf("%v %s", problems, diff)
				}
			}
		})
	}
}

// Whatever is not understood is copied in full, so that nothing can be missing on the
// disk that was on the medium. Each case is one change of a good file system.
func TestUsed_AnythingOdd_EverythingIsCopied(t *testing.T) {
	fat, ero, ver := fat32, erofs, verity
	for name, test := range map[string]struct {
		number int
		make   func() sparse
		change func(b []byte)
	}{
		"FAT: no signature":             {layout.ESP, fat, func(b []byte) { b[510] = 0 }},
		"FAT: sectors of 3 bytes":       {layout.ESP, fat, func(b []byte) { put16(b, 11, 3) }},
		"FAT: sectors of 8192 bytes":    {layout.ESP, fat, func(b []byte) { put16(b, 11, 8192) }},
		"FAT: clusters of 3 sectors":    {layout.ESP, fat, func(b []byte) { b[13] = 3 }},
		"FAT: clusters of 0 sectors":    {layout.ESP, fat, func(b []byte) { b[13] = 0 }},
		"FAT: nothing reserved":         {layout.ESP, fat, func(b []byte) { put16(b, 14, 0) }},
		"FAT: no table":                 {layout.ESP, fat, func(b []byte) { b[16] = 0 }},
		"FAT: three tables":             {layout.ESP, fat, func(b []byte) { b[16] = 3 }},
		"FAT: root of FAT16 in FAT32":   {layout.ESP, fat, func(b []byte) { put16(b, 17, 512) }},
		"FAT: too few clusters for 32":  {layout.ESP, fat, func(b []byte) { put32(b, 32, 32+2*512+65524) }},
		"FAT: larger than its part":     {layout.ESP, fat, func(b []byte) { put32(b, 32, 1<<31) }},
		"FAT: tables beyond the end":    {layout.ESP, fat, func(b []byte) { put32(b, 36, 1<<31) }},
		"FAT: table too small":          {layout.ESP, fat, func(b []byte) { put32(b, 36, 511) }},
		"FAT: one table in use":         {layout.ESP, fat, func(b []byte) { put16(b, 40, 0x80) }},
		"FAT: another version":          {layout.ESP, fat, func(b []byte) { put16(b, 42, 1) }},
		"FAT: root beyond the end":      {layout.ESP, fat, func(b []byte) { put32(b, 44, 65527) }},
		"FAT: root is free":             {layout.ESP, fat, func(b []byte) { put32(b, 44, 5) }},
		"FAT: table of another medium":  {layout.ESP, fat, func(b []byte) { b[32*512] = 0xf0 }},
		"FAT: FAT12":                    {layout.ESP, fat16, func(b []byte) { put16(b, 19, 1+2*17+32+4084) }},
		"FAT: FAT16 without root":       {layout.ESP, fat16, func(b []byte) { put16(b, 17, 0) }},
		"EROFS: no magic":               {layout.UsrA, ero, func(b []byte) { b[1024] = 0 }},
		"EROFS: large blocks":           {layout.UsrA, ero, func(b []byte) { b[1024+12] = 16 }},
		"EROFS: no blocks":              {layout.UsrA, ero, func(b []byte) { put32(b, 1024+36, 0) }},
		"EROFS: larger than its part":   {layout.UsrA, ero, func(b []byte) { put32(b, 1024+36, 524289) }},
		"EROFS: other devices":          {layout.UsrA, ero, func(b []byte) { put32(b, 1024+80, 8) }},
		"EROFS: 48 bits":                {layout.UsrA, ero, func(b []byte) { put32(b, 1024+80, 0x80) }},
		"EROFS: wrong checksum":         {layout.UsrA, ero, func(b []byte) { b[1024+8] = 1 }},
		"verity: no magic":              {layout.VerityA, ver, func(b []byte) { b[0] = 0 }},
		"verity: another version":       {layout.VerityA, ver, func(b []byte) { put32(b, 8, 2) }},
		"verity: of Chrome OS":          {layout.VerityA, ver, func(b []byte) { put32(b, 12, 0) }},
		"verity: another algorithm":     {layout.VerityA, ver, func(b []byte) { copy(b[32:], "sha1\x00\x00") }},
		"verity: blocks of 3 bytes":     {layout.VerityA, ver, func(b []byte) { put32(b, 64, 3) }},
		"verity: hash blocks of 0":      {layout.VerityA, ver, func(b []byte) { put32(b, 68, 0) }},
		"verity: nothing protected":     {layout.VerityA, ver, func(b []byte) { put32(b, 72, 0) }},
		"verity: 2^63 blocks":           {layout.VerityA, ver, func(b []byte) { put32(b, 76, 1<<31) }},
		"verity: larger than its place": {layout.VerityA, ver, func(b []byte) { put32(b, 72, 164556*16) }},
	} {
		t.Run(name, func(t *testing.T) {
			disk := test.make()
			test.change(disk.data)
			got, problems := Used(disk, []Part{{Number: test.number, Size: disk.size}})
			if len(got) != 0 || len(problems) != 1 {
				t.Errorf("got %v, %v", got, problems)
			}
		})
	}
}

// A table that is one hole after another would need more memory than it is worth.
func TestUsed_FATInTooManyPieces_EverythingIsCopied(t *testing.T) {
	disk := fat32()
	put32(disk.data, 32, 32+2*2048+200000)
	put32(disk.data, 36, 2048)
	disk.data, disk.size = append(disk.data, make([]byte, 1<<20)...), 200<<20
	for cluster := 4; cluster < 200000; cluster += 2 {
		put32(disk.data, 32*512+4*cluster, 0x0fffffff)
	}
	got, problems := Used(disk, []Part{{Number: layout.ESP, Size: disk.size}})
	if len(got) != 0 || len(problems) != 1 {
		t.Errorf("got %d pieces, %v", len(got[layout.ESP]), problems)
	}
}

// The medium is whatever somebody put into the machine.
func FuzzUsed_AnyBytes_PiecesAscendAndStayInside(f *testing.F) {
	f.Add(1, fat32().data[:32*512+64], int64(40<<20))
	f.Add(1, fat16().data, int64(4<<20))
	f.Add(4, verity().data, int64(64<<20))
	f.Add(5, erofs().data, int64(2<<30))
	f.Add(1, []byte{}, int64(0))
	f.Fuzz(func(t *testing.T, number int, data []byte, size int64) {
		const start = 4096
		size = min(max(size, 0), 1<<30)
		got, _ := Used(shifted{sparse{data, size}, start}, []Part{{Number: number, Start: start, Size: size}})
		for _, ranges := range got {
			if len(ranges) == 0 || ranges[0].Offset != start || !inside(ranges, layout.Partition{Start: start, Size: size}) {
				t.Errorf("got %v in a partition of %d bytes", ranges, size)
			}
		}
	})
}

// What a person is shown is what will be read, not the size of the partitions.
func TestNewPlan_UsedRanges_AreCountedInTheText(t *testing.T) {
	used := map[int][]Range{
		layout.ESP:  {{1048576, 100 << 20}, {1048576 + 200<<20, 5 << 20}},
		layout.UsrA: {{2320515072, 674021376}},
	}
	plan, err := NewPlan(Input{Arch: "x86_64", Medium: goodMedium(), Target: small, Used: used, NewGUID: counter()})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, step := range plan.Steps {
		if step.Action == Copy {
			got = append(got, step.String())
		}
	}
	want := []string{
		"copy esp: 105 MiB of 2 GiB at 1048576",
		"copy Holdfast_202611220104_verity_sig: 16 KiB at 2253389824",
		"copy Holdfast_202611220104_verity: 64 MiB at 2253406208",
		"copy Holdfast_202611220104: 642.8 MiB of 2 GiB at 2320515072",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if sum := plan.CopyBytes(); sum != 110100480+16384+67108864+674021376 {
		t.Errorf("got %d bytes to copy", sum)
	}
}

// A range outside its partition would write over another one.
func TestNewPlan_RangeOutsideItsPartition_IsRefused(t *testing.T) {
	for name, ranges := range map[string][]Range{
		"before":   {{1048575, 10}},
		"behind":   {{1048576, 2<<30 + 1}},
		"backward": {{2 << 20, 10}, {1 << 20, 10}},
		"overlap":  {{1 << 20, 10}, {1<<20 + 9, 10}},
		"overflow": {{1 << 20, 1<<63 - 1}},
		"nothing":  {{1 << 20, 0}},
	} {
		_, err := NewPlan(Input{Arch: "x86_64", Medium: goodMedium(), Target: small, Used: map[int][]Range{layout.ESP: ranges}, NewGUID: counter()})
		want := "planning the installation of /dev/vda: what is used of partition 1 does not lie in it"
		if err == nil || err.Error() != want {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// smallUsed are two pieces of the ESP of smallPlan, and a little of its /usr.
var smallUsed = map[int][]Range{
	layout.ESP:  {{2 << 20, 512}, {2<<20 + 1024, 4096}},
	layout.UsrA: {{2<<20 + 512<<10, 8192}},
}

// What the medium holds beside its files, and what the disk held before, is not on
// the installed disk; the bar ends at the bytes that were read.
func TestRun_UsedRanges_TargetHoldsThemAndZeros(t *testing.T) {
	env := newEnv(0xa5)
	var seen []int64
	err := Run(context.Background(), usedPlan(t, smallUsed), env, Observer{Progress: func(step string, done, total int64) {
		if step == "copy esp" {
			seen = append(seen, done, total)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	esp, usr := make([]byte, 128<<10), make([]byte, 128<<10)
	copy(esp, pattern[2<<20:][:512])
	copy(esp[1024:], pattern[2<<20+1024:][:4096])
	copy(usr, pattern[2<<20+512<<10:][:8192])
	if !bytes.Equal(env.disk.now[2<<20:][:128<<10], esp) || !bytes.Equal(env.disk.now[2<<20+512<<10:][:128<<10], usr) {
		t.Error("the target is not the used ranges and zeros")
	}
	if diff := cmp.Diff([]int64{512, 4608, 4608, 4608}, seen); diff != "" {
		t.Error(diff)
	}
}

// Every piece is read back, the last one too.
func TestRun_LastPieceDamaged_IsFoundBeforeTheTable(t *testing.T) {
	for _, at := range []int64{2 << 20, 2<<20 + 1024} {
		env := newEnv(0)
		damaged := &damagedDisk{memDisk: env.disk, at: at}
		err := Run(context.Background(), usedPlan(t, smallUsed), damagedEnv{env, damaged}, Observer{})
		if err == nil || errors.Is(err, io.EOF) || env.content().Table != NoTable {
			t.Errorf("damage at %d: got error %v", at, err)
		}
	}
}

type damagedDisk struct {
	*memDisk
	at int64
}

func (d *damagedDisk) WriteAt(p []byte, offset int64) (int, error) {
	n, err := d.memDisk.WriteAt(p, offset)
	if offset == d.at {
		d.now[offset] ^= 1
	}
	return n, err
}

type damagedEnv struct {
	*memEnv
	disk *damagedDisk
}

func (e damagedEnv) Target() TargetDisk { return e.disk }
