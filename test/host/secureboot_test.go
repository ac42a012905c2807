//go:build linux

package host

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/pcr"
	"github.com/holdfast-os/holdfast/internal/secureboot"
	"github.com/holdfast-os/holdfast/internal/system/efi"
	"github.com/holdfast-os/holdfast/internal/system/pe"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/tooltree"
	"github.com/holdfast-os/holdfast/internal/system/tpm"
	"github.com/holdfast-os/holdfast/test/needs"
)

// efiOwner is the owner of entries, as the tools write it and as it is stored.
const efiOwner = "04030201-0605-0807-090a-0b0c0d0e0f10"

var storedOwner = [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}

// keyFiles makes a key and its certificate, and keeps both in dir.
func keyFiles(t *testing.T, dir, name string, serial int64) secureboot.Signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	for suffix, block := range map[string]pem.Block{
		".key": {Type: "PRIVATE KEY", Bytes: private}, ".crt": {Type: "CERTIFICATE", Bytes: der}, ".pub": {Type: "PUBLIC KEY", Bytes: public},
	} {
		writeFile(t, filepath.Join(dir, name+suffix), string(pem.EncodeToMemory(&block)))
	}
	return secureboot.Signer{Key: key, Certificate: cert}
}

// mustRun runs a program of the tools tree that has to succeed.
func mustRun(t *testing.T, tree tooltree.Tree, name string, args ...string) string {
	t.Helper()
	out, err := runTool(t, tree.Command(name, args...))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A mistake in the hash of a program would let dbx revoke a release that runs, and bind a
// disk to a value that never comes. sbsign and sbverify have their own arithmetic.
func TestPE_SignedBySbsign_HasItsHashAndSigner(t *testing.T) {
	tree := needs.Tree(t, "sbsign", "sbverify", "sbattach")
	dir := t.TempDir()
	signer := keyFiles(t, dir, "signer", 1)
	loader := tree.File("usr/lib/systemd/boot/efi/systemd-bootx64.efi")
	if _, err := os.Stat(loader); err != nil {
		needs.MissingBuild(t, "in the tools tree: "+err.Error())
	}
	unsigned, err := pe.ReadFile(loader)
	if err != nil {
		t.Fatal(err)
	}
	if len(unsigned.Signatures) > 0 || unsigned.Machine != 0x8664 || !slices.ContainsFunc(unsigned.Sections, func(s pe.Section) bool { return s.Name == ".sbat" }) {
		t.Errorf("got %+v", unsigned)
	}
	out := filepath.Join(dir, "signed.efi")
	mustRun(t, tree, "sbsign", "--key", filepath.Join(dir, "signer.key"), "--cert", filepath.Join(dir, "signer.crt"), "--output", out, loader)
	signed, err := pe.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	// sbsign puts the hash that it worked out into the signature, and reading compares it.
	if diff := cmp.Diff([]pe.Signature{{Chain: [][]byte{signer.Certificate.Raw}}}, signed.Signatures); diff != "" {
		t.Error(diff)
	}
	if info, err := os.Stat(loader); err != nil || info.Size()%8 == 0 && signed.SHA256 != unsigned.SHA256 {
		t.Errorf("signing changed the hash: %v", err)
	}
	raw, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)/2] ^= 1
	changed := filepath.Join(dir, "changed.efi")
	writeFile(t, changed, string(raw))
	_, sbverify := runTool(t, tree.Command("sbverify", "--cert", filepath.Join(dir, "signer.crt"), changed))
	if _, err := pe.ReadFile(changed); err == nil || sbverify == nil {
		t.Errorf("a changed program: %v; sbverify: %v", err, sbverify)
	}
}

