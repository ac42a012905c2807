package release

import (
	"crypto/x509"
	"time"

	"github.com/holdfast-os/holdfast/internal/smime"
)

// ParseCA reads one or more PEM certificates: the anchors of Verify.
func ParseCA(text []byte) ([]*x509.Certificate, error) { return smime.ParseCA(text) }

// Verify is smime.Verify: every refusal is ErrUntrusted.
func Verify(data []byte, anchors []*x509.Certificate, now time.Time) ([]byte, error) {
	return smime.Verify(data, anchors, now)
}
