package lab

import (
	"fmt"
	"strings"
)

// Endpoint is the API of the machine as seen from this computer.
func (s state) endpoint() string { return fmt.Sprintf("https://127.0.0.1:%d", s.APIPort) }

// envFile is the content of the file env: KEY=VALUE lines with absolute paths, for
// a shell (`set -a; . .lab/NAME/env`) and for the client.
func envFile(d dir, s state) string {
	return strings.Join([]string{
		"HOLDFAST_ENDPOINT=" + s.endpoint(),
		"HOLDFAST_CERT=" + d.file("client.crt"),
		"HOLDFAST_KEY=" + d.file("client.key"),
		"HOLDFAST_SERVER_CERT=" + d.file("server.crt"),
		"",
	}, "\n")
}