// Updates come from publishers who use efitools, and machines read ours with other
// firmware than that of our tests.
func TestAuth_MadeByEfitools_IsTheSameUpdate(t *testing.T) {
	tree := needs.Tree(t, "cert-to-efi-sig-list", "sign-efi-sig-list")
	dir := t.TempDir()
	kek, next := keyFiles(t, dir, "kek", 1), keyFiles(t, dir, "next", 2)
	in := func(name string) string { return filepath.Join(dir, name) }
	at := time.Date(2026, 11, 22, 10, 20, 30, 0, time.UTC)
	mustRun(t, tree, "cert-to-efi-sig-list", "-g", efiOwner, in("next.crt"), in("next.esl"))
	list, err := os.ReadFile(in("next.esl"))
	if err != nil {
		t.Fatal(err)
	}
	ours, err := secureboot.Sign(kek, secureboot.DB, storedOwner, next.Certificate.Raw, at)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasSuffix(ours.Raw, list) {
		t.Errorf("the list of efitools is % x", list[:60])
	}
	mustRun(t, tree, "sign-efi-sig-list", "-a", "-t", "2026-11-22 10:20:30", "-k", in("kek.key"), "-c", in("kek.crt"), "db", in("next.esl"), in("next.auth"))
	raw, err := os.ReadFile(in("next.auth"))
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := secureboot.ParseAuth("db_"+secureboot.Fingerprint(next.Certificate.Raw)+".auth", raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := theirs.SignedBy([][]byte{kek.Certificate.Raw}); err != nil {
		t.Error(err)
	}
	if err := theirs.SignedBy([][]byte{next.Certificate.Raw}); err == nil {
		t.Error("it is believed to be by another key")
	}
	theirs.Raw, ours.Raw = nil, nil
	if !theirs.Time.Equal(ours.Time) {
		t.Logf("efitools takes the time for local time: %s", theirs.Time)
		theirs.Time = ours.Time
	}
	if diff := cmp.Diff(ours, theirs); diff != "" {
		t.Error(diff)
	}
}

// What this program signs, openssl verifies: over the bytes that the specification of UEFI
// names, written down here once more.
func TestAuth_MadeHere_IsVerifiedByOpenssl(t *testing.T) {
	tree := needs.Tree(t, "openssl")
	dir := t.TempDir()
	kek, next := keyFiles(t, dir, "kek", 1), keyFiles(t, dir, "next", 2)
	auth, err := secureboot.Sign(kek, secureboot.DBX, storedOwner, next.Certificate.Raw, time.Date(2026, 11, 22, 10, 20, 30, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	end := 16 + int(auth.Raw[16]) + int(auth.Raw[17])<<8
	const vendor, attributes = "cbb219d73a3d9645a3bcdad00e67656f", "67000000"
	head, err := hex.DecodeString("640062007800" + vendor + attributes)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "content"), string(head)+string(auth.Raw[:16])+string(auth.Raw[end:]))
	// openssl wants the ContentInfo around SignedData that firmware does not want.
	signature := auth.Raw[40:end]
	body := append([]byte{0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02, 0xa0, 0x82, byte(len(signature) >> 8), byte(len(signature))}, signature...)
	writeFile(t, filepath.Join(dir, "p7"), string(append([]byte{0x30, 0x82, byte(len(body) >> 8), byte(len(body))}, body...)))
	verify := func(content string) error {
		_, err := runTool(t, tree.Command("openssl", "smime", "-verify", "-binary", "-inform", "DER", "-in", filepath.Join(dir, "p7"),
			"-content", content, "-CAfile", filepath.Join(dir, "kek.crt"), "-purpose", "any", "-out", os.DevNull))
		return err
	}
	if err := verify(filepath.Join(dir, "content")); err != nil {
		t.Error(err)
	}
	writeFile(t, filepath.Join(dir, "other"), "other")
	if err := verify(filepath.Join(dir, "other")); err == nil {
		t.Error("openssl verifies anything")
	}
}

// The firmware of this machine keeps its keys in the form that is read here.
func TestFirmware_OfThisMachine_CanBeRead(t *testing.T) {
	vars := efi.Vars{}
	if !vars.Available() {
		t.Skip("missing: efivarfs (this machine was not started by UEFI)")
	}
	contents, err := vars.SecureBootVariables()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"PK", "KEK", "db", "dbx"} {
		if _, err := secureboot.ParseDatabase(contents[name]); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	host := tpm.Host{Root: "/"}
	log, err := host.EventLog()
	if err != nil {
		t.Skipf("missing: the event log of a TPM: %v", err)
	}
	value, err := host.PCR(pcr.Policy)
	if err != nil {
		t.Fatal(err)
	}
	var events []pcr.Event
	for _, e := range log {
		events = append(events, pcr.Event(e))
	}
	state := pcr.SecureBoot{Variables: contents}
	if got, err := pcr.NextPolicy(events, value, state, state); err != nil || got.Next != value {
		t.Errorf("got %x, the TPM has %x, %v", got.Next, value, err)
	}
}

// pcrSignature is the file that a release brings: the value of register 11 before anything
// is measured into it, signed by some keys.
func pcrSignature(t *testing.T, by ...secureboot.Signer) string {
	t.Helper()
	zero := make([]byte, 32)
	selected, err := hex.DecodeString("0000017f" + "00000001" + "000b" + "03000800") // TPM2_PolicyPCR, one bank, SHA-256, register 11
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(zero)
	policy := sha256.Sum256(slices.Concat(zero, selected, digest[:]))
	signed := sha256.Sum256(policy[:])
	var entries []string
	for _, s := range by {
		key := s.Key.(*rsa.PrivateKey)
		signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, signed[:])
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, fmt.Sprintf(`{"pcrs":[11],"pkfp":%q,"pol":"%x","sig":%q}`,
			secureboot.Fingerprint(x509.MarshalPKCS1PublicKey(&key.PublicKey)), policy, base64.StdEncoding.EncodeToString(signature)))
	}
	return `{"sha256":[` + strings.Join(entries, ",") + `]}`
}

