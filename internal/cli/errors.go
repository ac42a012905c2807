package cli

import (
	"context"
	"crypto/x509"
	"errors"
	"io/fs"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-os/holdfast/client"
	"github.com/holdfast-os/holdfast/internal/release"
	"github.com/holdfast-os/holdfast/internal/system/room"
)

// usageError is a command line that makes no sense: exit code 2.
type usageError struct {
	err error
	try string
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usage(c *cobra.Command, err error) error {
	return &usageError{err: err, try: c.CommandPath() + " --help"}
}

// hint is an error with the way on.
type hint struct {
	err error
	try string
}

func (e *hint) Error() string { return e.err.Error() }
func (e *hint) Unwrap() error { return e.err }

func withTry(err error, try string) error {
	if err == nil {
		return nil
	}
	return &hint{err: err, try: try}
}

// wayOn is what a person can do about err; empty when nothing is known.
func wayOn(err error) string {
	var (
		wrong     *usageError
		known     *hint
		refused   *client.Error
		nothing   *client.ConnectError
		failed    *client.OperationError
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
	)
	switch {
	case errors.As(err, &wrong):
		return wrong.try
	case errors.As(err, &known):
		return known.try
	case errors.Is(err, context.Canceled):
		return ""
	case errors.Is(err, release.ErrUntrusted):
		return "--ca FILE, with the certificate that signs this tree; if it does sign it, somebody has changed the tree"
	case errors.Is(err, release.ErrPublished):
		return "holdfast image build, which makes a new version"
	case errors.Is(err, room.ErrFull):
		return "make clean removes all that was built here (not the cache); .lab holds the virtual machines"
	case errors.Is(err, client.ErrNoEndpoint):
		return "--endpoint https://NODE:8443 --cert FILE --key FILE, or holdfast lab up"
	case errors.Is(err, client.ErrServerCertificate):
		return "compare the certificate on the node's console; if it is the node's own, save it and pass it with --server-cert"
	case errors.As(err, &authority), errors.As(err, &name):
		return "--server-cert FILE, with the certificate that the node shows"
	case errors.As(err, &refused):
		return wayOnRefused(refused)
	case errors.Is(err, client.ErrNoPlans):
		return "update the node: holdfast node system update check"
	case errors.As(err, &failed):
		return "holdfast node log -n 50"
	case errors.As(err, &nothing) && strings.HasPrefix(nothing.Endpoint, "unix://"):
		return "check the path of the socket, and that holdfastd runs there (on a node: /run/incus-os/unix.socket)"
	case errors.As(err, &nothing):
		return "check that the node is on and the address is right (a lab: holdfast lab list)"
	case errors.Is(err, fs.ErrNotExist):
		return "check the path"
	}
	return ""
}

func wayOnRefused(e *client.Error) string {
	switch e.Code {
	case http.StatusUnauthorized, http.StatusForbidden:
		return "--cert and --key of a client that the node trusts"
	case http.StatusConflict:
		return wayOnBusy(e)
	case http.StatusPreconditionFailed:
		return "somebody else has changed it in the meantime: read it again, then repeat the change"
	case http.StatusNotImplemented:
		return "a newer release of the node's system may know it: holdfast node show"
	case http.StatusServiceUnavailable, http.StatusBadGateway:
		return "the node is still starting: holdfast node debug boot"
	case http.StatusInternalServerError:
		return "holdfast node log -n 50"
	}
	return ""
}

// wayOnBusy is for a node that makes another change already.
func wayOnBusy(e *client.Error) string {
	if strings.HasPrefix(e.Path, "/1.0/system/") {
		return "holdfast node config status shows what goes on; then holdfast node config confirm, or revert, or wait"
	}
	return ""
}
