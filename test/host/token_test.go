//go:build linux

package host

import (
	"bytes"
	"context"
	"encoding/binary"
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
	tree := needTree(t, "openssl", "softhsm2-util", "pkcs11-tool", "sbverify", "systemd-repart")
	for _, name := range []string{softHSM, "/usr/lib/x86_64-linux-gnu/ossl-modules/pkcs11.so", "/usr/lib/systemd/systemd-sbsign"} {
		if _, err := os.Stat(tree.File(name)); err != nil {
			t.Skipf("missing in the tools tree: %s", name)
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
	"environment": "PKCS11_PROVIDER_MODULE=" + softHSM + "\nSOFTHSM2_CONF=/run/token/softhsm2.conf\nOPENSSL_CONF=/run/token/openssl.cnf\n",
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

// step runs a script as a build step does: in the tools tree, with the token's URI as
// $key and its PIN in /run/pin.
func (to token) step(script string) string {
	to.t.Helper()
	out, err := runTool(to.t, run.Command{Name: "bash", Args: []string{"-c",
		to.script + `take_pin "$1"; in_tools bash -euc "key=$token_key; $2"`, "step", to.uri, "cd /run/token\n" + quoted(script)}})
	if err != nil {
		to.t.Fatalf("%v\n%s", err, out)
	}
	return out
}
