package updater_test

import (
	"archive/tar"
	"bytes"
	stdcmp "cmp"
	"context"
	crand "crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/big"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/smallstep/pkcs7"

	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/publisher"
	node "github.com/holdfast-os/holdfast/internal/release"
	"github.com/holdfast-os/holdfast/internal/secureboot"
	"github.com/holdfast-os/holdfast/internal/system/bootloader"
	"github.com/holdfast-os/holdfast/internal/system/efi"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/sysupdate"
	"github.com/holdfast-os/holdfast/internal/update"
	"github.com/holdfast-os/holdfast/internal/updater"
	"github.com/holdfast-os/holdfast/test/needs"
)

const (
	before, after = "202501010000", "202502010000"
	halves        = "11111111-2222-3333-4444-555555555555"
)

// stranger signs an index that no node here reads: they go by the metadata.
type stranger struct {
	key         *rsa.PrivateKey
	certificate *x509.Certificate
}

var somebody = sync.OnceValue(func() stranger {
	key, err := rsa.GenerateKey(crand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "stranger"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(crand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return stranger{key, certificate}
})

// SignSMIME signs as `openssl smime -sign -text` does.
func (s stranger) SignSMIME(_ context.Context, data []byte) ([]byte, error) {
	content := append([]byte("Content-Type: text/plain\r\n\r\n"), bytes.ReplaceAll(data, []byte("\n"), []byte("\r\n"))...)
	signed, err := pkcs7.NewSignedData(content)
	if err != nil {
		return nil, err
	}
	signed.SetDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA256)
	if err := signed.AddSigner(s.certificate, s.key, pkcs7.SignerInfoConfig{}); err != nil {
		return nil, err
	}
	signed.Detach()
	der, err := signed.Finish()
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "MIME-Version: 1.0\nContent-Type: multipart/signed; protocol=\"application/x-pkcs7-signature\"; micalg=\"sha-256\"; boundary=\"----B0\"\n\n"+
		"This is an S/MIME signed message\n\n------B0\n%s\n------B0\nContent-Type: application/x-pkcs7-signature; name=\"smime.p7s\"\n"+
		"Content-Transfer-Encoding: base64\n\n%s\n\n------B0--\n\n", content, base64.StdEncoding.EncodeToString(der)), nil
}

// usrOf is what the slot of a release holds: 2 MiB that no packer makes smaller, and that
// are much the same from release to release.
func usrOf(version string) []byte {
	data := make([]byte, 2<<20)
	source := rand.New(rand.NewPCG(1, 2))
	for i := range data {
		data[i] = byte(source.Uint32() | 1)
	}
	copy(data[1<<20:], version)
	return data
}

// partsOf are the files of a release as systemd-sysupdate asks for them.
func partsOf(version string) map[string][]byte {
	prefix := "Holdfast_" + version
	return map[string][]byte{
		prefix + ".usr-x86-64-verity-sig." + halves + ".raw": []byte(`{"rootHash":"00"}`),
		prefix + ".usr-x86-64-verity." + halves + ".raw":     bytes.Repeat([]byte("hash "+version), 1000),
		prefix + ".usr-x86-64." + halves + ".raw":            usrOf(version),
		prefix + ".efi": []byte("kernel " + version),
	}
}

// machine is a node that runs the release before, and whose systemd-sysupdate is a fake: it
// takes what it is offered, in the order of the list, and keeps what it got.
type machine struct {
	t        *testing.T
	system   *updater.System
	found    update.Found
	source   *updater.Trusted
	device   string // the partition of /usr that runs
	active   bool
	label    string // of the other slot; default empty
	received map[string][]byte
	runs     int
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	needs.Programs(t, "zstd")
	tree, keys := t.TempDir(), publisher.Keys{Dir: t.TempDir()}
	if err := keys.Make(t.Context(), "stable"); err != nil {
		t.Fatal(err)
	}
	root, err := os.ReadFile(filepath.Join(keys.Dir, "root.json"))
	if err != nil {
		t.Fatal(err)
	}
	signer, archive := somebody(), ""
	for _, version := range []string{before, after} {
		if version == after {
			archive = filepath.Join(t.TempDir(), "keys.tar")
			write(t, archive, keyArchive(t))
		}
		build := t.TempDir()
		for name, data := range partsOf(version) {
			write(t, filepath.Join(build, name), data)
		}
		if _, err := node.Publish(t.Context(), node.PublishOptions{Tree: tree, BuildDir: build, Version: version, Signer: signer, SecureBootKeys: archive,
			Extras: publisher.Extras{Run: run.Host}, Metadata: publisher.Metadata{Tree: tree, Keys: keys}}); err != nil {
			t.Fatal(err)
		}
	}
	server := httptest.NewServer(http.FileServer(http.Dir(tree)))
	t.Cleanup(server.Close)
	source, err := updater.OpenTrusted(updater.TrustedOptions{Access: updater.Access{Servers: []string{server.URL}}, Root: root,
		StateDir: t.TempDir(), Architecture: "x86_64", Built: time.Now().Add(-time.Hour), Clock: systemClock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := source.Close(); err != nil {
			t.Error(err)
		}
	})
	m := &machine{t: t, source: source, active: true, device: filepath.Join(t.TempDir(), "usr"), received: map[string][]byte{}}
	write(t, m.device, usrOf(before))
	m.system = &updater.System{
		Run: m.run, Disk: filepath.Join(t.TempDir(), "disk"), Architecture: "x86_64", Running: before, Dir: filepath.Join(t.TempDir(), "updates"), Images: t.TempDir(),
		Definitions: t.TempDir(), Slots: m.slots, Partition: func(context.Context, int) (string, error) { return m.device, nil },
		Loader: bootloader.Loader{Run: m.run, ESP: t.TempDir(), Name: layout.Name, Running: before, Vars: efi.Vars{Dir: t.TempDir()}},
		Source: func() (updater.Source, error) { return source, nil },
	}
	if m.found, err = source.Newest(t.Context(), "stable", true); err != nil {
		t.Fatal(err)
	}
	return m
}

