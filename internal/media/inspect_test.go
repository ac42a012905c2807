package media

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/api/release"
)

const rootHash = "e6fb2e46e329eeca3f30e4cefe7a4ab939d504e880c8448d89d036f9665f63c9"

// fakeProver believes what files say of themselves: a program is "SIGNER|COMMAND LINE", a
// list of certificates is the certificate, and /usr is whole when it begins with "whole".
type fakeProver struct{}

func (fakeProver) Program(r io.ReaderAt, size int64) (Program, error) {
	text, err := io.ReadAll(io.NewSectionReader(r, 0, size))
	if err != nil {
		return Program{}, err
	}
	signer, line, ok := strings.Cut(string(text), "|")
	if !ok {
		return Program{}, errors.New("this is no PE file")
	}
	return Program{SHA256: "hash of " + signer, Signers: [][]byte{[]byte(signer)},
		Sections: map[string]Region{".cmdline": {int64(len(signer) + 1), int64(len(line))}}}, nil
}

func (fakeProver) Verity(_ context.Context, image io.ReaderAt, size int64, certificates [][]byte) (string, string, error) {
	table, err := ReadTable(image, size)
	if err != nil {
		return "", "", err
	}
	word := make([]byte, 5)
	if err := readAt(image, word, table.Partitions[2].Start); err != nil {
		return "", "", err
	}
	if string(word) != "whole" || len(table.Partitions) != 3 || string(certificates[0]) != "ours" {
		return "", "", errors.New("data does not fit the signature")
	}
	return rootHash, "ours", nil
}

func (fakeProver) Certificates(lists []byte) ([][]byte, error) { return [][]byte{lists}, nil }

// auth is an update with a signature of 4 bytes.
func auth(payload string) []byte {
	raw := make([]byte, 16+24+4)
	binary.LittleEndian.PutUint32(raw[16:], 28)
	return append(raw, payload...)
}

func goodFiles() map[string][]byte {
	return map[string][]byte{
		"loader/keys/auto/PK.auth": auth("ours"), "loader/keys/auto/KEK.auth": auth("ours"), "loader/keys/auto/db.auth": auth("ours"),
		"EFI/BOOT/BOOTX64.EFI": []byte("ours|"), "EFI/Linux/Holdfast_202611220104.efi": []byte("ours|usrhash=" + rootHash + " quiet"),
		"loader/loader.conf": []byte("timeout 3"),
	}
}

func inspectable(t testing.TB, files map[string][]byte) *memory {
	image := newImage(t, files)
	write(t, image, []byte("whole /usr"), imageTable(t).Partitions[4].Start)
	write(t, image, archive(t, "provider.json", `{"name": "images", "config": {"token": "hidden"}}`), seedAt)
	return image
}

