package earlyboot

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/system/bootloader"
	"github.com/holdfast-os/holdfast/internal/system/efi"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/sysupdate"
	"github.com/holdfast-os/holdfast/test/needs"
)

const (
	older, running, newer = "202611210104", "202611220104", "202611230104"
)

// fakeParts is a release of a few bytes: what a slot is recognised by, and noise.
type fakeParts struct {
	version string
	parts   releaseParts
	// content are signature, hash tree, content and kernel image; files is the medium.
	content [4][]byte
	update  api.Update
	files   fstest.MapFS
}

func fakeRelease(t *testing.T, version string) fakeParts {
	t.Helper()
	sum := sha256.Sum256([]byte(version))
	hash := hex.EncodeToString(sum[:])
	data, verity := sysupdate.UUIDs(hash)
	r := fakeParts{version: version, files: fstest.MapFS{}, update: api.Update{Version: version}}
	noise := bytes.Repeat([]byte(version+hash), 5000)
	r.content = [4][]byte{
		[]byte(fmt.Sprintf(`{"rootHash":%q}`, hash)),
		append([]byte("verity\x00\x00"), noise...),
		slices.Concat(make([]byte, 1024), []byte("\xe2\xe1\xf5\xe0"), noise, noise),
		append([]byte("MZ kernel of "), noise[:5000]...),
	}
	strip := func(uuid string) string { return strings.ReplaceAll(uuid, "-", "") }
	for i, file := range []struct {
		kind api.Type
		name string
	}{
		{api.TypeUpdateUsrSignature, "usr-x86-64-verity-sig." + strip("0c2c1c1e-7d0e-4f0b-9a6b-"+version) + ".raw"},
		{api.TypeUpdateUsrVerity, "usr-x86-64-verity." + strip(verity) + ".raw"},
		{api.TypeUpdateUsr, "usr-x86-64." + strip(data) + ".raw"},
		{api.TypeUpdateEFI, "efi"},
	} {
		var packed bytes.Buffer
		w, err := gzip.NewWriterLevel(&packed, gzip.NoCompression)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(r.content[i]); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		name := "x86_64/Holdfast_" + version + "." + file.name + ".gz"
		digest := sha256.Sum256(packed.Bytes())
		r.files[name] = &fstest.MapFile{Data: packed.Bytes()}
		r.update.Files = append(r.update.Files, api.File{Architecture: "x86_64", Component: api.ComponentOS, Filename: name,
			SHA256: hex.EncodeToString(digest[:]), Size: int64(packed.Len()), Type: file.kind})
	}
	var err error
	if r.parts, err = partsOf(r.update); err != nil {
		t.Fatal(err)
	}
	return r
}

// bench is a node's disk and ESP as files, and the restore that works on them.
type bench struct {
	restore
	t *testing.T
}

// memory is a folder that is gone after the test. In memory, where there is such a place: what
// is flushed to a disk a thousand times takes minutes.
func memory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "holdfast-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// newBench makes a node that runs the release of slot A; b is what slot B holds, "" for
// nothing. Images are the files on the ESP.
func newBench(t *testing.T, b string, images ...string) bench {
	t.Helper()
	needs.Programs(t, "sfdisk")
	dir := memory(t)
	disk, esp, root := filepath.Join(dir, "disk"), filepath.Join(dir, "esp"), filepath.Join(dir, "root")
	a := fakeRelease(t, running)
	uuids := map[int]string{}
	for i := range 3 {
		uuids[layout.SigA+i] = a.parts.uuids[i]
	}
	script, err := layout.InstallTable(layout.TableOptions{Arch: "x86_64", Version: running, DiskSize: 20 << 30, UUIDs: uuids})
	if b != "" {
		other := fakeRelease(t, b)
		for i, label := range []string{"_verity_sig", "_verity", ""} {
			script = strings.Replace(script, `name="_empty"`, fmt.Sprintf(`uuid=%s, name="Holdfast_%s%s"`, other.parts.uuids[i], b, label), 1)
		}
	}
	write(t, disk, "")
	err = errors.Join(err, os.Truncate(disk, 20<<30))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := run.Host(t.Context(), run.Command{Name: "sfdisk", Args: []string{"--quiet", disk}, Stdin: strings.NewReader(script)}); err != nil {
		t.Fatal(err)
	}
	data := strings.ReplaceAll(a.parts.uuids[2], "-", "")
	write(t, root+"/proc/cmdline", "usrhash="+data+strings.ReplaceAll(a.parts.uuids[1], "-", "")+" rw")
	for _, image := range images {
		write(t, filepath.Join(esp, bootloader.Folder, image), "MZ old")
	}
	vars := efi.Vars{Dir: filepath.Join(dir, "vars")}
	write(t, filepath.Join(vars.Dir, "LoaderEntrySelected-"+efi.Loader), variable("holdfast_"+running+".efi"))
	slots := sysupdate.Slots{Run: run.Host, Disk: disk, Name: layout.Name, Root: root, Parts: []sysupdate.Parts{{Signature: 3, Verity: 4, Usr: 5}, {Signature: 6, Verity: 7, Usr: 8}}}
	bench := bench{t: t, restore: restore{slots: slots, say: func(string) {}, startable: func(string) error { return nil },
		loader: bootloader.Loader{ESP: esp, Name: layout.Name, Vars: vars}}}
	if b != "" {
		for i, number := range []int{6, 7, 8} {
			if err := slots.Fill(t.Context(), number, bytes.NewReader(fakeRelease(t, b).content[i])); err != nil {
				t.Fatal(err)
			}
		}
	}
	return bench
}