// keyArchive has one certificate for db, signed by itself.
func keyArchive(t *testing.T) []byte {
	t.Helper()
	by := somebody()
	auth, err := secureboot.Sign(secureboot.Signer{Key: by.key, Certificate: by.certificate}, secureboot.DB, [16]byte{}, by.certificate.Raw, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: auth.File, Mode: 0o600, Size: int64(len(auth.Raw))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(auth.Raw); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func write(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (m *machine) slots() ([]sysupdate.Slot, error) {
	label := func(version string) [3]string {
		name := layout.Name + "_" + version
		return [3]string{name + "_verity_sig", name + "_verity", name}
	}
	other := stdcmp.Or(m.label, sysupdate.EmptyLabel)
	return []sysupdate.Slot{
		{Parts: sysupdate.Parts{Signature: layout.SigA, Verity: layout.VerityA, Usr: layout.UsrA}, Version: before, Labels: label(before), Active: m.active},
		{Parts: sysupdate.Parts{Signature: layout.SigB, Verity: layout.VerityB, Usr: layout.UsrB}, Empty: other == sysupdate.EmptyLabel,
			Labels: [3]string{other, other, other}},
	}, nil
}

// run is systemd-sysupdate.
func (m *machine) run(ctx context.Context, c run.Command) (run.Result, error) {
	m.runs++
	dir, found := strings.CutPrefix(c.Args[0], "--definitions=")
	if !found {
		m.t.Errorf("run with %q", c.Args)
	}
	names, err := filepath.Glob(filepath.Join(dir, "*.transfer"))
	if err != nil || len(names) == 0 {
		m.t.Errorf("no transfers: %v", err)
	}
	text, err := os.ReadFile(names[0])
	if err != nil {
		m.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "Path=http")
	url, _, _ := strings.Cut("http"+rest, "\n")
	list, err := get(ctx, strings.TrimSuffix(url, "/")+"/SHA256SUMS")
	if err != nil {
		return run.Result{}, err
	}
	for line := range strings.Lines(string(list)) {
		fields := strings.Fields(line)
		name := strings.TrimPrefix(fields[1], "*")
		data, err := get(ctx, strings.TrimSuffix(url, "/")+"/"+name)
		if err != nil {
			return run.Result{}, &run.Error{Args: []string{c.Name}, ExitCode: 1, Err: err}
		}
		if sumOf(data) != fields[0] {
			m.t.Errorf("%s has another sum than the list", name)
		}
		m.received[name] = data
	}
	return run.Result{}, nil
}

func get(ctx context.Context, url string) (_ []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, answer.Body.Close()) }()
	data, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, answer.Status)
	}
	return data, err
}

// stage goes up to the moment at which the slot is written.
func (m *machine) stage() {
	m.t.Helper()
	plans, err := m.system.Prepare(m.t.Context(), m.found)
	if err != nil {
		m.t.Fatal(err)
	}
	how := ""
	for _, p := range plans {
		how += strings.TrimPrefix(string(p.Type), "update-") + " " + p.How + ", "
	}
	if diff := cmp.Diff("efi full, secureboot full, usr delta, usr-verity full, usr-verity-signature full, ", sorted(how)); diff != "" {
		m.t.Fatal(diff)
	}
	if err := m.system.Fetch(m.t.Context(), m.found, nil); err != nil {
		m.t.Fatal(err)
	}
}

func sorted(list string) string {
	words := strings.Split(strings.TrimSuffix(list, ", "), ", ")
	var out string
	for _, kind := range []string{"efi ", "secureboot ", "usr ", "usr-verity ", "usr-verity-signature "} {
		for _, w := range words {
			if strings.HasPrefix(w, kind) {
				out += w + ", "
			}
		}
	}
	return out
}

// slotFiles are what goes into the slot: all but the kernel image, which comes last.
func slotFiles() map[string][]byte {
	files := map[string][]byte{}
	for name, data := range partsOf(after) {
		// systemd-sysupdate asks for a UUID with its dashes.
		if !strings.HasSuffix(name, ".efi") {
			files[name] = data
		}
	}
	return files
}

