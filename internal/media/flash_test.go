package media

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The wrong disk must not be erased: each of these has cost somebody a disk.
func TestCheckDisk_NotAStick_IsRefused(t *testing.T) {
	stick := Disk{Path: "/dev/sdb", Model: "Stick", Serial: "4C53", Kind: "disk", Size: 8 << 30, Removable: true}
	for name, c := range map[string]struct {
		change func(d *Disk)
		force  bool
		want   string
	}{
		"stick":       {func(*Disk) {}, false, ""},
		"fixed":       {func(d *Disk) { d.Removable = false }, false, "/dev/sdb: it cannot be taken out of this computer, so it may be a disk that is needed: --force writes to it all the same"},
		"forced":      {func(d *Disk) { d.Removable = false }, true, ""},
		"system":      {func(d *Disk) { d.Mounts = []string{"/boot", "/"} }, true, "/dev/sdb: this computer runs from it (/boot, /)"},
		"swap":        {func(d *Disk) { d.Mounts = []string{"[SWAP]"} }, true, "/dev/sdb: this computer runs from it ([SWAP])"},
		"mounted":     {func(d *Disk) { d.Mounts = []string{"/media/me/BACKUP"} }, true, "/dev/sdb: it is mounted at /media/me/BACKUP: unmount it first"},
		"RAID":        {func(d *Disk) { d.Users = []string{"raid1 md0"} }, true, "/dev/sdb: it is a part of raid1 md0"},
		"partition":   {func(d *Disk) { d.Kind = "part" }, true, "/dev/sdb: it is no whole disk (part): give the disk itself, as /dev/sdb"},
		"read-only":   {func(d *Disk) { d.ReadOnly = true }, true, "/dev/sdb: it is read-only: take its write protection off"},
		"small":       {func(d *Disk) { d.Size = 100 }, true, "/dev/sdb: it has 100 bytes, and the image needs 4294967296"},
		"many things": {func(d *Disk) { d.Size, d.Removable = 100, false }, false, "/dev/sdb: it has 100 bytes, and the image needs 4294967296\n/dev/sdb: it cannot be taken out of this computer, so it may be a disk that is needed: --force writes to it all the same"},
	} {
		disk := stick
		c.change(&disk)
		got := ""
		if err := CheckDisk(disk, 4<<30, c.force); err != nil {
			got = err.Error()
		}
		sameText(t, name+": "+got, name+": "+c.want)
	}
}

func TestWord_Disk_IsSerialElseModelElsePath(t *testing.T) {
	d := Disk{Path: "/dev/sdb", Model: "Stick", Serial: "4C53"}
	sameText(t, d.Word(), "4C53")
	d.Serial = ""
	sameText(t, d.Word(), "Stick")
	d.Model = ""
	sameText(t, d.Word(), "/dev/sdb")
}

const flashRoom = 8 << 20

// flashable is an image of so many bytes that ends with its second table.
func flashable(t *testing.T, size int) []byte {
	t.Helper()
	table, _ := small(t, 512)
	image := bytes.Repeat([]byte("image..."), size/8)
	head, tail, err := table.render(int64(size))
	if err != nil {
		t.Fatal(err)
	}
	copy(image, head)
	copy(image[size-len(tail):], tail)
	return image
}

func flashed(t *testing.T, to Device, image []byte) error {
	t.Helper()
	_, err := Flash(context.Background(), bytes.NewReader(image), to, flashRoom, func(int64, bool) {})
	return err
}

func TestFlash_Stick_HasTheImageAndNothingOfItsFormerTable(t *testing.T) {
	stick, want := newMemory(flashRoom), newMemory(flashRoom)
	write(t, stick, bytes.Repeat([]byte("old"), 1000), flashRoom-4096)
	write(t, stick, []byte("a backup lies here"), 5<<20)
	image := flashable(t, 3<<20)
	write(t, want, image, 0)
	write(t, want, []byte("a backup lies here"), 5<<20)
	var told []string
	size, err := Flash(context.Background(), bytes.NewReader(image), stick, flashRoom, func(done int64, checking bool) {
		if done == 3<<20 {
			told = append(told, map[bool]string{false: "written", true: "read back"}[checking])
		}
	})
	if err != nil || size != 3<<20 {
		t.Fatalf("got %d, %v", size, err)
	}
	if diff := cmp.Diff(want.content(), stick.content()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"written", "read back"}, told); diff != "" {
		t.Error(diff)
	}
}

