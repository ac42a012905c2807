package sign_test

import (
	"context"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/sign"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

// A publisher's key in a token must be reached through openssl's provider, and a
// key in a file must not drag a provider in that is not installed.
func TestSignSMIME_ByKindOfKey_AsksOpenSSLTheRightWay(t *testing.T) {
	cases := map[string]struct {
		signer sign.OpenSSL
		args   string
		env    []string
		secret bool
	}{
		"file": {
			signer: sign.OpenSSL{Key: "/k.pem", Certificate: "/c.pem", Chain: "/chain.pem"},
			args:   "smime -sign -text -md sha256 -signer /c.pem -inkey /k.pem -certfile /chain.pem",
		},
		"token": {
			signer: sign.OpenSSL{Key: "pkcs11:object=update", Certificate: "/c.pem", Module: "/m.so"},
			args:   "smime -sign -text -md sha256 -signer /c.pem -provider pkcs11 -provider default -inkey pkcs11:object=update",
			env:    []string{"PKCS11_PROVIDER_MODULE=/m.so", "PKCS11_MODULE_PATH=/m.so"},
			secret: true,
		},
		"token, PIN in a file": {
			signer: sign.OpenSSL{Key: "pkcs11:object=update?pin-source=file:/pin", Certificate: "/c.pem"},
			args:   "smime -sign -text -md sha256 -signer /c.pem -provider pkcs11 -provider default -inkey pkcs11:object=update?pin-source=file:/pin",
			secret: true,
		},
		// Arguments are seen by everyone on the computer, and openssl puts a URI into its messages.
		"token, PIN in the URI": {
			signer: sign.OpenSSL{Key: "pkcs11:object=update?pin-value=12%2034+5&module-name=m", Certificate: "/c.pem"},
			args:   "smime -sign -text -md sha256 -signer /c.pem -provider pkcs11 -provider default -passin env:HOLDFAST_TOKEN_PIN -inkey pkcs11:object=update?module-name=m",
			env:    []string{"HOLDFAST_TOKEN_PIN=12 34+5"},
			secret: true,
		},
		"token behind an engine": {
			signer: sign.OpenSSL{Key: "pkcs11:object=update", Certificate: "/c.pem", Engine: true},
			args:   "smime -sign -text -md sha256 -signer /c.pem -engine pkcs11 -keyform engine -inkey pkcs11:object=update",
			secret: true,
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var got run.Command
			var input string
			c.signer.Run = func(_ context.Context, command run.Command) (run.Result, error) {
				got = command
				data, err := io.ReadAll(command.Stdin)
				input = string(data)
				return run.Result{Stdout: []byte("Content-Type: multipart/signed; ...")}, err
			}
			if _, err := c.signer.SignSMIME(t.Context(), []byte("{}")); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.args, strings.Join(got.Args, " ")); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(c.env, got.Env); diff != "" {
				t.Error(diff)
			}
			if input != "{}" || got.Name != "openssl" || got.Secret != c.secret {
				t.Errorf("program %q, input %q, secret %v", got.Name, input, got.Secret)
			}
		})
	}
}

// Without a key a tree would be published unsigned, and every node would refuse it.
func TestSignSMIME_WithoutKey_Refuses(t *testing.T) {
	_, err := sign.OpenSSL{}.SignSMIME(t.Context(), []byte("{}"))
	if err == nil || err.Error() != "signing: a key and its certificate are needed" {
		t.Errorf("got %v", err)
	}
}

// The message of a wrong URI is read aloud in meetings and kept in logs: the PIN is not in it.
func TestSignSMIME_PINThatCannotBeDecoded_RefusesWithoutNamingIt(t *testing.T) {
	for uri, want := range map[string]string{
		"pkcs11:object=update?pin-value=4711%2":  "signing: reading the PIN in the key's URI: a % must be followed by two hexadecimal digits",
		"pkcs11:object=update?pin-value=4711%00": "signing: reading the PIN in the key's URI: it holds a zero byte",
	} {
		_, err := sign.OpenSSL{Key: uri, Certificate: "/c.pem"}.SignSMIME(t.Context(), []byte("{}"))
		if err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", uri, err, want)
		}
	}
}
