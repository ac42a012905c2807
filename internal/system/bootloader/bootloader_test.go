package bootloader_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/holdfast-os/holdfast/internal/system/bootloader"
	"github.com/holdfast-os/holdfast/internal/system/efi"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

const (
	a = "Holdfast_202611220104.efi"
	b = "Holdfast_202611230000.efi"
)

// esp makes an ESP with files of 4 bytes and firmware variables of the boot loader.
func esp(t *testing.T, running string, variables map[string]string, files ...string) bootloader.Loader {
	t.Helper()
	root := t.TempDir()
	l := bootloader.Loader{
		ESP: root, Name: "Holdfast", Running: running, Vars: efi.Vars{Dir: t.TempDir()},
		Run: func(context.Context, run.Command) (run.Result, error) {
			return run.Result{}, errors.New("systemd-bless-boot was started")
		},
	}
	for _, file := range append(files, "EFI/BOOT/BOOTX64.EFI") {
		path := filepath.Join(root, file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("MZ\x00\x00"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for name, value := range variables {
		data := "\x06\x00\x00\x00"
		for _, r := range value + "\x00" {
			data += string([]byte{byte(r), 0})
		}
		if err := os.WriteFile(filepath.Join(l.Vars.Dir, name+"-"+efi.Loader), []byte(data), 0o400); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

func linux(names ...string) []string {
	for i := range names {
		names[i] = "EFI/Linux/" + names[i]
	}
	return names
}

func files(t *testing.T, l bootloader.Loader) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(l.ESP, bootloader.Folder))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// Whoever wonders what a node will start sees each image, its counter and what runs; and
// what a repair or a cut left is told apart from it.
func TestRead_TrialBesideJunk_IsDescribed(t *testing.T) {
	l := esp(t, "202611230000", map[string]string{
		"LoaderBootCountPath": `\EFI\Linux\Holdfast_202611230000+2-1.efi`, "LoaderEntrySelected": "holdfast_202611230000.efi",
	}, append(linux(a, "Holdfast_202611230000+2-1.efi", ".#sysupdateHoldfast_1.efi", "FSCK0000.REC", "debian.efi", "Holdfast_x.efi"), "FSCK0001.REC", "loader/loader.conf")...)
	got, err := l.Read()
	if err != nil {
		t.Fatal(err)
	}
	want := bootloader.State{
		Entries: []bootloader.Entry{
			{File: "Holdfast_202611230000+2-1.efi", ID: "holdfast_202611230000.efi", Version: "202611230000", TriesLeft: 2, TriesDone: 1, Size: 4, Booted: true},
			{File: a, ID: "holdfast_202611220104.efi", Version: "202611220104", TriesLeft: -1, TriesDone: -1, Size: 4},
		},
		Trial: true, Counted: true, Temporary: []string{".#sysupdateHoldfast_1.efi"},
		Junk: []string{"EFI/Linux/FSCK0000.REC", "EFI/Linux/Holdfast_x.efi", "EFI/Linux/debian.efi", "FSCK0001.REC"},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(bootloader.State{}, "Size", "Free"), cmpopts.IgnoreUnexported(bootloader.State{})); diff != "" {
		t.Error(diff)
	}
	if got.Size <= 0 || got.Free <= 0 || got.Free > got.Size {
		t.Errorf("%d of %d bytes are free", got.Free, got.Size)
	}
}

// The image that runs is known in every way of starting; only a counter that is still
// there is a trial.
func TestRead_EveryKindOfStart_KnowsWhatRuns(t *testing.T) {
	for name, c := range map[string]struct {
		running   string
		variables map[string]string
		files     []string
		want      []string // file, then "trial", "counted"
	}{
		"no trial":           {"202611220104", map[string]string{"LoaderEntrySelected": "holdfast_202611220104.efi"}, linux(a, "Holdfast_202611230000+3-0.efi"), []string{a}},
		"trial":              {"202611230000", map[string]string{"LoaderBootCountPath": `\EFI\Linux\Holdfast_202611230000+2-1.efi`}, linux(a, "Holdfast_202611230000+2-1.efi"), []string{"Holdfast_202611230000+2-1.efi", "trial", "counted"}},
		"last try":           {"202611230000", map[string]string{"LoaderBootCountPath": `\EFI\Linux\Holdfast_202611230000+0-3.efi`}, linux(a, "Holdfast_202611230000+0-3.efi"), []string{"Holdfast_202611230000+0-3.efi", "trial", "counted"}},
		"blessed":            {"202611230000", map[string]string{"LoaderBootCountPath": `\EFI\Linux\Holdfast_202611230000+2-1.efi`}, linux(a, b), []string{b, "counted"}},
		"marked bad":         {"202611230000", map[string]string{"LoaderBootCountPath": `\EFI\Linux\Holdfast_202611230000+2-1.efi`}, linux(a, "Holdfast_202611230000+0-1.efi"), []string{"Holdfast_202611230000+0-1.efi", "counted"}},
		"no variables":       {"202611220104", nil, linux(a, b), []string{a}},
		"started by its own": {"202611220104", map[string]string{"LoaderEntrySelected": "holdfast_202611220104.efi"}, linux("Holdfast_202611220104+3-0.efi"), []string{"Holdfast_202611220104+3-0.efi"}},
		"image is gone":      {"202611220104", nil, linux(b), nil},
	} {
		t.Run(name, func(t *testing.T) {
			state, err := esp(t, c.running, c.variables, c.files...).Read()
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, entry := range state.Entries {
				if entry.Booted {
					got = append(got, entry.File)
				}
			}
			if state.Trial {
				got = append(got, "trial")
			}
			if state.Counted {
				got = append(got, "counted")
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What starts next decides whether a node comes back. The rules are systemd-boot's.
func TestNext_EveryMixOfCounters_IsWhatSystemdBootTakes(t *testing.T) {
	for name, c := range map[string]struct {
		files    []string
		patterns []string
		want     string
	}{
		"nothing":                         {nil, nil, ""},
		"newer one":                       {[]string{a, b}, nil, b},
		"newer one on trial":              {[]string{a, "Holdfast_202611230000+3-0.efi"}, nil, "Holdfast_202611230000+3-0.efi"},
		"newer one with its last try":     {[]string{a, "Holdfast_202611230000+1-2.efi"}, nil, "Holdfast_202611230000+1-2.efi"},
		"newer one without tries":         {[]string{a, "Holdfast_202611230000+0-3.efi"}, nil, a},
		"newer one marked bad":            {[]string{a, "Holdfast_202611230000+0.efi"}, nil, a},
		"both bad":                        {[]string{"Holdfast_202611220104+0-3.efi", "Holdfast_202611230000+0-3.efi"}, nil, "Holdfast_202611230000+0-3.efi"},
		"older one on trial":              {[]string{"Holdfast_202611220104+3.efi", "Holdfast_202611230000+0.efi"}, nil, "Holdfast_202611220104+3.efi"},
		"same release, more tries left":   {[]string{"Holdfast_202611230000+1-0.efi", "Holdfast_202611230000+2-0.efi"}, nil, "Holdfast_202611230000+2-0.efi"},
		"same release, fewer tries done":  {[]string{"Holdfast_202611230000+1-4.efi", "Holdfast_202611230000+1-2.efi"}, nil, "Holdfast_202611230000+1-2.efi"},
		"default is older":                {[]string{a, b}, []string{"holdfast_202611220104.efi"}, a},
		"default has no tries":            {[]string{a, "Holdfast_202611230000+0-3.efi"}, []string{"holdfast_202611230000*"}, "Holdfast_202611230000+0-3.efi"},
		"default is a pattern for all":    {[]string{a, b}, []string{"holdfast_*"}, b},
		"default is gone":                 {[]string{a, b}, []string{"debian.efi"}, b},
		"once beats default":              {[]string{a, b}, []string{"holdfast_202611220104.efi", "holdfast_202611230000.efi"}, a},
		"a pattern that is not one":       {[]string{a, b}, []string{"[", ""}, b},
		"twelve digits beat a short name": {[]string{"Holdfast_9.efi", a}, nil, a},
	} {
		var entries []bootloader.Entry
		for _, file := range c.files {
			entry, ok := bootloader.ParseEntry("Holdfast", file)
			if !ok {
				t.Fatalf("%s: %s is no entry", name, file)
			}
			entries = append(entries, entry)
		}
		for range 2 { // the order on the ESP is of no matter
			got, ok := bootloader.Next(entries, c.patterns...)
			if got.File != c.want || ok != (c.want != "") {
				t.Errorf("%s: got %s, %v, want %s", name, got.File, ok, c.want)
			}
			slices.Reverse(entries)
		}
	}
}

// The list is the one in systemd's own source, oldest first.
func TestCompareVersions_ListOfSystemd_IsInOrder(t *testing.T) {
	list := []string{"", "~1", "122.1", "123~rc1-1", "123", "123-a", "123-a.1", "123-1", "123-1.1", "123^post1", "123.a-1", "123.1-1", "123a-1", "124-1"}
	// "~1" is older than nothing at all
	list[0], list[1] = list[1], list[0]
	for i, older := range list {
		for j, newer := range list {
			want := 0
			if i < j {
				want = -1
			} else if i > j {
				want = 1
			}
			if got := sign(bootloader.CompareVersions(older, newer)); got != want {
				t.Errorf("%q and %q: got %d, want %d", older, newer, got, want)
			}
		}
	}
	for _, same := range [][2]string{{"123_a", "123a"}, {"00123", "123"}, {"Ä1", "1"}} {
		if got := bootloader.CompareVersions(same[0], same[1]); got != 0 {
			t.Errorf("%q and %q: got %d", same[0], same[1], got)
		}
	}
}

func sign(n int) int { return min(max(n, -1), 1) }

func FuzzCompareVersions_AnyPair_IsAntisymmetric(f *testing.F) {
	f.Add("123~rc1-1", "123^post1")
	f.Add("holdfast_202611220104.efi", "")
	f.Fuzz(func(t *testing.T, x, y string) {
		if sign(bootloader.CompareVersions(x, y)) != -sign(bootloader.CompareVersions(y, x)) {
			t.Errorf("%q and %q", x, y)
		}
	})
}

// Names on the ESP are foreign bytes: whatever passes has a version of digits and a
// counter that makes sense.
func FuzzParseEntry_AnyName_MakesSense(f *testing.F) {
	for _, name := range []string{a, "Holdfast_1+3.efi", "Holdfast_1+3-0.efi", "Holdfast_1+-1.efi", "Holdfast_1+3-.efi", "Holdfast_1+99999999999-1.efi", "Holdfast_+1.efi"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		entry, ok := bootloader.ParseEntry("Holdfast", name)
		if !ok {
			return
		}
		if entry.Version == "" || strings.Trim(entry.Version, "0123456789") != "" || entry.TriesLeft < -1 || entry.TriesDone < -1 ||
			entry.ID != "holdfast_"+entry.Version+".efi" || entry.File != name {
			t.Errorf("%q: got %+v", name, entry)
		}
	})
}

// A counter of systemd-boot's, and nothing else, is one.
func TestParseEntry_StrangeCounters_AreNoEntries(t *testing.T) {
	for _, name := range []string{"Holdfast_1+.efi", "Holdfast_1+-1.efi", "Holdfast_1+3-.efi", "Holdfast_1++3.efi", "Holdfast_1+4294967296.efi", "Holdfast_1+3x.efi", "Holdfast_1.EFI", "Holdfast_1.1.efi", "Other_1.efi"} {
		if entry, ok := bootloader.ParseEntry("Holdfast", name); ok {
			t.Errorf("%s: got %+v", name, entry)
		}
	}
}

// A release that was blessed long ago can be left as well: the next start takes the
// other one. The firmware's variables may be read-only.
func TestMarkBad_NoTrial_LosesItsTries(t *testing.T) {
	l := esp(t, "202611230000", nil, linux(a, b)...)
	for range 2 {
		if err := l.MarkBad(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{a, "Holdfast_202611230000+0.efi"}, files(t, l)); diff != "" {
		t.Error(diff)
	}
	state, err := l.Read()
	if err != nil {
		t.Fatal(err)
	}
	if next, _ := bootloader.Next(state.Entries); next.File != a {
		t.Errorf("%s is next", next.File)
	}
}

// Nobody may be left without a release that could be started.
func TestMarkBad_NoOtherRelease_IsRefused(t *testing.T) {
	l := esp(t, "202611230000", nil, linux(b, "Holdfast_202611220104+0-3.efi")...)
	err := l.MarkBad(t.Context())
	if err == nil || err.Error() != "marking the release that runs as bad: there is no other release that could be started" {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff([]string{"Holdfast_202611220104+0-3.efi", b}, files(t, l)); diff != "" {
		t.Error(diff)
	}
}

// A start that was not counted needs no blessing, and systemd-bless-boot would fail.
func TestBless_NoTrial_DoesNothing(t *testing.T) {
	if err := esp(t, "202611230000", nil, linux(b)...).Bless(t.Context()); err != nil {
		t.Error(err)
	}
}

// The image that runs stays, whatever is asked for; what is not an image of this system
// is nobody's to remove.
func TestRemove_Images_OnlyOthers(t *testing.T) {
	l := esp(t, "202611230000", nil, linux(a, b, "debian.efi")...)
	if err := l.Remove(b); !errors.Is(err, bootloader.ErrBooted) {
		t.Errorf("got %v", err)
	}
	for _, name := range []string{a, a, "debian.efi", "../BOOT/BOOTX64.EFI"} {
		if err := l.Remove(name); err != nil {
			t.Error(err)
		}
	}
	if diff := cmp.Diff([]string{b, "debian.efi"}, files(t, l)); diff != "" {
		t.Error(diff)
	}
	if _, err := os.Stat(filepath.Join(l.ESP, "EFI/BOOT/BOOTX64.EFI")); err != nil {
		t.Error(err)
	}
}

// What a power cut left of an update does not fill the ESP for ever.
func TestClean_UnfinishedFiles_AreGone(t *testing.T) {
	l := esp(t, "202611220104", nil, linux(a, ".#sysupdateHoldfast_202611230000+3-0.efi0123456789abcdef", "FSCK0000.REC")...)
	if err := l.Clean(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"FSCK0000.REC", a}, files(t, l)); diff != "" {
		t.Error(diff)
	}
}

// systemd-pull calls a full ESP an input/output error: whether there is room is told
// before. What an update removes counts as room, the image that runs does not.
func TestCheckRoom_FullESP_CountsWhatIsRemovedFirst(t *testing.T) {
	state := bootloader.State{Size: 1 << 20, Free: 100 << 10, Entries: []bootloader.Entry{{Size: 300 << 10, Booted: true}, {Size: 200 << 10}}}
	if err := state.CheckRoom(236 << 10); err != nil {
		t.Errorf("236 KiB and 64 KiB of slack are 300 KiB: %v", err)
	}
	err := state.CheckRoom(236<<10 + 1)
	want := "the ESP is too full for the kernel image: it needs 307201 bytes, and 307200 of 1048576 are free; files that no boot needs: 0"
	if !errors.Is(err, bootloader.ErrNoRoom) || err.Error() != want {
		t.Errorf("got %v", err)
	}
}

// A node whose ESP is not there must not believe that it is empty.
func TestRead_NoESP_IsAnError(t *testing.T) {
	l := bootloader.Loader{ESP: "/does/not/exist", Name: "Holdfast"}
	if _, err := l.Read(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// What an owner chose in the boot loader's menu counts for the next start.
func TestPatterns_Variables_OnceBeforeDefault(t *testing.T) {
	l := esp(t, "202611220104", map[string]string{"LoaderEntryDefault": "holdfast_*", "LoaderEntryOneShot": "holdfast_202611220104.efi"})
	got, err := l.Patterns()
	if diff := cmp.Diff([]string{"holdfast_202611220104.efi", "holdfast_*"}, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
}
