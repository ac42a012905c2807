// Package operationscenter is the provider named "operations-center": a manager of many
// nodes, that a node registers with, takes its releases from, and reports to.
//
// # Parties
//
// The manager has a base URL and serves the calls below as an Incus envelope. The node
// proves who it is with the certificate of its primary application, over TLS 1.3; the
// manager proves itself with the pinned certificate, or with one that the system trusts.
// An Operations Center on the node itself is asked over its unix socket, without either.
//
//	GET  /1.0/provisioning/updates?recursion=1
//	GET  /1.0/provisioning/updates/<uuid>/files
//	GET  /1.0/provisioning/updates/<uuid>/files/<filename>
//	POST /1.0/provisioning/servers?token=<token>     or /1.0/provisioning/servers/:self_register
//	PUT  /1.0/provisioning/servers/:self
//
// # What always holds
//
//   - A node belongs to one manager at most: Membership says to which. A second one is
//     refused until the node has moved away from the first, which never fails.
//   - The token is sent to the server that it was given for, and nowhere else: no proxy,
//     no redirect, not before the server's certificate was verified. It stands in no error
//     of this package, also when the server repeats it in an answer.
//   - Nothing is read without a limit of size and time.
//   - A pin that no longer holds is dropped only when the system's certificates vouch for
//     the server and it answers like a manager. PinDropped tells, so that the caller can
//     store it.
//
// # What can fail
//
// The list of releases is not signed: whoever holds the manager can withhold releases and
// offer older ones (Latest refuses those that are older than the running one), but cannot
// make a node run a file of their own, because UKI, /usr and applications carry signatures
// that are checked when they are put to use. When the power goes between the manager's
// answer to Register and the storing of the Membership, the manager knows the node and the
// node does not know it: the manager then refuses the next registration, and its owner has
// to remove the node there.
package operationscenter

import "errors"

// Name is the provider's name in the configuration.
const Name = "operations-center"

// Socket is where an Operations Center on the node itself listens.
const Socket = "/run/operations-center/unix.socket"

// Keys of the provider's configuration.
const (
	// KeyServerURL is the manager's base URL, https.
	KeyServerURL = "server_url"
	// KeyServerToken lets the node register; it is a secret.
	KeyServerToken = "server_token"
	// KeyServerCertificate pins the manager's certificate, PEM; empty for one that the
	// system trusts.
	KeyServerCertificate = "server_certificate"
)

// Cause says why a node reports itself.
type Cause string

// The causes. The daemon sends those up to CauseShutdown; the manager knows the others too.
const (
	CauseNone               Cause = ""
	CauseNetworkConfig      Cause = "network-config-changed"
	CauseReady              Cause = "system-is-ready"
	CauseUpdateApplied      Cause = "os-update-applied"
	CauseApplicationApplied Cause = "application-update-applied"
	CauseStorageConfig      Cause = "storage-config-changed"
	CauseReboot             Cause = "system-reboot-triggered"
	CauseShutdown           Cause = "system-shutdown-triggered"
	CauseNetworkState       Cause = "network-interface-state-changed"
	CauseSecureBootApplied  Cause = "secure-boot-update-applied"
	CauseSuspend            Cause = "suspend-triggered"
)

// Valid is true for a cause of the list above.
func (c Cause) Valid() bool {
	switch c {
	case CauseNone, CauseNetworkConfig, CauseReady, CauseUpdateApplied, CauseApplicationApplied, CauseStorageConfig,
		CauseReboot, CauseShutdown, CauseNetworkState, CauseSecureBootApplied, CauseSuspend:
		return true
	}
	return false
}

// Errors of this package; those of what a server serves are of package release.
var (
	// ErrOtherManager: the node belongs to another manager.
	ErrOtherManager = errors.New("the node belongs to another manager")
	// ErrCertificate: the server's certificate is not the pinned one.
	ErrCertificate = errors.New("the server's certificate is not the pinned one")
	// ErrNoAddress: the node has no address that a manager could reach it at.
	ErrNoAddress = errors.New("no address for a manager to connect to")
)