// The slot gets the bytes that were published, though /usr came as a delta, and no boot
// entry is made by it.
func TestSystemWrite_DeltaOfTheRunningRelease_FillsTheSlotWithTheNext(t *testing.T) {
	m := newMachine(t)
	m.stage()
	if err := m.system.Write(t.Context(), m.found, nil); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(slotFiles(), m.received); diff != "" || m.runs != 1 {
		t.Errorf("%d runs, %s", m.runs, diff)
	}
}

// Fault 17. The base of a patch is not what its publisher had: the whole part is fetched,
// and the update goes on.
func TestSystemWrite_BaseHasChanged_TakesTheWholePart(t *testing.T) {
	m := newMachine(t)
	m.stage()
	data := usrOf(before)
	data[500] ^= 2
	write(t, m.device, data)
	if err := m.system.Write(t.Context(), m.found, nil); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(slotFiles(), m.received); diff != "" || m.runs != 2 {
		t.Errorf("%d runs, %s", m.runs, diff)
	}
}

// What was fetched before counts no second time: a node that is short of room goes on where
// it was cut.
func TestSystemSpace_PartsThatAreHere_AreNotCounted(t *testing.T) {
	m := newMachine(t)
	m.stage()
	space, err := m.system.Space(t.Context(), m.found)
	if err != nil || space.StageNeed != 0 {
		t.Errorf("%d bytes are needed, %v", space.StageNeed, err)
	}
	if err := os.RemoveAll(m.system.Dir); err != nil {
		t.Fatal(err)
	}
	if space, err = m.system.Space(t.Context(), m.found); err != nil || space.StageNeed == 0 {
		t.Errorf("with nothing here: %d bytes are needed, %v", space.StageNeed, err)
	}
}

// Labels that somebody has changed would keep systemd-sysupdate from finding the other slot
// for ever: they are set to empty, by sfdisk, before it is started.
func TestSystemWrite_OtherSlotWithForeignLabels_IsFreedFirst(t *testing.T) {
	m := newMachine(t)
	m.stage()
	m.label = "somebody's"
	err := m.system.Write(t.Context(), m.found, nil)
	// The table is that of a disk which this test does not have: freeing it is what fails.
	if !errors.Is(err, sysupdate.ErrLabels) || !errors.Is(err, os.ErrNotExist) || m.runs != 0 {
		t.Errorf("%d runs, %v", m.runs, err)
	}
}

// systemd-sysupdate goes by labels: where none of the slots is the running one, it is not
// even started, since it could take the wrong one.
func TestSystemWrite_NoActiveSlot_StartsNothing(t *testing.T) {
	m := newMachine(t)
	m.stage()
	m.active = false
	if err := m.system.Write(t.Context(), m.found, nil); err == nil || m.runs != 0 {
		t.Errorf("%d runs, %v", m.runs, err)
	}
}

// What a publisher hands in as the firmware's next keys is what a node hands to its firmware.
func TestKeyArchive_PublishedWithTheRelease_IsWhatThePublisherHandedIn(t *testing.T) {
	m := newMachine(t)
	part, there, err := updater.KeyPart(m.found.Manifest)
	if err != nil || !there {
		t.Fatalf("part %v, %v", there, err)
	}
	packed, err := m.system.KeyArchive(t.Context(), m.found, part)
	if err != nil {
		t.Fatal(err)
	}
	archive, err := secureboot.ReadArchive(bytes.NewReader(packed))
	if err != nil || len(archive) != 1 || archive[0].Variable != secureboot.DB {
		t.Errorf("%d updates, %v", len(archive), err)
	}
}

// The plan says what an application costs: nothing when it is here, under whatever name.
func TestSystemPrepare_ApplicationThatIsHere_CostsNothing(t *testing.T) {
	m := newMachine(t)
	content := bytes.Repeat([]byte("an application "), 1000)
	part := release.Part{Name: "incus.raw", Component: "incus", Type: release.TypeApplication, Size: int64(len(content)), SHA256: sumOf(content),
		Full: release.Blob{Path: "incus.raw.gz", Size: 99}}
	m.found.Manifest.Parts = append(slices.Clone(m.found.Manifest.Parts), part)
	got := map[string]string{}
	for name, c := range map[string]struct{ version, content string }{
		"the same, of an earlier release": {"202601010000", string(content)},
		"another":                         {"202601010000", strings.Replace(string(content), "an", "no", 1)},
		"of this release":                 {m.found.Manifest.Version, "whatever it is"},
	} {
		m.system.Images = t.TempDir()
		dir := filepath.Join(m.system.Images, c.version)
		if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, "incus.raw"), []byte(c.content), 0o600)); err != nil {
			t.Fatal(err)
		}
		plans, err := m.system.Prepare(t.Context(), m.found)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range plans {
			if p.Type == release.TypeApplication {
				got[name] = fmt.Sprintf("%s %d", p.How, p.Bytes)
			}
		}
	}
	want := map[string]string{"the same, of an earlier release": "present 0", "another": "full 99", "of this release": "present 0"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
