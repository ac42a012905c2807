package earlyboot

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/rescue"
	"github.com/holdfast-os/holdfast/internal/smime"
	"github.com/holdfast-os/holdfast/internal/smime/smimetest"
	"github.com/holdfast-os/holdfast/internal/system/espdir"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

// medium is a rescue medium with a release that p has signed.
func medium(t *testing.T, p smimetest.Signer, r fakeParts) fstest.MapFS {
	t.Helper()
	text, err := json.Marshal(r.update)
	if err != nil {
		t.Fatal(err)
	}
	files := fstest.MapFS{rescue.UpdateFile: {Data: p.Sign(t, string(text))}}
	for name, file := range r.files {
		files[rescue.UpdateDir+"/"+name] = file
	}
	return files
}

// benchESP is the ESP of a bench.
func benchESP(t *testing.T, b bench) *hostESP {
	t.Helper()
	host, _, _ := testHost(t, func(run.Command) (run.Result, error) { return run.Result{}, nil })
	disk := Disk{Path: b.slots.Disk, Partitions: map[int]string{}}
	for number := 1; number <= 11; number++ {
		disk.Partitions[number] = fmt.Sprintf("%s%d", b.slots.Disk, number)
	}
	return &hostESP{Host: host, disk: disk, dir: espdir.Dir(b.loader.ESP)}
}

// Only what its publisher has signed, whole and not older than what was here, is brought onto
// a disk; and what did not start is not written for ever.
func TestRestore_MediumThatIsNotAccepted_ChangesNothing(t *testing.T) {
	ours, others := smimetest.New(t, "update", failedAt), smimetest.New(t, "update", failedAt)
	anchors := rescue.Anchors{Update: []*x509.Certificate{ours.Certificate}}
	images := []string{"Holdfast_202611220104.efi"}
	part := fakeRelease(t, newer)
	delete(part.files, part.parts.uki.Filename)
	tried := failureNote{Format: 1, Releases: []notedFailure{{Version: newer, InARow: 3, Restored: true, Lines: []string{}}}}
	errAny := errors.New("any")
	for name, c := range map[string]struct {
		files   fs.FS
		anchors rescue.Anchors
		note    failureNote
		again   bool
		want    error // errAny for one without a name
	}{
		"signed":                    {medium(t, ours, fakeRelease(t, newer)), anchors, failureNote{}, false, nil},
		"of the release that ran":   {medium(t, ours, fakeRelease(t, running)), anchors, failureNote{}, false, nil},
		"signed by others":          {medium(t, others, fakeRelease(t, newer)), anchors, failureNote{}, false, smime.ErrUntrusted},
		"an image that trusts none": {medium(t, ours, fakeRelease(t, newer)), rescue.Anchors{}, failureNote{}, false, errAny},
		"older":                     {medium(t, ours, fakeRelease(t, older)), anchors, failureNote{}, false, rescue.ErrOlder},
		"not whole":                 {medium(t, ours, part), anchors, failureNote{}, false, errAny},
		"without a release":         {fstest.MapFS{"notes.txt": {}}, anchors, failureNote{}, false, errAny},
		"written before in vain":    {medium(t, ours, fakeRelease(t, newer)), anchors, tried, false, errAny},
		"and put in again":          {medium(t, ours, fakeRelease(t, newer)), anchors, tried, true, nil},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, "", images...)
			esp := benchESP(t, b)
			if c.note.Format != 0 {
				if err := esp.keepNote(c.note); err != nil {
					t.Fatal(err)
				}
			}
			work := b.restore
			work.files = c.files
			version, err := esp.restore(t.Context(), work, c.anchors, c.again)
			switch {
			case c.want == errAny && err == nil, c.want != errAny && !errors.Is(err, c.want):
				t.Fatalf("got %v, want %v", err, c.want)
			case err != nil:
				if diff := cmp.Diff(images, b.images()); diff != "" || version != "" {
					t.Errorf("version %q, %s", version, diff)
				}
				slots, err := b.slots.Read()
				if err != nil || !slots[1].Empty {
					t.Errorf("the other slot is %+v, %v", slots[1], err)
				}
				return
			}
			noted, _ := esp.note().of(version)
			if !noted.Restored || noted.InARow != 0 {
				t.Errorf("noted is %+v", noted)
			}
			if b.images()[len(b.images())-1] != "Holdfast_"+version+"+3-0.efi" {
				t.Errorf("the images are %q", b.images())
			}
		})
	}
	t.Run("an install medium", func(t *testing.T) {
		b := newBench(t, "", images...)
		esp := benchESP(t, b)
		delete(esp.disk.Partitions, 8)
		work := b.restore
		work.files = medium(t, ours, fakeRelease(t, newer))
		if _, err := esp.restore(t.Context(), work, anchors, false); err == nil {
			t.Error("it was written to")
		}
	})
}

