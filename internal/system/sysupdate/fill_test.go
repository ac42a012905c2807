package sysupdate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/test/needs"
)

// slotDisk is a disk with one slot in partitions 3 to 5, labelled empty; the content's
// partition is marked NoAuto (63).
func slotDisk(t *testing.T) Slots {
	t.Helper()
	needs.Programs(t, "sfdisk")
	disk := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.WriteFile(disk, nil, 0o600), os.Truncate(disk, 8<<20)); err != nil {
		t.Fatal(err)
	}
	const script = "label: gpt\n" +
		"3: start=2048, size=32, type=E7BB33FB-06CF-4E81-8273-E543B413E2E2, name=_empty\n" +
		"4: start=4096, size=2048, type=77FF5F63-E7B6-4633-ACF4-1565B864C0E6, name=_empty\n" +
		"5: start=8192, size=4096, type=8484680C-9521-48C6-9C11-B0720656F69E, name=_empty, attrs=\"GUID:63\"\n"
	if _, err := run.Host(t.Context(), run.Command{Name: "sfdisk", Args: []string{"--quiet", disk}, Stdin: strings.NewReader(script)}); err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	if err := errors.Join(os.MkdirAll(filepath.Join(root, "proc"), 0o755), os.WriteFile(filepath.Join(root, "proc/cmdline"), []byte("quiet"), 0o600)); err != nil {
		t.Fatal(err)
	}
	return Slots{Run: run.Host, Disk: disk, Name: "Holdfast", Parts: []Parts{{3, 4, 5}}, Root: root}
}

// partOf are the bytes of a partition.
func partOf(t *testing.T, s Slots, number int) []byte {
	t.Helper()
	at, err := s.place(number)
	if err != nil {
		t.Fatal(err)
	}
	disk, err := os.ReadFile(s.Disk)
	if err != nil {
		t.Fatal(err)
	}
	return disk[at.offset : at.offset+at.size]
}

// A slot that was filled without systemd-sysupdate is for everybody one that it has filled,
// and the next update may write it again.
func TestFillAndLabel_EmptySlot_IsAsAnUpdateLeavesIt(t *testing.T) {
	s := slotDisk(t)
	hash := strings.Repeat("ab", 16) + strings.Repeat("cd", 16)
	data, verity := UUIDs(hash)
	signature := fmt.Sprintf(`{"rootHash":%q}`, hash)
	tree := "verity\x00\x00" + strings.Repeat("t", 5000)
	content := strings.Repeat("\x00", 1024) + "\xe2\xe1\xf5\xe0" + strings.Repeat("c", 1<<20)
	if err := s.Fill(t.Context(), 3, strings.NewReader(signature+`, and more`)); err != nil { // a longer one was there
		t.Fatal(err)
	}
	for number, text := range map[int]string{3: signature, 4: tree, 5: content} {
		if err := s.Fill(t.Context(), number, strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
		if got := partOf(t, s, number); !bytes.HasPrefix(got, []byte(text)) || got[len(text)] != 0 {
			t.Errorf("partition %d has another content", number)
		}
	}
	const own = "0c2c1c1e-7d0e-4f0b-9a6b-5d1f3a7c9e42"
	if err := s.Label(t.Context(), s.Parts[0], "202611230000", [3]string{own, verity, data}); err != nil {
		t.Fatal(err)
	}
	got, err := s.Read()
	if err != nil {
		t.Fatal(err)
	}
	want := []Slot{{
		Parts: Parts{3, 4, 5}, Version: "202611230000", RootHash: hash, Offset: 8192 * 512, Size: 4096 * 512,
		Labels: [3]string{"Holdfast_202611230000_verity_sig", "Holdfast_202611230000_verity", "Holdfast_202611230000"},
		UUIDs:  [3]string{own, verity, data},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	disk, table, err := s.openTable()
	if err != nil {
		t.Fatal(err)
	}
	_ = disk.Close()
	var marks []uint64
	for _, e := range table.Entries {
		marks = append(marks, e.Attributes)
	}
	if diff := cmp.Diff([]uint64{1 << 60, 1 << 60, 1<<60 | 1<<63}, marks); diff != "" {
		t.Errorf("marks: %s", diff)
	}
	if err := s.Free(t.Context(), got[0]); err != nil {
		t.Fatal(err)
	}
	if got, err = s.Read(); err != nil || !got[0].Empty {
		t.Errorf("freed it is %+v, %v", got, err)
	}
}

// A file that is too large, or turns out to be another, never reaches the partition behind,
// and is an error.
func TestFill_FileThatDoesNotBelong_IsAnErrorAndStaysInItsPartition(t *testing.T) {
	s := slotDisk(t)
	wrong := errors.New("the sum is wrong")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx     context.Context
		number  int
		content io.Reader
		want    error
	}{
		"too large":       {t.Context(), 3, strings.NewReader(strings.Repeat("x", 16<<10+1)), ErrTooLarge},
		"another content": {t.Context(), 3, io.MultiReader(strings.NewReader("x"), iotest.ErrReader(wrong)), wrong},
		"broken off":      {t.Context(), 3, io.MultiReader(strings.NewReader("x"), iotest.ErrReader(io.ErrUnexpectedEOF)), io.ErrUnexpectedEOF},
		"stopped":         {ended, 3, strings.NewReader("x"), context.Canceled},
	} {
		if err := s.Fill(c.ctx, c.number, c.content); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	disk, err := os.ReadFile(s.Disk)
	if err != nil {
		t.Fatal(err)
	}
	if behind := disk[(2048+32)*512 : 4096*512]; bytes.Contains(behind, []byte("x")) {
		t.Error("it was written behind its partition")
	}
	if err := s.Fill(t.Context(), 3, strings.NewReader(strings.Repeat("x", 16<<10))); err != nil {
		t.Errorf("a file as large as the partition: %v", err)
	}
	if err := s.Fill(t.Context(), 9, strings.NewReader("x")); err == nil {
		t.Error("a partition that is not there was filled")
	}
}

// sfdisk replaces all marks at once: those that were there are named again.
func TestMarks_Attributes_KeepWhatWasThere(t *testing.T) {
	for attributes, want := range map[uint64]string{
		0: "GUID:60", 1 << 60: "GUID:60", 1 << 63: "GUID:60,GUID:63", 1<<0 | 1<<2 | 1<<59: "RequiredPartition,LegacyBIOSBootable,GUID:59,GUID:60",
	} {
		if got := marks(attributes); got != want {
			t.Errorf("%x: got %q, want %q", attributes, got, want)
		}
	}
}
