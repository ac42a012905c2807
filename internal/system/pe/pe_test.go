package pe_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/foxboron/go-uefi/authenticode"
	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/system/pe"
)

// program is a PE file in its pieces, so that a test can say which of them are hashed.
type program struct {
	beforeChecksum, checksum, beforeDirectory, directory, afterDirectory string
	sections                                                             []string
	behind                                                               string
	signatures                                                           string
}

func (p program) bytes() []byte {
	return []byte(p.beforeChecksum + p.checksum + p.beforeDirectory + p.directory + p.tail() + p.signatures)
}

func (p program) tail() string { return p.afterDirectory + strings.Join(p.sections, "") + p.behind }

// hashed is what the specification of Authenticode says is hashed.
func (p program) hashed() string { return p.beforeChecksum + p.beforeDirectory + p.tail() }

func le32(n int) string { return string(binary.LittleEndian.AppendUint32(nil, uint32(n))) }
func le16(n int) string { return string(binary.LittleEndian.AppendUint16(nil, uint16(n))) }

type part struct {
	name, data string
	size       int
}

// build makes a PE32+ file for x86-64.
func build(parts ...part) program {
	const headers = 1024
	dos := "MZ" + strings.Repeat("\x00", 58) + le32(64)
	coff := "PE\x00\x00" + le16(0x8664) + le16(len(parts)) + strings.Repeat("\x00", 12) + le16(240) + le16(0x22)
	optional := le16(0x20b) + strings.Repeat("\x00", 58) + le32(headers)
	p := program{
		beforeChecksum: dos + coff + optional, checksum: "sum!",
		beforeDirectory: strings.Repeat("\x00", 40) + le32(16) + strings.Repeat("\x00", 32), directory: le32(0) + le32(0),
	}
	table, offset := strings.Repeat("\x00", 88), headers
	for _, s := range parts {
		name := s.name + strings.Repeat("\x00", 8-len(s.name))
		table += name + le32(s.size) + le32(0x1000) + le32(len(s.data)) + le32(offset) + strings.Repeat("\x00", 16)
		p.sections = append(p.sections, s.data)
		offset += len(s.data)
	}
	p.afterDirectory = table + strings.Repeat("h", headers-len(dos+coff+optional)-4-76-8-len(table))
	return p
}

func sample() program {
	return build(part{".text", strings.Repeat("code", 128), 500}, part{".linux", "a kernel, padded", 8})
}

// sign gives the file with signatures over what it was given.
func (p program) sign(signatures ...[]byte) program {
	p.signatures = ""
	for _, s := range signatures {
		p.signatures += le32(8+len(s)) + le16(0x0200) + le16(2) + string(s)
		p.signatures += strings.Repeat("\x00", (8-len(p.signatures)%8)%8)
	}
	end := len(p.bytes()) - len(p.signatures)
	p.directory = le32(end) + le32(len(p.signatures))
	return p
}

type signer struct {
	key  *rsa.PrivateKey
	cert *x509.Certificate
}

var signers = sync.OnceValue(func() (all [2]signer) {
	for i := range all {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: "signer"},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			panic(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			panic(err)
		}
		all[i] = signer{key, cert}
	}
	return all
})

// over signs a file's hash. The signature is made by another library than the one that
// reads it.
func (s signer) over(content string) []byte {
	der, err := authenticode.SignAuthenticode(s.key, s.cert, strings.NewReader(content), crypto.SHA256)
	if err != nil {
		panic(err)
	}
	return der
}

func read(p program) (pe.Image, error) {
	raw := p.bytes()
	return pe.Read(bytes.NewReader(raw), int64(len(raw)))
}

// The hash is what the firmware measures and compares with dbx: neither the checksum nor
// the signatures may change it, and everything else must.
func TestRead_Program_HashesAllButChecksumAndSignatures(t *testing.T) {
	behind := sample()
	behind.behind = "odd tail" // as tools leave it
	odd := sample()
	odd.behind = "odd" // no multiple of 8: nothing is added
	other := sample()
	other.checksum = "mus?"
	for name, p := range map[string]program{
		"plain": sample(), "bytes behind": behind, "an odd length": odd, "another checksum": other, "no sections": build(),
		"signed": sample().sign(signers()[0].over(sample().hashed())),
	} {
		got, err := read(p)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if want := sha256.Sum256([]byte(p.hashed())); got.SHA256 != want {
			t.Errorf("%s: got %x, want %x", name, got.SHA256, want)
		}
	}
}

