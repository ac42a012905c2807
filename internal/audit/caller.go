package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/holdfast-os/holdfast/internal/config"
)

// Caller says who asks and from where, as an entry has it. via is the name of the
// application that let the request in, and empty when none did.
//
// On a TLS connection the certificate alone counts: headers are the caller's own words
// there. An application is believed what it says about the address of its caller.
func Caller(r *http.Request, via string) (who, from string) {
	switch {
	case r.TLS != nil && len(r.TLS.PeerCertificates) > 0:
		sum := sha256.Sum256(r.TLS.PeerCertificates[0].Raw)
		return "sha256:" + hex.EncodeToString(sum[:]), address(r.RemoteAddr)
	case r.TLS != nil:
		return "nobody", address(r.RemoteAddr)
	case via != "":
		// The last address is the one that the application itself has added.
		all := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
		return "application " + cut(via, maxName), address(all[len(all)-1])
	default:
		return "local", ""
	}
}

// address gives an IP address without its port; empty when it is none.
func address(text string) string {
	text = strings.TrimSpace(text)
	if with, err := netip.ParseAddrPort(text); err == nil {
		return with.Addr().Unmap().String()
	}
	if bare, err := netip.ParseAddr(text); err == nil {
		return bare.Unmap().String()
	}
	return ""
}

// secretWords in the name of a parameter keep its value out of the log.
var secretWords = []string{"password", "passphrase", "secret", "token", "key", "auth", "credential", "pin", "signature"}

// query gives the parameters of a request without secrets, in the order of their names.
func query(values url.Values) string {
	shown := url.Values{}
	for name, all := range values {
		shown[name] = slices.Clone(all)
		lower := strings.ToLower(name)
		if slices.ContainsFunc(secretWords, func(word string) bool { return strings.Contains(lower, word) }) {
			shown[name] = []string{config.Secret}
		}
	}
	return cut(shown.Encode(), maxField)
}
