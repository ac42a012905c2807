package secureboot_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/secureboot"
)

// What is signed here is what the firmware checks; and what is read is what was signed.
func TestSign_Update_IsReadAndBelievedByItsSignerAlone(t *testing.T) {
	auth := update(t, "KEK", secureboot.DB, "next")
	want := secureboot.Auth{
		File: "db_" + secureboot.Fingerprint(der("next")) + ".auth", Variable: secureboot.DB,
		Certificate: der("next"), Entry: entry("next"), Time: now, Raw: auth.Raw,
	}
	if diff := cmp.Diff(want, auth); diff != "" {
		t.Error(diff)
	}
	if err := auth.SignedBy([][]byte{der("PK"), der("KEK")}); err != nil {
		t.Error(err)
	}
	if err := auth.SignedBy([][]byte{der("PK"), der("stranger")}); !errors.Is(err, secureboot.ErrNotSigned) {
		t.Errorf("got %v", err)
	}
	// The bare form: the first object of the signature is its version, no name of a type.
	if signature := auth.Raw[40:]; signature[0] != 0x30 || !bytes.Contains(signature[:10], []byte{0x02, 0x01, 0x01}) {
		t.Errorf("the signature begins with % x", signature[:10])
	}
}

// One wrong byte anywhere must not reach the firmware: some firmware is less careful.
func TestParseAuth_EachByteChanged_IsRefusedOrNotBelieved(t *testing.T) {
	auth := update(t, "KEK", secureboot.DBX, "release")
	for at := range auth.Raw {
		raw := bytes.Clone(auth.Raw)
		raw[at] ^= 0x01
		changed, err := secureboot.ParseAuth(auth.File, raw)
		if err != nil {
			continue
		}
		err = changed.SignedBy([][]byte{der("KEK")})
		// The certificates that a signature brings are not signed themselves; the key is
		// what counts. The same certificate with another name is nobody's.
		if err == nil {
			t.Errorf("byte %d can be changed", at)
		}
	}
}

