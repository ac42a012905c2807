package daemon

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/change"
	"github.com/holdfast-os/holdfast/internal/imageauth"
	"github.com/holdfast-os/holdfast/internal/operationscenter"
	"github.com/holdfast-os/holdfast/internal/state"
)

// registrations is the document "provider": who knows this node.
type registrations struct {
	// Manager is the one that the node belongs to; empty for none.
	Manager operationscenter.Membership `json:"manager"`
	// Left is the one that the node has moved away from. Nobody can tell a manager, so that
	// one knows the node still, and going back there is no new registration.
	Left operationscenter.Membership `json:"left"`
	// Distrust are certificates (PEM) that the primary application is still to forget.
	Distrust []string `json:"distrust"`
	// Images is the image server that knows the node; empty for none.
	Images imageRegistration `json:"images"`
}

// imageRegistration is a server's knowledge of a key.
type imageRegistration struct {
	// Server is its base URL, as in server_url.
	Server string `json:"server"`
	// Key is the SHA-256 of the public key, hexadecimal.
	Key string `json:"key"`
}

var registrationsDocument = state.Document{Name: "provider", Version: 1}

// How long after a failure the work in the background is tried again.
const (
	firstPause = 30 * time.Second
	lastPause  = 15 * time.Minute
)

// load reads the document, once.
func (p *Provider) load() (registrations, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.docs != nil {
		return p.kept, nil
	}
	docs, err := p.o.Documents()
	if err != nil {
		return registrations{}, err
	}
	var kept registrations
	found, err := docs.Load(registrationsDocument, &kept)
	if err != nil {
		return registrations{}, err
	}
	if found.Damage != nil {
		p.o.Log.Error("state document damaged, its last copy is used", "document", registrationsDocument.Name, "error", found.Damage)
	}
	p.docs, p.kept = docs, kept
	return kept, nil
}

// registrations is the document as it was read.
func (p *Provider) registrations() registrations {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.kept
}

// save keeps the document on disk first, and in memory only when that worked.
func (p *Provider) save(next registrations) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.docs.Save(registrationsDocument, next); err != nil {
		return fmt.Errorf("keeping to whom the node belongs: %w", err)
	}
	p.kept = next
	return nil
}

// join makes the node known to its manager. The membership is kept before anything else is
// done with it: a manager registers a node once, and refuses it after that.
func (p *Provider) join(ctx context.Context, made inUse, show func() (*tls.Certificate, error)) error {
	if made.server == "local" {
		show = nil
	}
	if err := clientCertificate(show); err != nil {
		return fmt.Errorf("%w: registering with %s: %w", ErrConflict, made.server, err)
	}
	self, err := p.o.Hands.Self(ctx)
	kept := p.registrations()
	if kept.Left.Server == made.server {
		// What was taken back must be had again, also while the manager cannot be reached.
		if err != nil || !refused(made.client.Report(ctx, self.ConnectionURL, operationscenter.CauseNone)) {
			return p.belong(kept.Left)
		}
	}
	if err != nil {
		return providerError(fmt.Errorf("registering with %s: %w", made.server, err))
	}
	membership, err := made.client.Register(ctx, kept.Manager, self)
	if err != nil {
		return providerError(err)
	}
	return p.belong(membership)
}

// belong keeps a membership.
func (p *Provider) belong(to operationscenter.Membership) error {
	kept := p.registrations()
	kept.Manager, kept.Left = to, operationscenter.Membership{}
	kept.Distrust = slices.DeleteFunc(slices.Clone(kept.Distrust), func(c string) bool { return c == to.Certificate })
	return p.save(kept)
}

// refused is true when a manager has said no, and another try will not help.
func refused(err error) bool {
	var refusal *operationscenter.Refusal
	return errors.As(err, &refusal) && refusal.Code < 500
}

