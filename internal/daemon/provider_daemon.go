package daemon

import (
	"context"
	"slices"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/console"
	"github.com/holdfast-os/holdfast/internal/httpapi"
	"github.com/holdfast-os/holdfast/internal/listener"
	"github.com/holdfast-os/holdfast/internal/operationscenter"
)

// Managing is what the setting of the section "provider" is beside, where others can know
// the node; *Provider is one.
type Managing interface {
	// Run works in the background until ctx ends.
	Run(ctx context.Context, change ProviderChange)
	// Report tells the manager what happened, and returns at once.
	Report(cause operationscenter.Cause)
	// Leaving tells it at once.
	Leaving(ctx context.Context, cause operationscenter.Cause) error
	// Manager is the certificate (PEM) that it comes with; empty for none.
	Manager() string
	// Prover is who the node is for image servers.
	Prover(ctx context.Context) (Prover, error)
}

// leavingTime is how long a restart waits for the manager to be told.
const leavingTime = 2 * time.Second

// managing gives nil on a machine that nobody can know.
func (d *Daemon) managing() Managing {
	m, _ := d.machine.Provider.(Managing)
	return m
}

// startReporting lets the provider work in the background.
func (d *Daemon) startReporting() {
	if m := d.managing(); m != nil {
		go m.Run(d.lifetime, d.changeProvider)
	}
}

// report tells the manager what happened. Before the node is ready there is nobody to tell.
func (d *Daemon) report(cause operationscenter.Cause) {
	if m := d.managing(); m != nil && d.ready.Load() {
		m.Report(cause)
	}
}

// reportChange tells the manager of a change of the configuration, where it cares.
func (d *Daemon) reportChange(what string, sections []string) {
	if what != "failed" && slices.Contains(sections, sectionNetwork) {
		d.report(operationscenter.CauseNetworkConfig)
	}
}

// goingDown tells the manager that the node restarts or ends. It is short: nothing waits for
// a manager that does not answer.
func (d *Daemon) goingDown(ctx context.Context, state console.State) {
	cause, known := map[console.State]operationscenter.Cause{
		console.Rebooting: operationscenter.CauseReboot, console.PoweringOff: operationscenter.CauseShutdown,
	}[state]
	m := d.managing()
	if m == nil || !known {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, leavingTime)
	defer cancel()
	if err := m.Leaving(ctx, cause); err != nil {
		d.log.Warn("the manager was not told", "cause", cause, "error", err)
	}
}

// trustedClients are whom the fallback listener lets in: those of its configuration, and the
// manager.
func (d *Daemon) trustedClients(config osapi.FallbackListenerConfig) []listener.Fingerprint {
	if m := d.managing(); m != nil && m.Manager() != "" {
		config.TrustedClientCertificates = append(slices.Clone(config.TrustedClientCertificates), m.Manager())
	}
	return listener.Fingerprints(config)
}

// authRegistrationPost is the body of POST /internal/auth/:generate-registration.
type authRegistrationPost struct {
	// Token is what an image server's owner gave for the registration of a node; a secret.
	Token string `json:"token"`
}

// authRegistration is what an image server is told of a node that it is to know.
type authRegistration struct {
	// MachineID is the node's, 32 hexadecimal digits.
	MachineID string `json:"machine_id"`
	// Token is the one of the request.
	Token string `json:"token"`
	// PublicKey is the node's key in PEM form.
	PublicKey string `json:"public_key"`
	// Initial is a first proof that the node has the key.
	Initial string `json:"initial"`
}

func (d *Daemon) generateRegistration(r *httpapi.Request) (any, error) {
	body := httpapi.Body[authRegistrationPost](r)
	if body.Token == "" {
		return nil, httpapi.BadRequest("missing registration token")
	}
	prover, proof, err := d.prove(r.Context())
	if err != nil {
		return nil, err
	}
	return authRegistration{MachineID: prover.MachineID, Token: body.Token, PublicKey: prover.PublicKey, Initial: proof}, nil
}

func (d *Daemon) generateToken(r *httpapi.Request) (any, error) {
	_, proof, err := d.prove(r.Context())
	if err != nil {
		return nil, err
	}
	return proof, nil
}

// prove makes one proof of who the node is.
func (d *Daemon) prove(ctx context.Context) (Prover, string, error) {
	m := d.managing()
	if m == nil {
		return Prover{}, "", httpapi.NotImplemented("this machine has no key that an image server could know")
	}
	prover, err := m.Prover(ctx)
	if err != nil {
		return Prover{}, "", coded(err)
	}
	proof, err := prover.Proof()
	return prover, proof, err
}