func TestParseAuth_WrongForm_IsRefused(t *testing.T) {
	auth := update(t, "KEK", secureboot.DB, "next")
	two, err := secureboot.SignEnroll(keys()["KEK"], secureboot.DB, owner, [][]byte{der("next"), der("release")}, now)
	if err != nil {
		t.Fatal(err)
	}
	at := func(offset int, value ...byte) []byte {
		raw := bytes.Clone(auth.Raw)
		copy(raw[offset:], value)
		return raw
	}
	for name, c := range map[string]struct {
		file string
		raw  []byte
	}{
		"another certificate's name": {"db_" + secureboot.Fingerprint(der("release")) + ".auth", auth.Raw},
		"PK":                         {strings.Replace(auth.File, "db_", "PK_", 1), auth.Raw},
		"a folder":                   {"../" + auth.File, auth.Raw},
		"too large":                  {auth.File, append(bytes.Clone(auth.Raw), make([]byte, 8192)...)},
		"empty":                      {auth.File, nil},
		"cut off":                    {auth.File, auth.Raw[:len(auth.Raw)-1]},
		"cut off in the signature":   {auth.File, auth.Raw[:100]},
		"month 13":                   {auth.File, at(2, 13)},
		"a zone":                     {auth.File, at(12, 60)},
		"a length of 4 GB":           {auth.File, at(16, 0xff, 0xff, 0xff, 0xff)},
		"a length of 7":              {auth.File, at(16, 7, 0, 0, 0)},
		"another kind of signature":  {auth.File, at(24, 0)},
		"two certificates":           {auth.File, two},
	} {
		if _, err := secureboot.ParseAuth(c.file, c.raw); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// A file made to replace the variable would remove all other keys; firmware refuses it when
// it is written as an addition, and a person should know why before the restart.
func TestSignedBy_MadeToReplace_SaysSo(t *testing.T) {
	raw, err := secureboot.SignEnroll(keys()["KEK"], secureboot.DB, owner, [][]byte{der("next")}, now)
	if err != nil {
		t.Fatal(err)
	}
	auth, err := secureboot.ParseAuth("db_"+secureboot.Fingerprint(der("next"))+".auth", raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := auth.SignedBy([][]byte{der("KEK")}); !errors.Is(err, secureboot.ErrReplaces) {
		t.Errorf("got %v", err)
	}
}

// What firmware has no room for is not made.
func TestSign_CertificateOfNineKilobytes_IsRefused(t *testing.T) {
	template := *keys()["next"].Certificate
	template.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3, 4}, Value: make([]byte, 9<<10)}}
	large, err := x509.CreateCertificate(rand.Reader, &template, &template, keys()["next"].Key.Public(), keys()["next"].Key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := secureboot.Sign(keys()["KEK"], secureboot.DB, owner, large, now); err == nil {
		t.Error("made")
	}
}

// Firmware knows signatures of RSA keys alone, and 1024 bits are too few.
func TestSign_KeyThatFirmwareDoesNotTake_IsRefused(t *testing.T) {
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"1024 bits": small, "a curve": curve} {
		if _, err := secureboot.Sign(secureboot.Signer{Key: key, Certificate: keys()["KEK"].Certificate}, secureboot.DB, owner, der("next"), now); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
}

// A file for one variable is none for another, whatever it is called.
func TestSignedBy_RenamedForAnotherVariable_IsNotBelieved(t *testing.T) {
	auth := update(t, "KEK", secureboot.DB, "next")
	renamed, err := secureboot.ParseAuth(strings.Replace(auth.File, "db_", "dbx_", 1), auth.Raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := renamed.SignedBy([][]byte{der("KEK")}); err == nil {
		t.Error("believed")
	}
}

type member struct {
	name string
	data []byte
	kind byte
}

func archiveOf(t *testing.T, members ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		kind := m.kind
		if kind == 0 {
			kind = tar.TypeReg
		}
		header := &tar.Header{Name: m.name, Size: int64(len(m.data)), Mode: 0o644, Typeflag: kind}
		if kind == tar.TypeSymlink {
			header.Linkname = "/etc/shadow"
		}
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(m.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zipped(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// KEK lets in db, and db must have the next key before dbx takes the old one, in whatever
// order the archive was made.
func TestReadArchive_PlainOrPacked_IsInTheOrderOfWriting(t *testing.T) {
	kek, db, dbx := update(t, "PK", secureboot.KEK, "next"), update(t, "KEK", secureboot.DB, "next"), update(t, "KEK", secureboot.DBX, "stranger")
	plain := archiveOf(t, member{name: "./", kind: tar.TypeDir}, member{name: "./" + dbx.File, data: dbx.Raw},
		member{name: "README", data: []byte("no update")}, member{name: db.File, data: db.Raw}, member{name: kek.File, data: kek.Raw})
	for name, data := range map[string][]byte{"plain": plain, "packed": zipped(t, plain)} {
		archive, err := secureboot.ReadArchive(bytes.NewReader(data))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var got []string
		for _, a := range archive {
			got = append(got, a.File)
		}
		if diff := cmp.Diff([]string{kek.File, db.File, dbx.File}, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestReadArchive_WrongForm_IsRefusedAsAWhole(t *testing.T) {
	good := update(t, "KEK", secureboot.DB, "next")
	fine := member{name: good.File, data: good.Raw}
	many := []member{fine}
	for i := range 64 {
		many = append(many, member{name: fmt.Sprintf("file%d", i)})
	}
	for name, data := range map[string][]byte{
		"nothing":              nil,
		"no tar":               []byte("this is no tar archive, and has less than a block of one"),
		"no update in it":      archiveOf(t, member{name: "README"}),
		"a path up":            archiveOf(t, fine, member{name: "../" + good.File, data: good.Raw}),
		"an absolute path":     archiveOf(t, fine, member{name: "/" + good.File, data: good.Raw}),
		"a path up and back":   archiveOf(t, member{name: "x/../" + good.File, data: good.Raw}),
		"a folder":             archiveOf(t, fine, member{name: "keys/" + good.File, data: good.Raw}),
		"a file in a folder":   archiveOf(t, fine, member{name: "docs/README"}),
		"a link":               archiveOf(t, fine, member{name: "README", kind: tar.TypeSymlink}),
		"a device":             archiveOf(t, fine, member{name: "README", kind: tar.TypeBlock}),
		"twice":                archiveOf(t, fine, fine),
		"twice by letters":     archiveOf(t, fine, member{name: "db_" + strings.ToUpper(good.File[3:67]) + ".auth", data: good.Raw}),
		"65 entries":           archiveOf(t, many...),
		"a file of 8193 bytes": archiveOf(t, fine, member{name: "README", data: make([]byte, 8193)}),
		"cut off":              archiveOf(t, fine)[:700],
		"packed and cut off":   zipped(t, archiveOf(t, fine))[:40],
		"a bomb":               zipped(t, append(archiveOf(t, member{name: "README"}), make([]byte, 50<<20)...)),
		"one update is wrong":  archiveOf(t, fine, member{name: "dbx_" + good.File[3:], data: good.Raw[:90]}),
	} {
		got, err := secureboot.ReadArchive(bytes.NewReader(data))
		if err == nil || got != nil {
			t.Errorf("%s: got %d updates, %v", name, len(got), err)
		}
	}
}

// The size of a header's own extensions is bounded as well.
func TestReadArchive_EndlessExtendedHeader_IsRefused(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "x", Mode: 0o600, Typeflag: tar.TypeReg, PAXRecords: map[string]string{"HOLDFAST.x": strings.Repeat("x", 900<<10)}}); err != nil {
		t.Fatal(err)
	}
	good := update(t, "KEK", secureboot.DB, "next")
	if err := w.WriteHeader(&tar.Header{Name: good.File, Size: int64(len(good.Raw)), Mode: 0o600}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(good.Raw); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"plain": b.Bytes(), "packed": zipped(t, b.Bytes())} {
		if _, err := secureboot.ReadArchive(bytes.NewReader(data)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestParseDatabase_SizesThatDoNotAddUp_AreAnError(t *testing.T) {
	good := content("release", "next")
	if d, err := secureboot.ParseDatabase(good); err != nil || !cmp.Equal(d, secureboot.Database{entry("release"), entry("next")}) {
		t.Fatalf("got %v, %v", d, err)
	}
	with := func(at int, value uint32) []byte {
		raw := bytes.Clone(good)
		binary.LittleEndian.PutUint32(raw[at:], value)
		return raw
	}
	list := func(size, each uint32, body int) []byte {
		raw := append(bytes.Clone(good[:16]), make([]byte, 12+body)...)
		binary.LittleEndian.PutUint32(raw[16:], size)
		binary.LittleEndian.PutUint32(raw[24:], each)
		return raw
	}
	for name, raw := range map[string][]byte{
		"entries of an owner alone": list(28+32, 16, 32), "entries smaller than an owner": list(28+16, 8, 16),
		"cut off": good[:len(good)-1], "a few bytes": good[:20], "size 0": with(16, 0), "size too large": with(16, 1<<31),
		"header too large": with(20, 1<<31), "signatures of 16": with(24, 16), "signatures of 0": with(24, 0), "signatures too large": with(24, 1<<31),
	} {
		if _, err := secureboot.ParseDatabase(raw); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// stored gives an update and certificates that were made once with the functions of these
// tests: a fuzzing worker would take too long to make keys. kek.der signed the update;
// release.der vouches for leaf.der.
func stored(f *testing.F) (name string, auth, kek, release, leaf []byte) {
	f.Helper()
	matches, err := filepath.Glob("testdata/db_*.auth")
	if err != nil || len(matches) != 1 {
		f.Fatalf("found %q, %v", matches, err)
	}
	var all [][]byte
	for _, path := range []string{matches[0], "testdata/kek.der", "testdata/release.der", "testdata/leaf.der"} {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		all = append(all, data)
	}
	return filepath.Base(matches[0]), all[0], all[1], all[2], all[3]
}

func FuzzParseAuth(f *testing.F) {
	name, good, kek, _, _ := stored(f)
	f.Add(name, good)
	f.Fuzz(func(t *testing.T, file string, raw []byte) {
		auth, err := secureboot.ParseAuth(file, raw)
		if err != nil {
			return
		}
		if got := secureboot.Fingerprint(auth.Certificate); !strings.EqualFold(auth.File, string(auth.Variable)+"_"+got+".auth") || len(auth.Raw) > 8192 {
			t.Errorf("%s has %s", auth.File, got)
		}
		if err := auth.SignedBy([][]byte{kek}); err == nil && !bytes.Equal(auth.Raw, good) {
			t.Errorf("a forged update is believed: %x", raw)
		}
	})
}

func FuzzParseDatabase(f *testing.F) {
	_, _, _, release, leaf := stored(f)
	image := secureboot.Image{Signatures: [][][]byte{{leaf, release}}}
	for _, kind := range []secureboot.Kind{secureboot.X509, secureboot.X509SHA256, secureboot.X509SHA384, secureboot.X509SHA512, secureboot.SHA256} {
		f.Add(secureboot.Database{{Kind: kind, Data: release}, {Kind: kind, Data: []byte("short")}}.Encode())
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := secureboot.ParseDatabase(raw)
		if err != nil {
			return
		}
		again, err := secureboot.ParseDatabase(d.Encode())
		if diff := cmp.Diff(d, again); diff != "" || err != nil {
			t.Error(diff, err)
		}
		d.Revokes(image)
		d.Authority(image)
	})
}

func FuzzReadArchive(f *testing.F) {
	name, raw, _, _, _ := stored(f)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(raw)), Mode: 0o600}); err != nil {
		f.Fatal(err)
	}
	if _, err := w.Write(raw); err != nil {
		f.Fatal(err)
	}
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, raw []byte) {
		if archive, err := secureboot.ReadArchive(bytes.NewReader(raw)); err == nil && (len(archive) == 0 || len(archive) > 64) {
			t.Errorf("%d updates", len(archive))
		}
	})
}