// images are the files of the boot loader.
func (b bench) images() (names []string) {
	b.t.Helper()
	entries, err := os.ReadDir(filepath.Join(b.loader.ESP, bootloader.Folder))
	if err != nil {
		b.t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// holds tells whether a slot has exactly the release.
func (b bench) holds(parts sysupdate.Parts, r fakeParts) error {
	slots, err := b.slots.Read()
	if err != nil {
		return err
	}
	at := slices.IndexFunc(slots, func(s sysupdate.Slot) bool { return s.Parts == parts })
	if !slots[at].Complete() || slots[at].Version != r.version || slots[at].UUIDs != r.parts.uuids {
		return fmt.Errorf("the slot is %+v", slots[at])
	}
	return b.contains(parts, r)
}

// contains tells whether a slot has the bytes of the release, whatever it is called.
func (b bench) contains(parts sysupdate.Parts, r fakeParts) error {
	disk, err := os.Open(b.slots.Disk)
	if err != nil {
		return err
	}
	defer disk.Close()
	for i, number := range []int{parts.Signature, parts.Verity, parts.Usr} {
		got := make([]byte, len(r.content[i]))
		if _, err := disk.ReadAt(got, layout.Start(number)); err != nil {
			return err
		}
		if !bytes.Equal(got, r.content[i]) {
			return fmt.Errorf("partition %d has other bytes", number)
		}
	}
	return nil
}

// Whatever the two slots are, the release of the medium ends in the one that is not needed to
// come back here, and nothing else is left that could be started in its place.
func TestRestore_EveryPairOfSlots_EndsInOneThatStarts(t *testing.T) {
	const slotA, slotB = 0, 1
	for name, c := range map[string]struct {
		b, version string
		images     []string
		slot       int
		want       []string
	}{
		"the other is empty":     {"", newer, []string{"Holdfast_202611220104.efi"}, slotB, []string{"Holdfast_202611220104.efi", "Holdfast_202611230104+3-0.efi"}},
		"the other is older":     {older, newer, []string{"Holdfast_202611210104+0-3.efi", "Holdfast_202611220104.efi"}, slotB, []string{"Holdfast_202611220104.efi", "Holdfast_202611230104+3-0.efi"}},
		"the other is this one":  {newer, newer, []string{"Holdfast_202611220104.efi", "Holdfast_202611230104+0-3.efi"}, slotB, []string{"Holdfast_202611220104.efi", "Holdfast_202611230104+3-0.efi"}},
		"it is the one that ran": {"", running, []string{"Holdfast_202611220104.efi"}, slotA, []string{"Holdfast_202611220104+3-0.efi"}},
		"and the other is older": {older, running, []string{"Holdfast_202611210104+0-3.efi", "Holdfast_202611220104+0-3.efi"}, slotA, []string{"Holdfast_202611210104+0-3.efi", "Holdfast_202611220104+3-0.efi"}},
	} {
		t.Run(name, func(t *testing.T) {
			b, r := newBench(t, c.b, c.images...), fakeRelease(t, c.version)
			b.files = r.files
			if err := b.run(t.Context(), r.parts); err != nil {
				t.Fatal(err)
			}
			if err := b.holds(b.slots.Parts[c.slot], r); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(c.want, b.images()); diff != "" {
				t.Error(diff)
			}
			state, err := b.loader.Read()
			if err != nil {
				t.Fatal(err)
			}
			if next, _ := bootloader.Next(state.Entries); next.Version != c.version || next.TriesLeft != 3 {
				t.Errorf("the next start is %+v", next)
			}
		})
	}
}

// metered is a medium, and a machine, whose power goes after so many steps: bytes that are
// read and programs that are run.
type metered struct {
	fs.FS
	run  run.Runner
	left int
}

func (m *metered) spend(n int) error {
	if m.left -= n; m.left < 0 {
		return errCut
	}
	return nil
}

var errCut = errors.New("the power is gone")

// programs says how many bytes a program counts as.
const programs = 50000

func (m *metered) Open(name string) (fs.File, error) {
	f, err := m.FS.Open(name)
	return meteredFile{f, m}, err
}

func (m *metered) Run(ctx context.Context, c run.Command) (run.Result, error) {
	if err := m.spend(programs); err != nil {
		return run.Result{}, err
	}
	return m.run(ctx, c)
}

type meteredFile struct {
	fs.File
	meter *metered
}

func (f meteredFile) Read(p []byte) (int, error) {
	n, err := f.File.Read(p[:min(len(p), 64<<10)])
	if cut := f.meter.spend(n); cut != nil {
		return 0, cut
	}
	return n, err
}

// A cut must never leave a machine that starts something half written, or nothing at all; and
// the next medium, or the same, ends it.
func TestRestore_PowerCutAnywhere_StartsWhatStartedOrTheWholeNew(t *testing.T) {
	for name, c := range map[string]struct {
		b, version string
		slot       int
		images     []string
	}{
		"into the other slot": {older, newer, 1, []string{"Holdfast_202611210104+0-3.efi", "Holdfast_202611220104.efi"}},
		"in place":            {"", running, 0, []string{"Holdfast_202611220104.efi"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := fakeRelease(t, c.version)
			for cut := 0; ; cut += 150000 {
				b := newBench(t, c.b, c.images...)
				meter := &metered{FS: r.files, run: run.Host, left: cut}
				b.files, b.slots.Run = meter, meter.Run
				err := b.run(t.Context(), r.parts)
				if err != nil && !errors.Is(err, errCut) {
					t.Fatal(err)
				}
				state, readErr := b.loader.Read()
				if readErr != nil {
					t.Fatal(readErr)
				}
				next, _ := bootloader.Next(state.Entries)
				whole := b.holds(b.slots.Parts[c.slot], r)
				if next.TriesLeft == 3 && (next.Version != c.version || whole != nil) || next.TriesLeft != 3 && next.Version != running {
					t.Errorf("cut at %d: next is %+v, and %v", cut, next, whole)
				}
				if err == nil {
					if cut < 2000000 {
						t.Errorf("it took %d, so little was cut", cut)
					}
					return
				}
				b.files, b.slots.Run = r.files, run.Host
				if slots, err := b.slots.Read(); err != nil || c.b != "" && !slots[c.slot].Empty && b.contains(slots[c.slot].Parts, r) != nil && b.contains(slots[c.slot].Parts, fakeRelease(t, c.b)) != nil {
					t.Errorf("cut at %d: half a release is labelled %q, %v", cut, slots[c.slot].Labels, err)
				}
				if err := b.run(t.Context(), r.parts); err != nil {
					t.Errorf("cut at %d, once more: %v", cut, err)
				}
				if err := b.holds(b.slots.Parts[c.slot], r); err != nil {
					t.Errorf("cut at %d, once more: %v", cut, err)
				}
			}
		})
	}
}

// fickle is a medium whose files are others from their second reading on, as a stick with a
// program in it can have them.
type fickle struct {
	fs.FS
	seen map[string]bool
	then fs.FS
}

func (f fickle) Open(name string) (fs.File, error) {
	if f.seen[name] {
		return f.then.Open(name)
	}
	f.seen[name] = true
	return f.FS.Open(name)
}

// What the firmware would not refuse has to be refused here: /usr is checked by its hash tree,
// and the kernel image by its signature, but a node must not be talked into half a release.
func TestRestore_FileThatIsNotTheSignedOne_IsNeverStarted(t *testing.T) {
	r, other := fakeRelease(t, newer), fakeRelease(t, older)
	changed := func(name string, change func([]byte) []byte) fstest.MapFS {
		files := fstest.MapFS{}
		for at, f := range r.files {
			files[at] = f
		}
		files[name] = &fstest.MapFile{Data: change(bytes.Clone(r.files[name].Data))}
		return files
	}
	flip := func(b []byte) []byte { b[len(b)/2] ^= 1; return b }
	refused := errors.New("not signed")
	for i := range 4 {
		file := append(r.parts.slot[:], r.parts.uki)[i]
		swapped := func([]byte) []byte { return other.files[append(other.parts.slot[:], other.parts.uki)[i].Filename].Data }
		for name, c := range map[string]struct {
			files     fs.FS
			startable error
			want      error
			untouched bool
		}{
			"changed":        {changed(file.Filename, flip), nil, errMedium, true},
			"of another":     {changed(file.Filename, swapped), nil, errMedium, true},
			"longer":         {changed(file.Filename, func(b []byte) []byte { return append(b, 0) }), nil, errMedium, true},
			"cut off":        {changed(file.Filename, func(b []byte) []byte { return b[:len(b)-9] }), nil, errMedium, true},
			"not there":      {fstest.MapFS{}, nil, fs.ErrNotExist, true},
			"changed since":  {fickle{r.files, map[string]bool{}, changed(file.Filename, swapped)}, nil, errMedium, false},
			"not accepted":   {r.files, refused, refused, false},
			"longer by then": {fickle{r.files, map[string]bool{}, changed(file.Filename, func(b []byte) []byte { return append(b, b...) })}, nil, errMedium, false},
		} {
			t.Run(fmt.Sprint(i, " ", name), func(t *testing.T) {
				b := newBench(t, older, "Holdfast_202611210104+0-3.efi", "Holdfast_202611220104.efi")
				b.files, b.startable = c.files, func(string) error { return c.startable }
				if err := b.run(t.Context(), r.parts); !errors.Is(err, c.want) {
					t.Errorf("got %v", err)
				}
				want := []string{"Holdfast_202611220104.efi"}
				if c.untouched {
					want = []string{"Holdfast_202611210104+0-3.efi", "Holdfast_202611220104.efi"}
				}
				if diff := cmp.Diff(want, b.images()); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

// The slot of the release that ran is what brings the machine back here: it is written only to
// repair it.
func TestChooseSlot_EveryPair_GivesTheOneThatIsNotNeeded(t *testing.T) {
	r := fakeRelease(t, newer)
	slot := func(usr int, version string, active bool) sysupdate.Slot {
		return sysupdate.Slot{Parts: sysupdate.Parts{Usr: usr}, Version: version, Active: active}
	}
	empty := sysupdate.Slot{Parts: sysupdate.Parts{Usr: 8}, Empty: true}
	damaged := slot(8, "", false)
	damaged.UUIDs = r.parts.uuids
	for name, c := range map[string]struct {
		slots []sysupdate.Slot
		want  int // 0 for none
	}{
		"empty":                {[]sysupdate.Slot{slot(5, running, true), empty}, 8},
		"older":                {[]sysupdate.Slot{slot(5, running, true), slot(8, older, false)}, 8},
		"the first is older":   {[]sysupdate.Slot{slot(5, older, false), slot(8, running, true)}, 5},
		"this one, active":     {[]sysupdate.Slot{slot(5, newer, true), slot(8, older, false)}, 5},
		"this one, not active": {[]sysupdate.Slot{slot(5, running, true), slot(8, newer, false)}, 8},
		"this one, by its ids": {[]sysupdate.Slot{slot(5, running, true), damaged}, 8},
		"nobody knows":         {[]sysupdate.Slot{slot(5, running, false), slot(8, older, false)}, 8},
		"nobody knows, empty":  {[]sysupdate.Slot{slot(5, running, false), empty}, 8},
		"both are in use":      {[]sysupdate.Slot{slot(5, running, true), slot(8, older, true)}, 0},
	} {
		got, err := chooseSlot(c.slots, r.parts)
		if got.Parts.Usr != c.want || (err != nil) != (c.want == 0) {
			t.Errorf("%s: got %d, %v", name, got.Parts.Usr, err)
		}
	}
}

// Names go into labels and file names: only what has the form of a release is taken.
func TestPartsOf_ReleaseThatIsNotWhole_IsRefused(t *testing.T) {
	for name, change := range map[string]func(*api.Update){
		"no kernel image":      func(u *api.Update) { u.Files = u.Files[:3] },
		"no UUID":              func(u *api.Update) { u.Files[1].Filename = "x86_64/Holdfast.raw.gz" },
		"not packed":           func(u *api.Update) { u.Files[3].Filename = "x86_64/Holdfast.efi" },
		"a version with a way": func(u *api.Update) { u.Version = "../../x" },
		"of an application":    func(u *api.Update) { u.Files[2].Component = api.ComponentIncus },
	} {
		r := fakeRelease(t, newer)
		change(&r.update)
		if got, err := partsOf(r.update); err == nil {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}

// An older release brings back what was mended since: none that is older than the newest that
// was here is taken, also when that one never ran.
func TestNewestVersion_SlotsAndImages_GiveTheNewestThatIsOne(t *testing.T) {
	got := newestVersion(
		[]sysupdate.Slot{{Version: running}, {Version: "9"}, {Version: "zzzzzzzzzzzz"}},
		[]bootloader.Entry{{Version: older}, {Version: newer}, {Version: "9999999999999"}})
	if got != newer {
		t.Errorf("got %q", got)
	}
	if got := newestVersion(nil, nil); got != "" {
		t.Errorf("got %q of nothing", got)
	}
}