// What one release left when it failed is there when the other one fails; and a note that
// cannot be written keeps nothing from being told.
func TestNote_FailedStarts_AreToldToTheNextOne(t *testing.T) {
	host, dir, _ := testHost(t, func(run.Command) (run.Result, error) { return run.Result{}, nil })
	sysfs(t, dir)
	write(t, filepath.Join(dir, "sys", loaderDevice), variable(espID))
	for number := 3; number <= 8; number++ {
		write(t, fmt.Sprintf("%s/sys/devices/nvme1n1/nvme1n1p%d/partition", dir, number), fmt.Sprintf("%d\n", number))
	}
	esp := filepath.Join(dir, "run", espMount)
	for _, image := range []string{"Holdfast_202611220104.efi", "Holdfast_202611230104+0-3.efi"} {
		write(t, filepath.Join(esp, "EFI/Linux", image), "MZ")
	}
	selected := func(version string) {
		write(t, filepath.Join(dir, "sys/firmware/efi/efivars/LoaderEntrySelected-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"), variable("holdfast_"+version+".efi"))
	}
	note := func(line string) Situation {
		t.Helper()
		s, err := host.Failing().Note(t.Context(), []string{line})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	selected("202611230104")
	note("first")
	note("second")
	selected("202611220104")
	s := note("third")
	type told struct {
		Version string
		InARow  int
		Lines   []string
	}
	var got []told
	for _, r := range s.note.Releases {
		if time.Since(r.Last).Abs() > time.Hour {
			t.Errorf("it was noted at %s", r.Last)
		}
		got = append(got, told{r.Version, r.InARow, r.Lines})
	}
	if diff := cmp.Diff([]told{{"202611220104", 1, []string{"third"}}, {"202611230104", 2, []string{"second"}}}, got); diff != "" || s.running() != "202611220104" {
		t.Errorf("%q runs, %s", s.running(), diff)
	}
	if err := errors.Join(os.RemoveAll(filepath.Join(esp, "holdfast")), os.WriteFile(filepath.Join(esp, "holdfast"), nil, 0o400)); err != nil {
		t.Fatal(err)
	}
	if s := note("fourth"); len(s.Entries) != 2 || s.note.inARow("202611220104") != 1 {
		t.Errorf("with a note that cannot be written: %+v", s)
	}
}

// A medium is known again as long as it stays in, and another one in the same drive is another.
func TestMedium_PartitionDiscAndNone_AreToldApart(t *testing.T) {
	host, dir, _ := testHost(t, func(run.Command) (run.Result, error) { return run.Result{}, nil })
	machine := host.Failing().Rescuer()
	expect := func(want Medium) {
		t.Helper()
		if got, err := machine.Medium(); got != want || err != nil {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
	}
	expect(Medium{})
	write(t, dir+"/dev/sdb1", "")
	write(t, dir+"/dev/sr0", "")
	write(t, dir+"/sys/devices/usb/sdb/diskseq", "12\n")
	write(t, dir+"/sys/devices/usb/sdb/sdb1/partition", "1\n")
	link(t, "../../devices/usb/sdb/sdb1", dir+"/sys/class/block/sdb1")
	write(t, dir+"/sys/devices/sr0/diskseq", "3\n")
	link(t, "../../devices/sr0", dir+"/sys/class/block/sr0")
	link(t, "../../sr0", dir+"/dev/disk/by-label/RESCUE_DATA")
	expect(Medium{dir + "/dev/sr0", "3"})
	write(t, dir+"/sys/devices/sr0/diskseq", "4\n")
	expect(Medium{dir + "/dev/sr0", "4"})
	link(t, "../../sdb1", dir+"/dev/disk/by-partlabel/RESCUE_DATA")
	expect(Medium{dir + "/dev/sdb1", "12"})
}
