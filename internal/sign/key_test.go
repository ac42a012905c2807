package sign_test

import (
	"context"
	"crypto"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/sign"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/tuf"
	"github.com/holdfast-os/holdfast/test/needs"
)

// newKey has openssl make a key.
func newKey(t *testing.T, args ...string) string {
	t.Helper()
	needs.Programs(t, "openssl")
	name := filepath.Join(t.TempDir(), "key.pem")
	if out, err := exec.Command("openssl", append([]string{"genpkey", "-out", name}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return name
}

// The metadata of a tree that openssl signed with a key that Go never saw are those that a
// node verifies.
func TestKey_EachKind_SignsMetadataThatVerify(t *testing.T) {
	for name, args := range map[string][]string{
		"ecdsa":   {"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"},
		"ed25519": {"-algorithm", "ED25519"},
		"rsa":     {"-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"},
	} {
		t.Run(name, func(t *testing.T) {
			key, err := sign.OpenKey(t.Context(), sign.OpenSSL{Key: newKey(t, args...)})
			if err != nil {
				t.Fatal(err)
			}
			dir, err := tuf.OpenDir(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			defer dir.Close()
			others, err := tuf.GenerateKeys(t.TempDir(), "root", "snapshot", "timestamp")
			if err != nil {
				t.Fatal(err)
			}
			of := func(s tuf.Signer) tuf.Role { return tuf.Role{Keys: []crypto.PublicKey{s.Public()}, Threshold: 1} }
			p := &tuf.Publisher{Store: dir, Signers: append(others, key)}
			roles := tuf.Roles{Root: of(others[0]), Targets: of(key), Snapshot: of(others[1]), Timestamp: of(others[2])}
			if err := p.Init(t.Context(), roles); err != nil {
				t.Fatal(err)
			}
			if _, err := (&tuf.Publisher{Store: dir}).Check(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A key that nodes would not take is refused before anything is signed with it.
func TestOpenKey_KindThatNoNodeTakes_IsRefused(t *testing.T) {
	for name, args := range map[string][]string{
		"P-384":    {"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"},
		"RSA 1024": {"-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"},
	} {
		if _, err := sign.OpenKey(t.Context(), sign.OpenSSL{Key: newKey(t, args...)}); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

// A token that signs with another key than it names, or not at all, does so once: the
// metadata are not written.
func TestKeySign_OtherKeysSignature_IsRefused(t *testing.T) {
	ours, other := newKey(t, "-algorithm", "ED25519"), newKey(t, "-algorithm", "ED25519")
	key, err := sign.OpenKey(t.Context(), sign.OpenSSL{Key: ours, Run: func(ctx context.Context, c run.Command) (run.Result, error) {
		if c.Args[0] == "pkeyutl" {
			c.Args[len(c.Args)-1] = other
		}
		return run.Host(ctx, c)
	}})
	if err != nil {
		t.Fatal(err)
	}
	if signature, err := key.Sign(t.Context(), []byte("metadata")); err == nil {
		t.Errorf("%d bytes were taken for a signature", len(signature))
	}
}

// What openssl is started with for a token: the library that the URI names, and a PIN that
// is in no argument.
func TestOpenKey_Token_ReachesItThroughTheProvider(t *testing.T) {
	var got run.Command
	stop := errors.New("stop")
	_, err := sign.OpenKey(t.Context(), sign.OpenSSL{
		Key: "pkcs11:token=t;object=o;type=private?module-path=/usr/lib/my%20module.so&pin-value=12%2034",
		Run: func(_ context.Context, c run.Command) (run.Result, error) { got = c; return run.Result{}, stop },
	})
	if !errors.Is(err, stop) || !got.Secret {
		t.Errorf("secret %v, %v", got.Secret, err)
	}
	want := "openssl pkey -provider pkcs11 -provider default -passin env:HOLDFAST_TOKEN_PIN -pubout -in pkcs11:token=t;object=o;type=private?module-path=/usr/lib/my%20module.so" +
		" PKCS11_PROVIDER_MODULE=/usr/lib/my module.so PKCS11_MODULE_PATH=/usr/lib/my module.so HOLDFAST_TOKEN_PIN=12 34"
	if diff := cmp.Diff(want, strings.Join(append(append([]string{got.Name}, got.Args...), got.Env...), " ")); diff != "" {
		t.Error(diff)
	}
}
