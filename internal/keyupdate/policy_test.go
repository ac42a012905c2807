package keyupdate_test

import (
	"bytes"
	"encoding/hex"
	"encoding/pem"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/keyupdate"
	"github.com/holdfast-os/holdfast/internal/pcr"
	"github.com/holdfast-os/holdfast/internal/secureboot"
)

// The hashes are those that systemd-cryptenroll of Debian 13 wrote into a header for this
// key. With another one no binding would be found again, and no key ever be updated.
func TestPolicyOf_Values_IsWhatSystemdSealsTo(t *testing.T) {
	key, err := os.ReadFile("testdata/policy-key.pem")
	if err != nil {
		t.Fatal(err)
	}
	same := func(b byte) pcr.Value { return pcr.Value(bytes.Repeat([]byte{b}, 32)) }
	got := map[string]string{}
	for name, b := range map[string]secureboot.Binding{"7": {PCR7: same(0x22)}, "4 and 7": {PCR7: same(0x22), PCR4: same(0x44)}} {
		policy, err := keyupdate.PolicyOf(b, key)
		if err != nil {
			t.Fatal(err)
		}
		got[name] = hex.EncodeToString(policy[:])
	}
	want := map[string]string{
		"7":       "90b3fd07426f677a88af2dc9b451fed381465c1f62d9323775b9ff5da5ba8097",
		"4 and 7": "ddb4b16f5a8f08bb8ebca1cde75cc5fdddf1823d9506e4b4181257a4c2f165ab",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestPolicyOf_NoKeyOfThatKind_IsAnError(t *testing.T) {
	for _, key := range [][]byte{nil, []byte("text"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")})} {
		if _, err := keyupdate.PolicyOf(secureboot.Binding{}, key); err == nil {
			t.Errorf("%q is taken", key)
		}
	}
}
