package media

import (
	"bytes"
	"context"
	"errors"
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

func flashed(t *testing.T, to Device, image []byte) error {
	t.Helper()
	_, err := Flash(context.Background(), bytes.NewReader(image), to, flashRoom, func(int64, bool) {})
	return err
}

func TestFlash_Stick_HasTheImageAndNothingOfItsFormerTable(t *testing.T) {
	stick, want := newMemory(flashRoom), newMemory(flashRoom)
	write(t, stick, bytes.Repeat([]byte("old"), 1000), flashRoom-4096)
	write(t, stick, []byte("a backup lies here"), 5<<20)
	image := bytes.Repeat([]byte("image..."), 3<<17) // 3 MiB
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
	err := flashed(t, stick, bytes.Repeat([]byte("x"), 4<<20))
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

func TestFlash_ImageLargerThanItsTableSays_IsRefused(t *testing.T) {
	stick := newMemory(flashRoom)
	err := flashed(t, stick, bytes.Repeat([]byte("x"), flashRoom+1))
	if err == nil {
		t.Fatal("no error")
	}
	sameText(t, err.Error(), "writing the image: the device ends after 8388608 bytes, and the image goes on; the device is erased and starts nothing")
}
