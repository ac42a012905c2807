package efi

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A hash among the keys lets one program start that nobody has signed: who looks for
// certificates alone would not see it.
func TestParseOnlyCertificates_OtherList_IsRefused(t *testing.T) {
	list := func(kind [16]byte, content string) []byte {
		raw := slices.Concat(kind[:], make([]byte, 12+16), []byte(content))
		binary.LittleEndian.PutUint32(raw[16:], uint32(len(raw)))
		binary.LittleEndian.PutUint32(raw[24:], uint32(16+len(content)))
		return raw
	}
	certificates := slices.Concat(list(certX509, "first"), list(certX509, "second"))
	got, err := ParseOnlyCertificates(certificates)
	if diff := cmp.Diff([][]byte{[]byte("first"), []byte("second")}, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	_, err = ParseOnlyCertificates(slices.Concat(certificates, list([16]byte{1}, "a hash")))
	if err == nil || err.Error() != "signature list 3 has no certificates, but something else that would be trusted" {
		t.Errorf("got %v", err)
	}
	if _, err := ParseOnlyCertificates(certificates[:40]); err == nil {
		t.Error("half a list was taken")
	}
}
