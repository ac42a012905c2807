//go:build linux

package host

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/release"
	"github.com/holdfast-os/holdfast/internal/sign"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/sysext"
	"github.com/holdfast-os/holdfast/internal/system/tooltree"
	"github.com/holdfast-os/holdfast/test/needs"
)

// tokenPIN holds a character that a URI must encode.
const tokenPIN = "47 11"

// token is a SoftHSM token with a fresh RSA key, seen by the tools tree as the build
// sees it: what is in dir on this computer is in /run/token there.
type token struct {
	t      *testing.T
	dir    string
	uri    string // names the key and the file with the PIN
	script string // sources image/steps/lib.sh
}

func newToken(t *testing.T) token {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("missing: root, to enter the tools tree")
	}
	tree := needs.Tree(t, "openssl", "softhsm2-util", "pkcs11-tool", "sbverify", "systemd-repart")
	for _, name := range []string{softHSM, "/usr/lib/x86_64-linux-gnu/ossl-modules/pkcs11.so", "/usr/lib/systemd/systemd-sbsign"} {
		if _, err := os.Stat(tree.File(name)); err != nil {
			needs.MissingBuild(t, "in the tools tree: "+name)
		}
	}
	cache, err := tooltree.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir, root := t.TempDir(), repository(t)
	pin := filepath.Join(t.TempDir(), "pin")
	writeFile(t, pin, tokenPIN+"\n")
	for name, content := range softHSMFiles {
		writeFile(t, filepath.Join(dir, name), content)
	}
	if err := os.Mkdir(filepath.Join(dir, "tokens"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOLDFAST_ROOT", root)
	t.Setenv("HOLDFAST_CACHE", cache)
	t.Setenv("HOLDFAST_TOKEN", dir)
	to := token{t: t, dir: dir, script: ". " + filepath.Join(root, "image/steps/lib.sh") + "\n",
		uri: "pkcs11:token=holdfast;object=signer;type=private?pin-source=file:" + pin}
	to.step(`
		softhsm2-util --init-token --free --label holdfast --so-pin 123456 --pin "$(cat /run/pin)"
		pkcs11-tool --module "$PKCS11_PROVIDER_MODULE" --token-label holdfast --login --pin "$(cat /run/pin)" \
			--keypairgen --key-type rsa:2048 --id 01 --label signer
		openssl req -x509 -new -sha256 -provider pkcs11 -provider default -key "$key" -subj /CN=token -days 2 -out /run/token/signer.crt`)
	return to
}

const softHSM = "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so"

// softHSMFiles are the ones of docs/how-to/sign-with-a-token.md.
var softHSMFiles = map[string]string{
	"environment":   "PKCS11_PROVIDER_MODULE=" + softHSM + "\nSOFTHSM2_CONF=/run/token/softhsm2.conf\nOPENSSL_CONF=/run/token/openssl.cnf\n",
	"softhsm2.conf": "directories.tokendir = /run/token/tokens\nobjectstore.backend = file\nlog.level = ERROR\n",
	"openssl.cnf": "openssl_conf = main\n[main]\nproviders = providers\n[providers]\ndefault = ours\npkcs11 = token\n" +
		"[ours]\nactivate = 1\n[token]\npkcs11-module-quirks = no-deinit\n",
}

// repository is the top of it.
func repository(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// step runs a script as a build step does: in the tools tree, in the token's folder,
// with the token's URI as $key and its PIN in /run/pin.
func (to token) step(script string) string {
	to.t.Helper()
	out, err := runTool(to.t, run.Command{Name: "bash", Args: []string{"-c",
		to.script + `take_pin "$1"; in_tools bash -euc "$2" step "$token_key"`, "step", to.uri, "cd /run/token; key=$1\n" + script}})
	if err != nil {
		to.t.Fatalf("%v\n%s", err, out)
	}
	return out
}

// run is a Runner for programs of the tools tree; the PIN is what lib.sh knows of uri.
func (to token) run(ctx context.Context, c run.Command) (run.Result, error) {
	line := append([]string{"-c", to.script + `take_pin "$1"; shift; in_tools "$@"`, "run", to.uri}, c.Env...)
	c.Args, c.Name, c.Env = append(append(line, c.Name), c.Args...), "bash", nil
	return run.Host(ctx, c)
}

func (to token) read(name string) []byte {
	to.t.Helper()
	data, err := os.ReadFile(filepath.Join(to.dir, name))
	if err != nil {
		to.t.Fatal(err)
	}
	return data
}

func (to token) certificate() *x509.Certificate {
	to.t.Helper()
	block, _ := pem.Decode(to.read("signer.crt"))
	if block == nil {
		to.t.Fatal("signer.crt holds no PEM")
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		to.t.Fatal(err)
	}
	return certificate
}

// A publisher whose key never leaves a token makes trees that every node accepts; and
// the PIN may lie in a file or in the URI.
func TestToken_SignsAReleaseIndex_WhichANodeVerifies(t *testing.T) {
	to := newToken(t)
	anchors, err := release.ParseCA(to.read("signer.crt"))
	if err != nil {
		t.Fatal(err)
	}
	const index = "{\n  \"format\": \"1.0\"\n}\n"
	for _, pin := range []string{"pin-source=file:/run/pin", "pin-value=47%2011"} {
		signer := sign.OpenSSL{Run: to.run, Key: "pkcs11:token=holdfast;object=signer;type=private?" + pin,
			Certificate: "/run/token/signer.crt", Module: softHSM}
		message, err := signer.SignSMIME(t.Context(), []byte(index))
		if err != nil {
			t.Fatalf("%s: %v", pin, err)
		}
		got, err := release.Verify(message, anchors, time.Now())
		if diff := cmp.Diff(index, string(got)); err != nil || diff != "" {
			t.Errorf("%s: %v %s", pin, err, diff)
		}
	}
}

// The keys of the trusted metadata stay in a token: openssl signs what a node verifies.
func TestToken_SignsTrustedMetadata_WithAKeyOnP256(t *testing.T) {
	to := newToken(t)
	to.step(`pkcs11-tool --module "$PKCS11_PROVIDER_MODULE" --token-label holdfast --login --pin "$(cat /run/pin)" \
		--keypairgen --key-type EC:prime256v1 --id 02 --label metadata`)
	key, err := sign.OpenKey(t.Context(), sign.OpenSSL{Run: to.run, Module: softHSM,
		Key: "pkcs11:token=holdfast;object=metadata;type=private?pin-source=file:/run/pin"})
	if err != nil {
		t.Fatal(err)
	}
	public, ok := key.Public().(*ecdsa.PublicKey)
	if !ok {
		t.Fatalf("the key is of the kind %T", key.Public())
	}
	message := []byte(`{"_type":"timestamp"}`)
	signature, err := key.Sign(t.Context(), message)
	sum := sha256.Sum256(message)
	if err != nil || !ecdsa.VerifyASN1(public, sum[:], signature) {
		t.Errorf("%x, %v", signature, err)
	}
}

// A wrong PIN is found in many logs, and it often is the right one of another token.
func TestToken_WithTheWrongPIN_IsRefusedWithoutNamingIt(t *testing.T) {
	to := newToken(t)
	signer := sign.OpenSSL{Run: to.run, Key: "pkcs11:token=holdfast;object=signer;type=private?pin-value=98765",
		Certificate: "/run/token/signer.crt", Module: softHSM}
	_, err := signer.SignSMIME(t.Context(), []byte("{}"))
	var failed *run.Error
	if !errors.As(err, &failed) || strings.Contains(err.Error(), "98765") {
		t.Errorf("got %v, want openssl's error without the PIN", err)
	}
}

// Firmware starts systemd-boot only with a signature that its db certificate explains.
func TestToken_SignsAnEFIProgram_WhichVerifiesAsFirmwareDoes(t *testing.T) {
	to := newToken(t)
	got := to.step(`/usr/lib/systemd/systemd-sbsign sign --private-key "$key" --private-key-source=provider:pkcs11 \
		--certificate signer.crt --output boot.efi /usr/lib/systemd/boot/efi/systemd-bootx64.efi >/dev/null
		sbverify --cert signer.crt boot.efi`)
	if diff := cmp.Diff("Signature verification OK\n", got); diff != "" {
		t.Error(diff)
	}
}

// The kernel loads ZFS only with a signature of the db certificate behind the module.
func TestToken_SignsAKernelModule_WithATrailerThatTheKernelReads(t *testing.T) {
	to := newToken(t)
	found, err := filepath.Glob(filepath.Join(os.Getenv("HOLDFAST_CACHE"), "zfs", "*", "sign-file"))
	if err != nil || len(found) == 0 {
		needs.MissingBuild(t, "zfs/*/sign-file in "+os.Getenv("HOLDFAST_CACHE"))
	}
	module := bytes.Repeat([]byte("module\n"), 1000)
	writeFile(t, filepath.Join(to.dir, "a.ko"), string(module))
	to.step(`program=$(ls /srv/cache/zfs/*/sign-file | head -n 1); "$program" sha256 "$key" signer.crt a.ko`)

	signed, ok := bytes.CutSuffix(to.read("a.ko"), []byte("~Module signature appended~\n"))
	if !ok || len(signed) < len(module)+12 {
		t.Fatal("the module has no signature behind it")
	}
	signed, trailer := signed[:len(signed)-12], signed[len(signed)-12:]
	length := binary.BigEndian.Uint32(trailer[8:])
	if diff := cmp.Diff([]byte{0, 0, 2, 0, 0, 0, 0, 0}, trailer[:8]); diff != "" || int(length) != len(signed)-len(module) {
		t.Fatalf("trailer % x over %d bytes of signature: %s", trailer, len(signed)-len(module), diff)
	}
	writeFile(t, filepath.Join(to.dir, "module"), string(module))
	writeFile(t, filepath.Join(to.dir, "signature"), string(signed[len(module):]))
	got := to.step(`openssl cms -verify -binary -inform DER -in signature -content module -certfile signer.crt \
		-CAfile signer.crt -purpose any -out verified 2>&1`)
	if diff := cmp.Diff("CMS Verification successful\n", got); diff != "" {
		t.Error(diff)
	}
}

// A node merges an application only when its verity tree is signed by a trusted key.
func TestToken_SignsAnExtension_WhichANodeVerifies(t *testing.T) {
	to := newToken(t)
	to.step(`mkdir -p tree/usr/lib && cp /usr/lib/os-release tree/usr/lib/
		systemd-repart --offline=yes --empty=create --size=auto --dry-run=no --no-pager --root=tree \
			--definitions=/usr/lib/python3/dist-packages/mkosi/resources/repart/definitions/sysext.repart.d \
			--private-key="$key" --private-key-source=provider:pkcs11 --certificate=signer.crt extension.raw >/dev/null`)
	if _, err := sysext.Verify(t.Context(), filepath.Join(to.dir, "extension.raw"), [][]byte{to.certificate().Raw}); err != nil {
		t.Error(err)
	}
}

// The TPM unlocks the disk to an updated system only if the policy over its PCRs is
// signed by the key that the installed one names.
func TestToken_SignsThePCRPolicy_WhichTheTPMsKeyVerifies(t *testing.T) {
	to := newToken(t)
	out := to.step(`printf kernel >kernel
		/usr/lib/systemd/systemd-measure sign --linux=kernel --bank=sha256 --private-key="$key" \
			--private-key-source=provider:pkcs11 --certificate=signer.crt`)
	var policies struct {
		SHA256 []struct {
			Pol string `json:"pol"`
			Sig []byte `json:"sig"`
		} `json:"sha256"`
	}
	if err := json.Unmarshal([]byte(out), &policies); err != nil || len(policies.SHA256) == 0 {
		t.Fatalf("%v: %s", err, out)
	}
	public := to.certificate().PublicKey.(*rsa.PublicKey)
	for _, policy := range policies.SHA256 {
		digest, err := hex.DecodeString(policy.Pol)
		if err != nil {
			t.Fatal(err)
		}
		hash := sha256.Sum256(digest)
		if err := rsa.VerifyPKCS1v15(public, crypto.SHA256, hash[:], policy.Sig); err != nil {
			t.Errorf("policy %s: %v", policy.Pol, err)
		}
	}
}

// The arguments of the programs that the build starts are seen by everyone on the
// computer and end in its log, so the PIN leaves the URI first.
func TestTakePIN_OfEachKindOfURI_LeavesNoPINInIt(t *testing.T) {
	file := filepath.Join(t.TempDir(), "my pin")
	writeFile(t, file, "12 34\n")
	encoded := strings.ReplaceAll(file, " ", "%20")
	for name, c := range map[string]struct{ uri, want string }{
		"no PIN":            {"pkcs11:object=a", "pkcs11:object=a PIN=\n"},
		"value":             {"pkcs11:object=a?pin-value=12%2034", "pkcs11:object=a?pin-source=file:/run/pin PIN=12 34\n"},
		"file":              {"pkcs11:object=a?pin-source=file:" + encoded, "pkcs11:object=a?pin-source=file:/run/pin PIN=12 34\n"},
		"path":              {"pkcs11:object=a?pin-source=" + encoded, "pkcs11:object=a?pin-source=file:/run/pin PIN=12 34\n"},
		"with other things": {"pkcs11:id=%01?module-name=m&pin-value=1&x=2", "pkcs11:id=%01?pin-source=file:/run/pin&module-name=m&x=2 PIN=1\n"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := runTool(t, run.Command{Name: "bash", Args: []string{"-c",
				". " + filepath.Join(repository(t), "image/steps/lib.sh") + `; take_pin "$1"; echo "$token_key PIN=${HOLDFAST_PIN:-}"`, "take", c.uri}})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
