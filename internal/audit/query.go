package audit

import (
	"net/url"
	"slices"
	"strings"

	"github.com/holdfast-os/holdfast/internal/config"
)

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
