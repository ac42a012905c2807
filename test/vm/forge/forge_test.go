package forge

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/rsa"
	"crypto/sha256"
	"debug/pe"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/smallstep/pkcs7"
)

var made = time.Date(2026, 11, 22, 2, 0, 0, 0, time.UTC)

func newPair(t *testing.T, name string) Pair {
	t.Helper()
	pair, err := NewPair(name, made)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// program is the smallest EFI program: a header, one section, and signatures.
func program(signatures string) []byte {
	var b bytes.Buffer
	dos := make([]byte, 128)
	copy(dos, "MZ")
	binary.LittleEndian.PutUint32(dos[0x3c:], 128)
	b.Write(dos)
	b.WriteString("PE\x00\x00")
	write := func(v any) { _ = binary.Write(&b, binary.LittleEndian, v) } // memory does not fail
	write(pe.FileHeader{Machine: pe.IMAGE_FILE_MACHINE_AMD64, NumberOfSections: 1, SizeOfOptionalHeader: 240, Characteristics: 2})
	header := pe.OptionalHeader64{Magic: 0x20b, SizeOfHeaders: 512, NumberOfRvaAndSizes: 16, Subsystem: 10}
	if signatures != "" {
		header.DataDirectory[4] = pe.DataDirectory{VirtualAddress: 1024, Size: uint32(len(signatures))}
	}
	write(header)
	name := [8]uint8{'.', 't', 'e', 'x', 't'}
	write(pe.SectionHeader32{Name: name, VirtualSize: 512, VirtualAddress: 4096, SizeOfRawData: 512, PointerToRawData: 512})
	b.Write(make([]byte, 512-b.Len()))
	b.Write(bytes.Repeat([]byte{0x90}, 512))
	b.WriteString(signatures)
	return b.Bytes()
}

// The test with a foreign key means something only if nothing but the signature differs.
func TestUnsigned_SignedProgram_LosesTheSignatureAlone(t *testing.T) {
	got, err := Unsigned(program("signed!!"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, program("")) {
		t.Error("it is not the program that was signed")
	}
}

func TestUnsigned_NoProgramOrNoSignature_IsAnError(t *testing.T) {
	for name, input := range map[string][]byte{
		"text": []byte("no program"), "unsigned": program(""), "more behind the signatures": append(program("signed!!"), 0),
	} {
		if _, err := Unsigned(input); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

// ddi is an image with a table and a signature partition of 16 KiB at 1 MiB.
func ddi(t *testing.T) string {
	t.Helper()
	image := make([]byte, 2<<20)
	header := image[512:]
	copy(header, "EFI PART")
	binary.LittleEndian.PutUint64(header[72:], 2)
	binary.LittleEndian.PutUint32(header[80:], 128)
	binary.LittleEndian.PutUint32(header[84:], 128)
	entry := image[1024+128:]
	copy(entry, veritySignature[:])
	binary.LittleEndian.PutUint64(entry[32:], 2048)
	binary.LittleEndian.PutUint64(entry[40:], 2048+31)
	copy(image[1<<20:], `{"rootHash":"abcd","certificateFingerprint":"00","signature":"AAAA"}`)
	path := filepath.Join(t.TempDir(), "app.raw")
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The foreign image must carry a signature that is right, by a key that is not ours.
func TestResignImage_ApplicationImage_IsRightlySignedByTheOther(t *testing.T) {
	path, pair := ddi(t), newPair(t, "theirs")
	if err := ResignImage(path, pair); err != nil {
		t.Fatal(err)
	}
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var content verityJSON
	if err := json.Unmarshal(bytes.TrimRight(image[1<<20:1<<20+16384], "\x00"), &content); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(pair.Cert.Raw)
	want := verityJSON{RootHash: "abcd", Fingerprint: hex.EncodeToString(sum[:]), Signature: content.Signature}
	if diff := cmp.Diff(want, content); diff != "" {
		t.Error(diff)
	}
	signature, err := pkcs7.Parse(content.Signature)
	if err != nil {
		t.Fatal(err)
	}
	signature.Content = []byte("abcd")
	signature.Certificates = append(signature.Certificates, pair.Cert)
	if err := signature.Verify(); err != nil {
		t.Errorf("the signature does not hold: %v", err)
	}
}

func TestResignImage_NoTable_IsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "app.raw")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ResignImage(path, newPair(t, "any")); err == nil {
		t.Error("an empty file was signed")
	}
}

// Tests put a disk back by flipping the byte once more.
func TestFlipByte_Twice_IsAsBefore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte{1, 2, 3}, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, want := range [][]byte{{1, 0xfd, 3}, {1, 2, 3}} {
		if err := FlipByte(path, 1); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("got %v, %v, want %v", got, err, want)
		}
	}
	if err := FlipByte(path, 3); err == nil {
		t.Error("a byte behind the end was changed")
	}
}

// Incus takes an image only with its metadata first and an init that can be started.
func TestContainer_OneProgram_IsUnderEveryName(t *testing.T) {
	var image bytes.Buffer
	if err := Container(&image, []byte("ELF"), made, "cat"); err != nil {
		t.Fatal(err)
	}
	unpacked, err := gzip.NewReader(&image)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	first := ""
	for archive := tar.NewReader(unpacked); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		if first == "" {
			first = header.Name
		}
		if header.Typeflag != tar.TypeDir {
			got[header.Name] = header.Linkname + string(content)
		}
	}
	want := map[string]string{
		"metadata.yaml":    "architecture: x86_64\ncreation_date: 1795312800\nproperties:\n  description: a container of the tests\n  os: none\n",
		"rootfs/sbin/init": "ELF", "rootfs/bin/cat": "../sbin/init",
	}
	if diff := cmp.Diff(want, got); diff != "" || first != "metadata.yaml" {
		t.Errorf("first is %q; %s", first, diff)
	}
}

// The pair that the build signs with is read from PEM files.
func TestReadPair_WrittenPair_IsTheSame(t *testing.T) {
	pair, dir := newPair(t, "any"), t.TempDir()
	key, cert := filepath.Join(dir, "k"), filepath.Join(dir, "c")
	if err := WritePEM(pair, key, cert); err != nil {
		t.Fatal(err)
	}
	got, err := ReadPair(key, cert)
	if err != nil {
		t.Fatal(err)
	}
	if !got.Cert.Equal(pair.Cert) || !got.Key.Public().(*rsa.PublicKey).Equal(pair.Key.Public()) {
		t.Error("the pair is another one")
	}
}

func TestFind_TextAnywhereInThePart_IsFoundAndNotOutsideOfIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	const length = 3 << 20
	for _, at := range []int64{100, 1<<20 + 98, length - 4} { // begin, over the border of two pieces, end
		content := make([]byte, length)
		copy(content[at:], "here")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := Find(path, 100, length-100, []byte("here")); err != nil || got != at {
			t.Errorf("text at %d: got %d, %v", at, got, err)
		}
		if got, err := Find(path, at+1, length-at-1, []byte("here")); err == nil {
			t.Errorf("text before the part was found at %d", got)
		}
	}
}