// providerError gives a failed registration the daemon's name for it.
func providerError(err error) error {
	var refusal *operationscenter.Refusal
	switch {
	case errors.Is(err, operationscenter.ErrOtherManager), errors.As(err, &refusal) && refusal.Code == 409:
		return fmt.Errorf("%w: %w", ErrConflict, err)
	case refused(err), errors.Is(err, operationscenter.ErrNoAddress), errors.Is(err, imageauth.ErrRefused):
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return err
}

// leave takes the node away from its manager, if it has one.
func (p *Provider) leave() error {
	kept := p.registrations()
	if !kept.Manager.Registered() {
		return nil
	}
	departure := operationscenter.Leave(kept.Manager)
	kept.Left, kept.Manager = kept.Manager, departure.Membership
	if departure.Distrust != "" {
		kept.Distrust = append(slices.Clone(kept.Distrust), departure.Distrust)
	}
	if err := p.save(kept); err != nil {
		return err
	}
	p.trusted = ""
	p.mu.Lock()
	p.warning = departure.Warning
	p.mu.Unlock()
	p.o.Log.Warn("the node has left its manager", "warning", departure.Warning)
	p.o.Tell("warning", "provider: "+departure.Warning)
	return nil
}

// settle has the primary application trust the manager's certificate, and those of others no
// more. A restored or emptied application does not know it, so each start does this anew.
func (p *Provider) settle(ctx context.Context) error {
	kept := p.registrations()
	if granted := kept.Manager.Certificate; granted != "" && p.trusted != granted {
		if err := p.o.Hands.Trust(ctx, granted, true); err != nil {
			return fmt.Errorf("letting %s in: %w", kept.Manager.Server, err)
		}
		p.trusted = granted
	}
	for len(kept.Distrust) > 0 {
		if err := p.o.Hands.Trust(ctx, kept.Distrust[0], false); err != nil {
			return fmt.Errorf("taking back the trust in a manager that the node has left: %w", err)
		}
		kept.Distrust = slices.Clone(kept.Distrust[1:])
		if err := p.save(kept); err != nil {
			return err
		}
	}
	return nil
}

// introduce makes the node's key known to its image server, unless it is.
func (p *Provider) introduce(ctx context.Context, made inUse) error {
	if made.prover == nil {
		return nil
	}
	choice, kept := readProvider(made.config), p.registrations()
	sum := sha256.Sum256([]byte(made.prover.PublicKey))
	wanted := imageRegistration{Server: choice.Servers[0], Key: hex.EncodeToString(sum[:])}
	if kept.Images == wanted {
		return nil
	}
	if err := made.prover.Register(ctx, made.prover.Doer, wanted.Server, choice.Token, choice.Mode); err != nil {
		return providerError(err)
	}
	kept.Images = wanted
	return p.save(kept)
}

// ProviderChange changes the section "provider" on behalf of the node itself; what is a
// short reason.
type ProviderChange func(ctx context.Context, next osapi.ProviderConfig, what string) error

// Run reports to the manager, and does what the start has left to be done, until ctx ends.
// It is to run once.
func (p *Provider) Run(ctx context.Context, change ProviderChange) {
	reporting := make(chan struct{})
	go func() {
		defer close(reporting)
		p.reporter.Run(ctx)
	}()
	defer func() { <-reporting }()
	pause := firstPause
	for ctx.Err() == nil {
		err := p.work(ctx, change)
		p.failed(err)
		var again <-chan time.Time
		if err != nil {
			again, pause = p.o.After(pause), min(2*pause, lastPause)
		} else {
			pause = firstPause
		}
		select {
		case <-p.wake:
		case <-again:
		case <-ctx.Done():
		}
	}
}

// poke has Run look at once.
func (p *Provider) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// failed remembers how the work in the background goes, and tells of what is new.
func (p *Provider) failed(err error) {
	p.mu.Lock()
	was := p.failure
	p.failure = err
	p.mu.Unlock()
	if err == nil || (was != nil && was.Error() == err.Error()) || errors.Is(err, context.Canceled) || errors.Is(err, change.ErrBusy) {
		return
	}
	p.o.Log.Warn("the provider", "error", err)
	p.o.Tell("warning", "provider: "+err.Error())
}

func (p *Provider) work(ctx context.Context, change ProviderChange) error {
	if err := p.catchUp(ctx); err != nil {
		return err
	}
	return p.unpin(ctx, change)
}

// catchUp does what could not be done before.
func (p *Provider) catchUp(ctx context.Context) error {
	p.applying.Lock()
	defer p.applying.Unlock()
	if !p.begun {
		return nil // the section was not applied yet; Apply wakes this again
	}
	if now := p.inUse(); now.broken != nil {
		made, err := p.take(ctx, now.config)
		if err != nil {
			return err
		}
		p.use(made)
	}
	now := p.inUse()
	if err := p.introduce(ctx, now); err != nil {
		return err
	}
	p.mu.Lock()
	up := p.up
	p.mu.Unlock()
	if !up {
		return nil // the primary application may have no certificate yet, and takes none
	}
	if now.client != nil && !p.registrations().Manager.Registered() {
		if err := p.join(ctx, now, p.o.Hands.Center().ClientCertificate); err != nil {
			return err
		}
		p.reporter.Report(operationscenter.CauseReady)
	}
	return p.settle(ctx)
}

// unpin takes a certificate out of the configuration that does not hold any more, while the
// system's own vouch for the manager.
func (p *Provider) unpin(ctx context.Context, change ProviderChange) error {
	now := p.inUse()
	if now.client == nil || !now.client.PinDropped() {
		return nil
	}
	next := now.config
	next.Config = maps.Clone(next.Config)
	delete(next.Config, operationscenter.KeyServerCertificate)
	if err := change(ctx, next, "the pinned certificate of the Operations Center does not hold"); err != nil {
		return fmt.Errorf("removing the pinned certificate of %s, which it has replaced: %w", now.server, err)
	}
	p.o.Tell("warning", "provider: "+now.server+" has another certificate than the pinned one, which the system vouches for: the pin is removed")
	return nil
}

// send tells the manager once.
func (p *Provider) send(ctx context.Context, cause operationscenter.Cause) error {
	now := p.inUse()
	if now.client == nil || !p.registrations().Manager.Registered() {
		return nil // nobody to tell; whoever comes gets a report of its own
	}
	self, err := p.o.Hands.Self(ctx)
	if err != nil {
		return fmt.Errorf("reporting %q to %s: %w", cause, now.server, err)
	}
	err = now.client.Report(ctx, self.ConnectionURL, cause)
	if now.client.PinDropped() {
		p.poke()
	}
	return err
}

// Report tells the manager in the background, if there is one. CauseReady also says that the
// primary application runs from now on.
func (p *Provider) Report(cause operationscenter.Cause) {
	p.mu.Lock()
	managed := p.now.client != nil
	p.up = p.up || cause == operationscenter.CauseReady
	p.mu.Unlock()
	if managed {
		p.reporter.Report(cause)
	}
	p.poke() // something has changed, and with it what did not work may
}

// Leaving tells the manager at once that the node goes down, in one try.
func (p *Provider) Leaving(ctx context.Context, cause operationscenter.Cause) error {
	if p.inUse().client == nil {
		return nil
	}
	return p.reporter.Now(ctx, cause)
}

// Manager is the certificate (PEM) of the manager that the node belongs to; empty for none.
func (p *Provider) Manager() string { return p.registrations().Manager.Certificate }

// Prover is who the node is for image servers.
func (p *Provider) Prover(ctx context.Context) (Prover, error) { return p.o.Hands.Prover(ctx) }

// changeProvider is a ProviderChange.
func (d *Daemon) changeProvider(ctx context.Context, next osapi.ProviderConfig, what string) error {
	raw, err := json.Marshal(next)
	if err != nil {
		return fmt.Errorf("encoding the configuration: %w", err)
	}
	_, err = d.changes.Apply(ctx, change.Request{Origin: change.Origin{Who: "local", What: what}, Sections: map[string]json.RawMessage{sectionProvider: raw}})
	return err
}