// A stick that was pulled out half-way must not start anything.
func TestFlash_PowerCutAtAnyWrite_LeavesNoTableOrAllOfIt(t *testing.T) {
	_, image := small(t, 512)
	image = append(image, bytes.Repeat([]byte("x"), 6<<20)...)
	for allowed := 1; ; allowed++ {
		stick := newMemory(flashRoom)
		write(t, stick, image[:4096], 0)
		err := flashed(t, &cutDisk{memory: stick, left: allowed}, image)
		_, wrong := ReadTable(stick, flashRoom)
		if (err == nil) != (wrong == nil) {
			t.Fatalf("after %d writes: %v, and the table: %v", allowed, err, wrong)
		}
		if err == nil {
			return
		}
		if !errors.Is(err, errDisk) || !errors.Is(wrong, ErrNotImage) {
			t.Fatalf("after %d writes: %v, %v", allowed, err, wrong)
		}
	}
}

// Cheap sticks say that they are larger than they are, and forget what is too much.
func TestFlash_StickForgets_IsFoundByReadingBack(t *testing.T) {
	stick := &liar{newMemory(flashRoom)}
	err := flashed(t, stick, flashable(t, 4<<20))
	if err == nil || !strings.HasPrefix(err.Error(), "what was read back is not what was written") {
		t.Errorf("got %v", err)
	}
}

type liar struct{ *memory }

func (l *liar) WriteAt(p []byte, offset int64) (int, error) {
	if offset >= 1<<20 {
		return len(p), nil
	}
	return l.memory.WriteAt(p, offset)
}

const lost = "what was on the device is lost, it now holds half an image without its beginning, and starts nothing: write a whole image to it"

// A download that broke off is no image, packed or not: a machine would start from it, and
// find half a system.
func TestFlash_ImageIsCutOff_IsAnErrorAndStartsNothing(t *testing.T) {
	raw := flashable(t, 6<<20)
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	write := func(data []byte) {
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	write(raw)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	packed := b.Bytes()
	wrongSum := bytes.Clone(packed)
	wrongSum[len(wrongSum)-8]++
	unpacked := func(data []byte) io.Reader {
		r, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for name, c := range map[string]struct {
		in   io.Reader
		want string
		is   error
	}{
		"raw":           {bytes.NewReader(raw[:len(raw)-1]), "reading the image: the image is cut off: it ends after 6291455 bytes, and by its partition table it has 6291456; " + lost, ErrCut},
		"raw, in half":  {bytes.NewReader(raw[:2<<20]), "reading the image: the image is cut off: it ends after 2097152 bytes, and by its partition table it has 6291456; " + lost, ErrCut},
		"packed":        {unpacked(packed[:len(packed)-20]), "", ErrCut},
		"packed, sum":   {unpacked(packed[:len(packed)-8]), "reading the image: the image is cut off: the file ends in the middle of its packed data, after 6291456 bytes of the image; " + lost, ErrCut},
		"packed, a bit": {unpacked(packed[:len(packed)-1]), "reading the image: the image is cut off: the file ends in the middle of its packed data, after 6291456 bytes of the image; " + lost, ErrCut},
		"wrong sum":     {unpacked(wrongSum), "reading the image: gzip: invalid checksum; " + lost, gzip.ErrChecksum},
	} {
		stick := newMemory(flashRoom)
		_, err := Flash(context.Background(), c.in, stick, flashRoom, func(int64, bool) {})
		if !errors.Is(err, c.is) {
			t.Fatalf("%s: got %v", name, err)
		}
		if c.want != "" {
			sameText(t, name+": "+err.Error(), name+": "+c.want)
		}
		if _, err := ReadTable(stick, flashRoom); !errors.Is(err, ErrNotImage) {
			t.Errorf("%s: the stick has a table: %v", name, err)
		}
	}
}

// What can be known before is told before: the stick keeps what it has.
func TestFlash_NoImageOrCutAtOnce_WritesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		image []byte
		is    error
	}{
		"text":   {bytes.Repeat([]byte("text"), 1<<20), ErrNotImage},
		"empty":  {nil, ErrNotImage},
		"a part": {flashable(t, 4<<20)[:1<<20-1], ErrCut},
	} {
		stick := newMemory(flashRoom)
		stick.allowed = 0
		if err := flashed(t, stick, c.image); !errors.Is(err, c.is) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestFlash_ImageLargerThanItsTableSays_IsRefused(t *testing.T) {
	stick := newMemory(flashRoom)
	err := flashed(t, stick, append(flashable(t, 4<<20), make([]byte, flashRoom)...))
	if err == nil {
		t.Fatal("no error")
	}
	sameText(t, err.Error(), "writing the image: the device ends after 8388608 bytes, and the image goes on; "+lost)
}
