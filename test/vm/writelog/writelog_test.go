package writelog_test

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/test/vm/writelog"
)

const sector = 512

// event is an entry as QEMU writes it: where in sectors, flags, and the letter that fills it.
type event struct {
	at, sectors, flags uint64
	fill               byte
}

const flush, fua, discard = 1, 2, 4

// recorded writes a log and an empty disk of four sectors.
func recorded(t *testing.T, events ...event) (disk, log string) {
	t.Helper()
	put := func(values ...uint64) []byte {
		out := make([]byte, 0, sector)
		for _, v := range values {
			out = binary.LittleEndian.AppendUint64(out, v)
		}
		return out[:sector]
	}
	text := put(0x6a736677736872, 1, uint64(len(events)), sector)
	for _, e := range events {
		text = append(text, put(e.at, e.sectors, e.flags, 0)...)
		if e.flags&discard == 0 {
			for range e.sectors * sector {
				text = append(text, e.fill)
			}
		}
	}
	dir := t.TempDir()
	disk, log = filepath.Join(dir, "disk"), filepath.Join(dir, "log")
	for path, content := range map[string][]byte{log: text, disk: []byte(filled("...."))} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return disk, log
}

// filled is a disk with one letter for each sector; letters gives them back.
func filled(letters string) string {
	var out []byte
	for i := range len(letters) {
		for range sector {
			out = append(out, letters[i])
		}
	}
	return string(out)
}

func letters(t *testing.T, disk string) string {
	t.Helper()
	content, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for i := 0; i < len(content); i += sector {
		out = append(out, content[i])
		if string(content[i:i+sector]) != filled(string(content[i])) {
			t.Errorf("sector %d is torn", i/sector)
		}
	}
	return string(out)
}

// What a test of power cuts shows is worth as much as the disks that it starts from.
func TestCut_EachPoint_KeepsWhatWasFlushed(t *testing.T) {
	events := []event{
		{at: 0, sectors: 1, fill: 'a'}, {at: 1, sectors: 2, fill: 'b'}, {flags: flush},
		{at: 0, sectors: 1, fill: 'c'}, {at: 3, sectors: 1, fill: 'd', flags: fua}, {at: 1, sectors: 1, flags: discard}, {flags: flush},
		{at: 2, sectors: 2, fill: 'e'},
	}
	all := func(int) bool { return true }
	for name, c := range map[string]struct {
		keep func(int) bool
		want []string
	}{
		"nothing of the rest": {nil, []string{"....", "....", "....", "abb.", "abb.", "abbd", "abbd", "cbbd", "cbbd"}},
		"all of the rest":     {all, []string{"....", "a...", "abb.", "abb.", "cbb.", "cbbd", "cbbd", "cbbd", "cbee"}},
		"some of the rest": {func(i int) bool { return i == 1 || i == 7 },
			[]string{"....", "....", ".bb.", "abb.", "abb.", "abbd", "abbd", "cbbd", "cbee"}},
	} {
		t.Run(name, func(t *testing.T) {
			disk, log := recorded(t, events...)
			d, err := writelog.Open(disk, log)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			var got []string
			for n := range len(d.Entries) + 1 {
				if err := d.Cut(n, c.keep); err != nil {
					t.Fatal(err)
				}
				got = append(got, letters(t, disk))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("the disk after each entry (-want +got):\n%s", diff)
			}
		})
	}
}

