package luks

import (
	"fmt"
	"io"
	"strings"
)

// modhex is the alphabet of recovery keys: letters that lie at the same place on
// most keyboards, so that a key can be typed before a layout is loaded.
const modhex = "cbdefghijklnrtuv"

// NewRecoveryKey makes a recovery key of 256 bits in the form that
// systemd-cryptenroll prints: 8 groups of 8 letters with dashes. random is
// crypto/rand.Reader outside of tests.
func NewRecoveryKey(random io.Reader) (string, error) {
	var bits [32]byte
	if _, err := io.ReadFull(random, bits[:]); err != nil {
		return "", fmt.Errorf("making a recovery key: %w", err)
	}
	return FormatRecoveryKey(bits), nil
}

// FormatRecoveryKey writes 256 bits as a recovery key.
func FormatRecoveryKey(bits [32]byte) string {
	var text strings.Builder
	for i, b := range bits {
		if i > 0 && i%4 == 0 {
			text.WriteByte('-')
		}
		text.WriteByte(modhex[b>>4])
		text.WriteByte(modhex[b&15])
	}
	return text.String()
}
