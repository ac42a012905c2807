package tpmkey

import (
	"errors"
	"testing"
)

// Whatever lies in the file, it is a key or it is damaged.
func FuzzParse(f *testing.F) {
	f.Add([]byte("HOLDFAST-TPM-KEY-1\n\x00\x01a\x00\x01b"))
	f.Fuzz(func(t *testing.T, text []byte) {
		found, err := parse(text)
		if err == nil {
			_, err = found.publicKey()
		}
		if err != nil && !errors.Is(err, ErrDamaged) {
			t.Errorf("%q: %v", text, err)
		}
	})
}