// The machine is killed in the middle of a write: what is not whole in the log did not happen.
func TestRead_LogOfAKilledMachine_EndsBeforeTheTornEntry(t *testing.T) {
	_, log := recorded(t, event{at: 0, sectors: 1, fill: 'a'}, event{at: 1, sectors: 2, fill: 'b'})
	for size, want := range map[int64]int{5 * sector: 1, 5*sector + 7: 1, 6 * sector: 2, 3*sector - 1: 0, sector: 0} {
		cut := filepath.Join(t.TempDir(), "log")
		content, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(cut, content[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		entries, err := writelog.Read(cut)
		if err != nil || len(entries) != want {
			t.Errorf("of %d bytes: %d entries, %v, want %d", size, len(entries), err, want)
		}
	}
	if _, err := writelog.Read(os.DevNull); err == nil {
		t.Error("an empty file is taken for a log")
	}
}

func TestCut_Backwards_IsRefused(t *testing.T) {
	disk, log := recorded(t, event{at: 0, sectors: 1, fill: 'a'}, event{flags: flush})
	d, err := writelog.Open(disk, log)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Cut(2, nil); err != nil {
		t.Fatal(err)
	}
	if d.Cut(1, nil) == nil || d.Cut(3, nil) == nil {
		t.Error("a flushed write can be taken back, or one be made that was not recorded")
	}
}

// A cut in an installation may leave gigabytes that nobody had flushed: they are added to a
// copy, and are the same as Cut would leave.
func TestRest_OnACopy_IsWhatCutWouldLeave(t *testing.T) {
	events := []event{
		{at: 0, sectors: 1, fill: 'a'}, {at: 1, sectors: 2, fill: 'b'}, {flags: flush},
		{at: 0, sectors: 1, fill: 0}, {at: 3, sectors: 1, fill: 'c'}, {at: 3, sectors: 1, fill: 'd', flags: fua},
		{at: 1, sectors: 1, flags: discard}, {at: 2, sectors: 1, fill: 'e'},
	}
	for name, c := range map[string]struct {
		keep func(int) bool
		want string
	}{
		"nothing": {nil, "abbd"},
		"all":     {func(int) bool { return true }, "\x00bed"},
		"some":    {func(i int) bool { return i == 4 }, "abbd"},
	} {
		t.Run(name, func(t *testing.T) {
			disk, log := recorded(t, events...)
			d, err := writelog.Open(disk, log)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if err := d.Cut(len(d.Entries), nil); err != nil {
				t.Fatal(err)
			}
			content, err := os.ReadFile(disk)
			if err != nil {
				t.Fatal(err)
			}
			copied := filepath.Join(t.TempDir(), "copy")
			if err := os.WriteFile(copied, content, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := d.Rest(copied, len(d.Entries), c.keep); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, letters(t, copied)); diff != "" {
				t.Errorf("the copy (-want +got):\n%s", diff)
			}
		})
	}
}

// The moment at which a partition table is written is found by what is in it.
func TestFirst_ContentAtAPlace_NamesTheWrite(t *testing.T) {
	disk, log := recorded(t, event{at: 0, sectors: 2, fill: 'a'}, event{flags: flush}, event{at: 1, sectors: 1, flags: discard}, event{at: 1, sectors: 1, fill: 'b'})
	d, err := writelog.Open(disk, log)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	type answer struct {
		Entry int
		Found bool
	}
	got := map[string]answer{}
	for _, content := range []string{"aa", "bb", "cc"} {
		entry, found, err := d.First(sector+1, []byte(content))
		if err != nil {
			t.Fatal(err)
		}
		got[content] = answer{entry, found}
	}
	if diff := cmp.Diff(map[string]answer{"aa": {0, true}, "bb": {3, true}, "cc": {}}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Moments are spread by what was written, and gigabytes of zeros do not take them all.
func TestSpread_ByBytes_ZerosCountLittle(t *testing.T) {
	const mib = 1 << 20
	entries := []writelog.Entry{{Length: 64 * mib}, {Flush: true}, {Length: 8 * mib, Discard: true}, {Length: mib}, {Length: mib}, {Length: mib}, {Length: mib / 2}, {Length: mib / 2}, {Flush: true}, {Length: mib}}
	for name, c := range map[string]struct {
		first, end, count int
		want              []int
	}{
		"one":                 {0, len(entries), 1, []int{5}},
		"three":               {0, len(entries), 3, []int{1, 5, 8}},
		"a part":              {3, 6, 3, []int{4, 5, 6}},
		"none to be had":      {8, 9, 2, nil},
		"more than there are": {4, 6, 5, []int{5, 6}},
	} {
		if diff := cmp.Diff(c.want, writelog.Spread(entries, c.first, c.end, c.count)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// Which moments of an installation are tried decides what the test of it is worth: the commit
// is the table, so one lies right before it, one between its copies, one right behind it.
func TestMoments_OfAnInstallation_LieAroundTheTable(t *testing.T) {
	const disk = 20 << 20
	table := func(sectors, header int64) []byte { // a write with the signature of a table
		text := make([]byte, sectors*sector)
		copy(text[header*sector:], "EFI PART")
		return text
	}
	protective := append(make([]byte, sector-2), 0x55, 0xaa)
	type write struct {
		at      int64
		content []byte
		flush   bool
	}
	last := int64(disk/sector - 1)
	writes := []write{
		{at: last - 9, content: make([]byte, 10*sector)}, {flush: true}, {at: 0, content: make([]byte, 100*sector)}, {flush: true}, // 0 to 3: wiping
		{at: 2048, content: []byte(filled("aaaa"))}, {at: 4096, content: []byte(filled("bb"))}, {flush: true}, // 4 to 6: data
		{at: 9000, content: []byte(filled("cccccccc"))}, {at: 9100, content: []byte(filled("d"))}, {flush: true}, {flush: true}, // 7 to 10
		{at: 0, content: make([]byte, sector)},       // 11: an old table goes
		{at: last - 3, content: table(4, 3)},         // 12: the copy at the end
		{at: 0, content: table(8, 1)}, {flush: true}, // 13, 14: the table
		{at: 0, content: protective},                           // 15: what makes firmware look at it
		{flush: true}, {at: 1024, content: make([]byte, 4096)}, // 16, 17: the mark goes
		{flush: true},
	}
	dir := t.TempDir()
	blank, log := filepath.Join(dir, "disk"), filepath.Join(dir, "log")
	head := func(values ...uint64) []byte {
		out := make([]byte, 0, sector)
		for _, v := range values {
			out = binary.LittleEndian.AppendUint64(out, v)
		}
		return out[:sector]
	}
	text := head(0x6a736677736872, 1, uint64(len(writes)), sector)
	for _, w := range writes {
		flags := uint64(0)
		if w.flush {
			flags = flush
		}
		text = append(append(text, head(uint64(w.at), uint64(len(w.content)/sector), flags, 0)...), w.content...)
	}
	for path, content := range map[string][]byte{log: text, blank: make([]byte, disk)} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d, err := writelog.Open(blank, log)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for count, want := range map[int][]writelog.Moment{
		2: {{After: 11, Where: "before the table", Rest: "lost"}, {After: 17, Where: "behind the table", Rest: "lost"}},
		3: {{After: 3, Where: "amid the data", Rest: "torn"}, {After: 11, Where: "before the table", Rest: "lost"}, {After: 17, Where: "behind the table", Rest: "lost"}},
		5: {{After: 3, Where: "amid the data", Rest: "torn"}, {After: 5, Where: "amid the data", Rest: "lost"}, {After: 11, Where: "before the table", Rest: "lost"},
			{After: 13, Where: "amid the table", Rest: "kept"}, {After: 17, Where: "behind the table", Rest: "lost"}},
	} {
		got, err := d.Moments(disk, count)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%d moments (-want +got):\n%s", count, diff)
		}
	}
	if _, err := d.Moments(disk+sector, 3); err == nil {
		t.Error("a recording without the copy of its table gives moments")
	}
}