// unlocks tells whether systemd opens a volume with the TPM while the release's signatures
// are those, by adding a recovery key with its help. systemd looks for the signatures under
// /run alone, so it gets a /run/systemd of its own.
func unlocks(t *testing.T, tree tooltree.Tree, device, volume, signatures string) bool {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "tpm2-pcr-signature.json"), signatures)
	inner := tree.Command("systemd-cryptenroll", "--unlock-tpm2-device="+device, "--wipe-slot=recovery", "--recovery-key", volume)
	script := `mkdir -p /run/systemd && mount --bind "$1" /run/systemd || exit 77; shift; exec "$@"`
	_, err := runTool(t, run.Command{
		Name: "unshare", Args: append([]string{"--mount", "sh", "-c", script, "sh", dir, inner.Name}, inner.Args...), Env: inner.Env,
	})
	code, ran := run.ExitCode(err)
	if code == 77 {
		t.Skip("missing: the right to mount in a namespace")
	}
	if err != nil && (!ran || code != 1) {
		t.Fatal(err)
	}
	return err == nil
}

// pcrKey names a key as the UKI does.
func pcrKey(t *testing.T, dir, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name+".pub"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := secureboot.KeyFingerprint(text)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// The plans of updates stand on how systemd tries several bindings in one header. Here are
// a real TPM emulator, real headers and the real program, for every rule of Opens.
func TestOpens_SeveralBindingsInAHeader_IsWhatSystemdDoes(t *testing.T) {
	tree := needs.Tree(t, "swtpm", "systemd-cryptenroll", "cryptsetup")
	needs.Programs(t, "unshare")
	dir := t.TempDir()
	signers := map[string]secureboot.Signer{"A": keyFiles(t, dir, "A", 1), "B": keyFiles(t, dir, "B", 2)}
	state := filepath.Join(dir, "tpm")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	device, _ := bootTPM(t, tree, state)
	unlock := filepath.Join(dir, "unlock")
	writeFile(t, unlock, "the recovery key")
	// Register 7 of the emulator is zero; a binding to 1 is one to another start.
	for name, c := range map[string]struct {
		bindings string // register 7 and key of each
		signed   string // keys whose signatures the release has
		want     bool
	}{
		"its only one":                             {"0A", "A", true},
		"of another key":                           {"0A", "B", false},
		"another start's before it":                {"1A 0A", "A", true},
		"another start's behind it":                {"0A 1A", "A", true},
		"another key's before it":                  {"0B 0A", "A", false},
		"another key's and start's before it":      {"1B 0A", "A", false},
		"another key's behind it":                  {"0A 0B", "A", true},
		"another start's, then its own, both keys": {"1A 0B", "AB", true},
		"two other starts before it":               {"1A 2A 0A", "A", true},
		"only other starts'":                       {"1A 2A", "A", false},
	} {
		t.Run(name, func(t *testing.T) {
			volume := filepath.Join(t.TempDir(), "volume")
			writeFile(t, volume, "")
			if err := os.Truncate(volume, 32<<20); err != nil {
				t.Fatal(err)
			}
			mustRun(t, tree, "cryptsetup", "luksFormat", "--type=luks2", "--batch-mode", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", volume, unlock)
			var bindings []secureboot.Binding
			for _, b := range strings.Fields(c.bindings) {
				mustRun(t, tree, "systemd-cryptenroll", "--unlock-key-file="+unlock, "--tpm2-device="+device, "--tpm2-pcrlock=",
					"--tpm2-public-key="+filepath.Join(dir, b[1:]+".pub"), "--tpm2-public-key-pcrs=11",
					"--tpm2-pcrs=7:sha256="+strings.Repeat(b[:1], 64)+"+15:sha256="+strings.Repeat("0", 64), volume)
				digit := b[0] - '0'
				bindings = append(bindings, secureboot.Binding{PCR7: pcr.Value(bytes.Repeat([]byte{digit<<4 | digit}, 32)), Key: pcrKey(t, dir, b[1:])})
			}
			var by []secureboot.Signer
			for _, k := range c.signed {
				by = append(by, signers[string(k)])
			}
			section := pcrSignature(t, by...)
			keys, err := secureboot.SignedKeys([]byte(section))
			if err != nil {
				t.Fatal(err)
			}
			_, planned := secureboot.Opens(bindings, secureboot.Start{Signed: keys})
			if planned != c.want {
				t.Errorf("Opens gives %v", planned)
			}
			if got := unlocks(t, tree, device, volume, section); got != c.want {
				t.Errorf("systemd opens it: %v", got)
			}
		})
	}
}