func inspected(t testing.TB, image *memory, o Options) Report {
	t.Helper()
	report, err := Inspect(context.Background(), image, image.size, fakeProver{}, o)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func TestInspect_GoodImage_IsDescribedWithoutSecrets(t *testing.T) {
	key := func(variable string) Key {
		return Key{variable, "(cannot be read)", "4c0ae86b72d4dcf72cd1ed21a4ce4edb8c0c4e4d60df64f4af81b1ca1b6b96d5"}
	}
	fingerprint := hexSum([]byte("ours"))
	want := Report{
		Kind: Kind{"x86_64", "202611220104"}, Form: "disk", Variant: "release", Size: 4468019200, SectorSize: 512,
		Partitions: imageTable(t).Partitions,
		Keys:       []Key{key("PK"), key("KEK"), key("db")},
		Programs: []Signed{
			{"EFI/BOOT/BOOTX64.EFI", "hash of ours", []Key{key("db")}},
			{"EFI/Linux/Holdfast_202611220104.efi", "hash of ours", []Key{key("db")}},
		},
		Usr:  Usr{RootHash: rootHash, Signer: "ours", Valid: true, Booted: true},
		Seed: map[string]any{"provider": map[string]any{"name": "images", "config": map[string]any{"token": "(kept secret)"}}},
	}
	for i := range want.Keys {
		want.Keys[i].Fingerprint = fingerprint
	}
	for i := range want.Programs {
		want.Programs[i].Signers[0].Fingerprint = fingerprint
	}
	if diff := cmp.Diff(want, inspected(t, inspectable(t, goodFiles()), Options{})); diff != "" {
		t.Error(diff)
	}
}

// Each of these is an image that somebody should not start a machine from.
func TestInspect_ChangedImage_SaysWhatIsWrong(t *testing.T) {
	const uki = "EFI/Linux/Holdfast_202611220104.efi"
	for name, c := range map[string]struct {
		files   func(files map[string][]byte)
		image   func(m *memory)
		options Options
		want    []string
	}{
		"foreign program": {files: func(f map[string][]byte) { f["EFI/tool.efi"] = []byte("stranger|") },
			want: []string{"EFI/tool.efi is not signed by a certificate that may sign it"}},
		"no program": {files: func(f map[string][]byte) { f["EFI/tool.efi"] = []byte("text") },
			want: []string{"EFI/tool.efi: this is no PE file"}},
		"other owner": {options: Options{Trusted: [][]byte{[]byte("theirs")}},
			want: []string{"EFI/BOOT/BOOTX64.EFI is not signed by a certificate that may sign it", uki + " is not signed by a certificate that may sign it", "/usr: data does not fit the signature"}},
		"test": {files: func(f map[string][]byte) {
			f[uki] = []byte("ours|usrhash=" + rootHash + " holdfast.variant=test")
		},
			want: []string{uki + " is the variant for tests: everybody who can reach such a node's firmware can look inside"}},
		"other usr": {files: func(f map[string][]byte) { f[uki] = []byte("ours|usrhash=" + strings.Repeat("a", 64)) },
			want: []string{"/usr has root hash " + rootHash + ", and the UKI asks for " + strings.Repeat("a", 64) + ": it will not start"}},
		"two UKIs": {files: func(f map[string][]byte) { f["EFI/Linux/a.efi"] = []byte("ours|usrhash=" + rootHash) },
			want: []string{"EFI/Linux/a.efi is not that of release 202611220104", "the ESP has 2 UKIs, one is expected"}},
		"no key": {files: func(f map[string][]byte) { delete(f, "loader/keys/auto/KEK.auth") },
			want: []string{"the ESP has no loader/keys/auto/KEK.auth: Secure Boot cannot be set up from it"}},
		"key cut off": {files: func(f map[string][]byte) { f["loader/keys/auto/PK.auth"] = make([]byte, 20) },
			want: []string{"reading the keys of PK: the update is cut off"}},
		"key's size": {files: func(f map[string][]byte) {
			f["loader/keys/auto/PK.auth"] = bytes.Repeat([]byte{0xff}, 100)
		},
			want: []string{"reading the keys of PK: the update has a signature of an impossible size"}},
		"changed usr": {image: func(m *memory) { write(t, m, []byte("other"), 2320515072) },
			want: []string{"/usr: data does not fit the signature"}},
		"seed": {image: func(m *memory) { write(t, m, archive(t, "install.yaml", "forse: 1"), seedAt) },
			want: []string{"seed: install.yaml:1: forse: there is no such field: known are version, force_install, force_install_confirmation, force_reboot, security, target"}},
	} {
		files := goodFiles()
		if c.files != nil {
			c.files(files)
		}
		image := inspectable(t, files)
		if c.image != nil {
			c.image(image)
		}
		if diff := cmp.Diff(c.want, inspected(t, image, c.options).Problems); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestInspect_Quick_LeavesUsrUnread(t *testing.T) {
	image := inspectable(t, goodFiles())
	write(t, image, []byte("other"), 2320515072)
	if got := inspected(t, image, Options{Quick: true}); got.Usr != (Usr{}) || got.Problems != nil {
		t.Errorf("got %+v", got)
	}
}

// slim is inspectable with a small slot, so that hashing it takes no time.
func slim(t testing.TB, files map[string][]byte) *memory {
	t.Helper()
	image := inspectable(t, files)
	table := slimTable(t)
	head, _, err := table.render(image.size)
	if err != nil {
		t.Fatal(err)
	}
	write(t, image, head, 0)
	return image
}

func slimTable(t testing.TB) Table {
	table := imageTable(t)
	table.Partitions[3].Size, table.Partitions[4].Size = 64<<10, 1<<20
	return table
}

// manifest is that of the release in slim.
func manifest(t *testing.T, image *memory) release.Manifest {
	m := release.Manifest{Format: "1", Version: testVersion, Architecture: "x86_64"}
	for _, p := range []struct {
		name   string
		kind   release.Type
		number int
	}{{"usr", release.TypeUpdateUsr, 5}, {"verity", release.TypeUpdateUsrVerity, 4}, {"sig", release.TypeUpdateUsrSignature, 3}} {
		at, _ := slimTable(t).Find(p.number)
		at.Size /= 2 // a release leaves out the zeros at the end
		sum, err := hashOf(context.Background(), io.NewSectionReader(image, at.Start, at.Size))
		if err != nil {
			t.Fatal(err)
		}
		m.Parts = append(m.Parts, release.Part{Name: p.name, Type: p.kind, Size: at.Size, SHA256: sum})
	}
	uki := goodFiles()["EFI/Linux/Holdfast_202611220104.efi"]
	return release.Manifest{Format: m.Format, Version: m.Version, Architecture: m.Architecture, Parts: append(m.Parts,
		release.Part{Name: "Holdfast_202611220104.efi", Type: release.TypeUpdateEFI, Size: int64(len(uki)), SHA256: hexSum(uki)},
		release.Part{Name: "incus.raw", Type: release.TypeApplication, Size: 1})}
}

// Whoever got an image from somebody else wants to know that only the seed was changed.
func TestCompare_ImageOfTheRelease_DiffersInNothing(t *testing.T) {
	image := slim(t, goodFiles())
	got, err := Compare(context.Background(), image, image.size, fakeProver{}, manifest(t, image))
	want := []Compared{{"usr", "partition 5", ""}, {"verity", "partition 4", ""}, {"sig", "partition 3", ""},
		{"Holdfast_202611220104.efi", "EFI/Linux/Holdfast_202611220104.efi", ""}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v: %s", err, diff)
	}
}

func TestCompare_ChangedImage_NamesThePart(t *testing.T) {
	m := manifest(t, slim(t, goodFiles()))
	m.Parts[0].Size = 5
	m.Parts[2].Size = 1 << 20
	files := goodFiles()
	files["EFI/Linux/Holdfast_202611220104.efi"][0] = 'O'
	files["loader/addons/x.addon.efi"] = []byte("more")
	files["loader/credentials/root.cred"] = []byte("more")
	image := slim(t, files)
	write(t, image, []byte("other tree"), 2253406208)
	got, err := Compare(context.Background(), image, image.size, fakeProver{}, m)
	if err != nil {
		t.Fatal(err)
	}
	problems := map[string]string{}
	for _, c := range got {
		problems[c.Name], _, _ = strings.Cut(c.Problem, " is ")
	}
	foreign := "it has the certificate " + hexSum([]byte("ours")) + ", which did not sign the UKI of the release"
	want := map[string]string{"verity": "its SHA-256", "sig": "it has 16384 bytes, the release says 1048576", "Holdfast_202611220104.efi": "its SHA-256",
		"usr": "something lies behind the 5 bytes of the release",
		// Who signed a UKI that is not the release's says nothing.
		"EFI/BOOT/BOOTX64.EFI": "it", "loader/keys/auto/PK.auth": foreign, "loader/keys/auto/KEK.auth": foreign, "loader/keys/auto/db.auth": foreign,
		"loader/addons/x.addon.efi": "the release does not have this file", "loader/credentials/root.cred": "the release does not have this file"}
	if diff := cmp.Diff(want, problems); diff != "" {
		t.Error(diff)
	}
	m.Version = "202611230104"
	if _, err := Compare(context.Background(), image, image.size, fakeProver{}, m); err == nil {
		t.Error("another release was compared")
	}
	m.Version, m.Parts = testVersion, m.Parts[:1]
	if _, err := Compare(context.Background(), image, image.size, fakeProver{}, m); err == nil {
		t.Error("half a manifest was compared")
	}
}

// Keys that the first start enrols, and a boot loader that they let in, are all of Secure
// Boot: an image with foreign ones is not the release, whatever else it has.
func TestCompare_ForeignBootFiles_AreDifferences(t *testing.T) {
	const conf = "loader/loader.conf"
	theirs := "it has the certificate " + hexSum([]byte("theirs")) + ", which did not sign the UKI of the release"
	for name, c := range map[string]struct {
		file, content string
		want          []string
	}{
		"as released":      {"loader/random-seed", "x", nil},
		"foreign loader":   {"EFI/BOOT/BOOTX64.EFI", "theirs|", []string{"EFI/BOOT/BOOTX64.EFI: it is not signed by who signed the UKI of the release"}},
		"another loader":   {"EFI/systemd/systemd-bootx64.efi", "theirs|", []string{"EFI/systemd/systemd-bootx64.efi: it is not signed by who signed the UKI of the release"}},
		"no program":       {"EFI/BOOT/BOOTX64.EFI", "text", []string{"EFI/BOOT/BOOTX64.EFI: it cannot be read as a boot loader: this is no PE file"}},
		"kernel as loader": {"EFI/BOOT/BOOTX64.EFI", "ours|init=/bin/sh", []string{"EFI/BOOT/BOOTX64.EFI: it is a kernel in the place of the boot loader"}},
		"foreign PK":       {"loader/keys/auto/PK.auth", string(auth("theirs")), []string{"loader/keys/auto/PK.auth: " + theirs}},
		"foreign KEK":      {"loader/keys/auto/KEK.auth", string(auth("theirs")), []string{"loader/keys/auto/KEK.auth: " + theirs}},
		"foreign db":       {"loader/keys/auto/db.auth", string(auth("theirs")), []string{"loader/keys/auto/db.auth: " + theirs}},
		"cut db":           {"loader/keys/auto/db.auth", "x", []string{"loader/keys/auto/db.auth: its keys cannot be read: the update is cut off"}},
		"more keys":        {"loader/keys/auto/dbx.auth", "x", []string{"loader/keys/auto/dbx.auth: the release does not have this file"}},
		"keys by hand":     {"keys/theirs.der", "theirs", []string{"keys/theirs.der: the release does not have this file"}},
		"other looks":      {conf, "#timeout 3\n\nconsole-mode keep\n", nil},
		"enrols":           {conf, "timeout 3\nsecure-boot-enroll force\n", []string{conf + `: line 2 sets "secure-boot-enroll", which the release does not`}},
	} {
		files := goodFiles()
		files[c.file] = []byte(c.content)
		image := slim(t, files)
		got, err := Compare(context.Background(), image, image.size, fakeProver{}, manifest(t, image))
		if err != nil {
			t.Fatal(err)
		}
		var problems []string
		for _, one := range got {
			if one.Problem != "" {
				problems = append(problems, one.Place+": "+one.Problem)
			}
		}
		if diff := cmp.Diff(c.want, problems); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// Whatever is on the ESP and in the seed, there is a report or an error, and soon.
func FuzzInspect(f *testing.F) {
	image := inspectable(f, goodFiles())
	esp, seed := fatImage(goodFiles()), archive(f, "install.json", "{}")
	f.Add(esp, seed)
	f.Fuzz(func(t *testing.T, esp, seed []byte) {
		changed := image.copyOf()
		write(t, changed, esp[:min(len(esp), 1<<20)], 1<<20)
		write(t, changed, seed[:min(len(seed), 1<<20)], seedAt)
		inspected(t, changed, Options{Quick: true})
	})
}