func TestRead_Program_GivesSectionsAndSigners(t *testing.T) {
	a, b := signers()[0], signers()[1]
	got, err := read(sample().sign(a.over(sample().hashed()), b.over(sample().hashed())))
	if err != nil {
		t.Fatal(err)
	}
	want := pe.Image{
		SHA256: sha256.Sum256([]byte(sample().hashed())), Machine: 0x8664,
		Sections:   []pe.Section{{Name: ".text", Size: 500, Offset: 1024, Stored: 512}, {Name: ".linux", Size: 8, Offset: 1536, Stored: 16}},
		Signatures: []pe.Signature{{Chain: [][]byte{a.cert.Raw}}, {Chain: [][]byte{b.cert.Raw}}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The stub starts the kernel out of a section, and the firmware measures it as a file of
// its own: as long as the section is in memory, not as it is padded in the file.
func TestReadPayload_Section_IsReadAsAFile(t *testing.T) {
	kernel := string(build(part{".text", "the kernel's code", 17}).bytes())
	uki := build(part{".linux", kernel + strings.Repeat("\x00", 512-len(kernel)%512), len(kernel)}, part{".big", "x", 5})
	path := filepath.Join(t.TempDir(), "uki.efi")
	if err := os.WriteFile(path, uki.bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := pe.ReadPayload(path, ".linux")
	if want := sha256.Sum256([]byte(build(part{".text", "the kernel's code", 17}).hashed())); err != nil || got.SHA256 != want {
		t.Errorf("got %x, want %x, %v", got.SHA256, want, err)
	}
	if data, err := pe.ReadSection(path, ".linux", 4096); err != nil || string(data) != kernel {
		t.Errorf("got %d bytes, %v", len(data), err)
	}
	if _, err := pe.ReadSection(path, ".linux", 100); err == nil {
		t.Error("more than the limit is read")
	}
	for _, name := range []string{".initrd", ".big"} {
		if _, err := pe.ReadSection(path, name, 4096); err == nil {
			t.Errorf("%s is read", name)
		}
	}
}

// A program that was changed after it was signed is not signed.
func TestRead_SignatureOfAnotherFile_IsRefused(t *testing.T) {
	good := signers()[0].over(sample().hashed())
	broken := bytes.Clone(good)
	broken[len(broken)-1] ^= 1
	huge := sample().sign(good)
	huge.signatures = le32(0x7fffffff) + huge.signatures[4:]
	for name, p := range map[string]program{
		"another file's":           sample().sign(signers()[0].over("another file")),
		"one bit wrong":            sample().sign(broken),
		"the second is of another": sample().sign(good, signers()[1].over("another file")),
		"no PKCS#7":                sample().sign([]byte("sixteen bytes...")),
		"empty":                    sample().sign(nil),
		"too long":                 huge,
		"seventeen":                sample().sign(good, good, good, good, good, good, good, good, good, good, good, good, good, good, good, good, good),
	} {
		if _, err := read(p); !errors.Is(err, pe.ErrSignature) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestRead_LayoutThatFirmwareReadsInDifferentWays_IsRefused(t *testing.T) {
	raw := sample().sign(signers()[0].over(sample().hashed())).bytes()
	const table = 64 + 24 + 240
	with := func(at int, value uint32) []byte {
		changed := bytes.Clone(raw)
		binary.LittleEndian.PutUint32(changed[at:], value)
		return changed
	}
	for name, changed := range map[string][]byte{
		"sections overlap":              with(table+40+20, 1100),
		"a section in the headers":      with(table+20, 512),
		"a section beyond the end":      with(table+40+16, 1<<30),
		"headers beyond the end":        with(64+24+60, 1<<20),
		"headers shorter than they are": with(64+24+60, 100),
		"signatures before the end":     with(64+24+144, 1536),
		"bytes behind the signatures":   append(bytes.Clone(raw), 0),
		"97 sections":                   with(64+4, 0x8664|97<<16),
		"an unknown optional header":    with(64+24, 0x107),
	} {
		if _, err := pe.Read(bytes.NewReader(changed), int64(len(changed))); err == nil {
			t.Errorf("%s: read", name)
		}
	}
	for name, text := range map[string]string{"empty": "", "text": strings.Repeat("text", 100), "a header far away": "MZ" + strings.Repeat("\xff", 100)} {
		if _, err := pe.Read(strings.NewReader(text), int64(len(text))); !errors.Is(err, pe.ErrNotPE) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := pe.ReadFile(t.TempDir()); err == nil {
		t.Error("a folder is read")
	}
}

// The ESP can be written by anybody with a screwdriver: whatever is on it, reading ends.
func FuzzRead(f *testing.F) {
	f.Add(sample().bytes())
	// Made by this file's own functions once: a new key for every worker takes too long.
	signed, err := os.ReadFile("testdata/signed.efi")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed)
	f.Fuzz(func(t *testing.T, raw []byte) {
		image, err := pe.Read(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			return
		}
		for _, s := range image.Sections {
			if s.Stored > 0 && int64(s.Offset)+int64(s.Stored) > int64(len(raw)) {
				t.Errorf("section %q reaches beyond the file", s.Name)
			}
		}
		for _, s := range image.Signatures {
			if len(s.Chain) == 0 {
				t.Error("a signature of nobody")
			}
		}
	})
}
