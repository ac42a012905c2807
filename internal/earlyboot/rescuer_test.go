package earlyboot

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/smallstep/pkcs7"

	"github.com/holdfast-os/holdfast/internal/rescue"
	"github.com/holdfast-os/holdfast/internal/smime"
	"github.com/holdfast-os/holdfast/internal/system/espdir"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

// publisher is somebody who signs releases.
type publisher struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newPublisher(t *testing.T) publisher {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "update"}, NotBefore: failedAt.AddDate(-20, 0, 0), NotAfter: failedAt.AddDate(80, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return publisher{certificate, key}
}

// medium is a rescue medium with a release.
func (p publisher) medium(t *testing.T, r fakeParts) fstest.MapFS {
	t.Helper()
	text, err := json.Marshal(r.update)
	if err != nil {
		t.Fatal(err)
	}
	content := append([]byte("Content-Type: text/plain\r\n\r\n"), text...)
	signed, err := pkcs7.NewSignedData(content)
	if err != nil {
		t.Fatal(err)
	}
	signed.SetDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA256)
	if err := signed.AddSigner(p.certificate, p.key, pkcs7.SignerInfoConfig{}); err != nil {
		t.Fatal(err)
	}
	signed.Detach()
	der, err := signed.Finish()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	out.WriteString("MIME-Version: 1.0\nContent-Type: multipart/signed; protocol=\"application/x-pkcs7-signature\"; micalg=\"sha-256\"; boundary=\"----B0\"\n\n")
	fmt.Fprintf(&out, "This is an S/MIME signed message\n\n------B0\n%s\n------B0\n", content)
	out.WriteString("Content-Type: application/x-pkcs7-signature; name=\"smime.p7s\"\nContent-Transfer-Encoding: base64\n\n")
	fmt.Fprintf(&out, "%s\n\n------B0--\n\n", base64.StdEncoding.EncodeToString(der))
	files := fstest.MapFS{rescue.UpdateFile: {Data: out.Bytes()}}
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
	ours, others := newPublisher(t), newPublisher(t)
	anchors := rescue.Anchors{Update: []*x509.Certificate{ours.certificate}}
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
		"signed":                    {ours.medium(t, fakeRelease(t, newer)), anchors, failureNote{}, false, nil},
		"of the release that ran":   {ours.medium(t, fakeRelease(t, running)), anchors, failureNote{}, false, nil},
		"signed by others":          {others.medium(t, fakeRelease(t, newer)), anchors, failureNote{}, false, smime.ErrUntrusted},
		"an image that trusts none": {ours.medium(t, fakeRelease(t, newer)), rescue.Anchors{}, failureNote{}, false, errAny},
		"older":                     {ours.medium(t, fakeRelease(t, older)), anchors, failureNote{}, false, rescue.ErrOlder},
		"not whole":                 {ours.medium(t, part), anchors, failureNote{}, false, errAny},
		"without a release":         {fstest.MapFS{"notes.txt": {}}, anchors, failureNote{}, false, errAny},
		"written before in vain":    {ours.medium(t, fakeRelease(t, newer)), anchors, tried, false, errAny},
		"and put in again":          {ours.medium(t, fakeRelease(t, newer)), anchors, tried, true, nil},
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
		work.files = ours.medium(t, fakeRelease(t, newer))
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
