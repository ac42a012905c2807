package imageauth

import (
	"maps"
	"strings"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/config"
)

// Keys of the provider "images" that are about authentication.
const (
	// KeyToken lets the node register; a secret. Without it the server is asked without
	// authentication.
	KeyToken = "token"
	// KeyByQuery is "true" for ByQuery; default "false".
	KeyByQuery = "authentication_by_query_param"
)

const keyServerURL = "server_url"

// Check gives every problem of the keys above; others are left alone.
func Check(value osapi.ProviderConfig) config.Problems {
	var problems config.Problems
	token := value.Config[KeyToken]
	switch {
	case token == config.Secret:
		problems.Add("config."+KeyToken, "secret", "it refers to a kept token, and none is kept for this server: send the token itself")
	case len(token) > 512 || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		problems.Add("config."+KeyToken, "token", "it must be at most 512 printable characters without spaces")
	case token != "" && value.Config[keyServerURL] == "":
		problems.Add("config."+KeyToken, "together", "it is for the server of server_url, which is not set")
	}
	switch strings.ToLower(value.Config[KeyByQuery]) {
	case "", "true", "false":
	default:
		problems.Add("config."+KeyByQuery, "boolean", "%q is neither \"true\" nor \"false\"", value.Config[KeyByQuery])
	}
	return problems
}

// ModeOf is the way in which a configuration wants proofs to travel.
func ModeOf(value osapi.ProviderConfig) Mode {
	if strings.EqualFold(value.Config[KeyByQuery], "true") {
		return ByQuery
	}
	return ByHeader
}

// Hide gives a copy that may be shown, with a reference in the place of the token.
func Hide(value osapi.ProviderConfig) osapi.ProviderConfig {
	if token, there := value.Config[KeyToken]; there {
		config.Hide(&token)
		value.Config = maps.Clone(value.Config)
		value.Config[KeyToken] = token
	}
	return value
}

// Keep gives a copy with the kept token in the place of a reference to it. A token belongs
// to the server that it was given for: with another server_url a reference is a problem.
func Keep(value, kept osapi.ProviderConfig) (osapi.ProviderConfig, config.Problems) {
	token, there := value.Config[KeyToken]
	if !there {
		return value, nil
	}
	had := ""
	if kept.Name == value.Name && kept.Config[keyServerURL] == value.Config[keyServerURL] {
		had = kept.Config[KeyToken]
	}
	var problems config.Problems
	if !config.Keep(&token, had) {
		problems.Add("config."+KeyToken, "secret", "it refers to a kept token, and none is kept for this server: send the token itself")
		return value, problems
	}
	value.Config = maps.Clone(value.Config)
	value.Config[KeyToken] = token
	return value, nil
}
