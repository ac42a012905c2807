package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/imageauth"
	"github.com/holdfast-os/holdfast/internal/operationscenter"
	"github.com/holdfast-os/holdfast/internal/plan"
	"github.com/holdfast-os/holdfast/internal/updater"
)

// ProviderHands is what the section "provider" needs of the machine.
type ProviderHands interface {
	// Facts say what the machine can.
	Facts(ctx context.Context) (ProviderFacts, error)
	// Images opens a release tree, and asks nobody yet. With a prover (nil: none) its first
	// server is told who asks.
	Images(choice ImagesChoice, prover *Prover) (updater.Source, error)
	// Center is what a client of an Operations Center is made with, but for URL, token,
	// pinned certificate and socket. Its client certificate is nil while there is none.
	Center() operationscenter.Options
	// Self says who the node is and where a manager reaches it.
	Self(ctx context.Context) (operationscenter.Self, error)
	// Trust has the primary application let a client with this certificate (PEM) in; with
	// false it does so no more. What is so already is no error.
	Trust(ctx context.Context, certificate string, trusted bool) error
	// Prover is who the node is for image servers.
	Prover(ctx context.Context) (Prover, error)
}

// Prover proves to an image server who the node is.
type Prover struct {
	*imageauth.Authenticator
	// MachineID is 32 hexadecimal digits; PublicKey is PEM.
	MachineID, PublicKey string
	// Doer sends the registration.
	Doer imageauth.Doer
}

// ProviderOptions are what NewProvider works with.
type ProviderOptions struct {
	// Hands are the machine's.
	Hands ProviderHands
	// Documents opens what the node keeps.
	Documents func() (Documents, error)
	// Tell shows a line to whoever stands before the machine; level is "info", "warning" or
	// "error".
	Tell func(level, text string)
	// Log gets what happens.
	Log *slog.Logger
	// After is the clock for what is tried again; default time.After.
	After func(time.Duration) <-chan time.Time
}

// Provider is the section "provider": where releases come from, and to which manager the
// node belongs.
//
// What an owner asks for is registered when it is applied, and refused when that fails. At
// the start of the node nothing waits for it: Run does what is left to do, again and again.
// Whether the node belongs to a manager is a fact of its own (registrations), and decides
// what Apply does; so it does not matter where a power cut has come in between.
type Provider struct {
	o        ProviderOptions
	reporter *operationscenter.Reporter
	wake     chan struct{}

	// applying is held by whoever changes something. begun is true once the start has
	// applied the section; trusted is the certificate that the application is known to trust.
	applying sync.Mutex
	begun    bool
	trusted  string

	mu   sync.Mutex
	docs Documents
	kept registrations
	now  inUse
	// lent is a rescue medium, which comes before any provider; nil without one.
	lent updater.Source
	// up is true once the node is ready, and its primary application runs.
	up bool
	// warning is of the last change, failure of the work in the background.
	warning string
	failure error
}

// inUse is a configuration in effect.
type inUse struct {
	config osapi.ProviderConfig
	source updater.Source
	// client and server are set when a manager is the provider, and prover when an image
	// server is to know the node.
	client *operationscenter.Client
	server string
	prover *Prover
	// broken is why the start could not use the configuration.
	broken error
}

// NewProvider makes the section. It does nothing yet.
func NewProvider(o ProviderOptions) *Provider {
	if o.After == nil {
		o.After = time.After
	}
	p := &Provider{o: o, wake: make(chan struct{}, 1)}
	p.reporter = operationscenter.NewReporter(p.send, func(ctx context.Context, d time.Duration) error {
		select {
		case <-o.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	return p
}

// Check is part of Setting. ErrConflict for a second manager: nothing is sent to it.
func (p *Provider) Check(ctx context.Context, value, kept *osapi.ProviderConfig) error {
	facts, err := p.o.Hands.Facts(ctx)
	if err != nil {
		return err
	}
	if err := CheckProvider(value, kept, facts); err != nil || value.Name != operationscenter.Name {
		return err
	}
	known, err := p.load()
	if err != nil {
		return err
	}
	return otherManager(known.Manager, serverOf(*value, facts))
}

// otherManager refuses a manager beside the one that the node belongs to.
func otherManager(is operationscenter.Membership, wanted string) error {
	if !is.Registered() || is.Server == wanted {
		return nil
	}
	return fmt.Errorf("%w: %w, %s: set the provider to %q first, which leaves it, and then to %s",
		ErrConflict, operationscenter.ErrOtherManager, is.Server, providerImages, wanted)
}

// serverOf is what a Membership calls the manager of a configuration; empty for none.
func serverOf(value osapi.ProviderConfig, facts ProviderFacts) string {
	if value.Name != operationscenter.Name {
		return ""
	}
	if facts.Local {
		return "local"
	}
	server := strings.TrimRight(value.Config[operationscenter.KeyServerURL], "/")
	if parsed, err := url.Parse(server); err == nil {
		server = parsed.String()
	}
	return server
}

// Plan is part of Setting: what is registered, trusted and left.
func (p *Provider) Plan(ctx context.Context, _ *osapi.ProviderConfig, next osapi.ProviderConfig) (plan.Plan, error) {
	facts, err := p.o.Hands.Facts(ctx)
	if err != nil {
		return plan.Plan{}, err
	}
	kept, err := p.load()
	if err != nil {
		return plan.Plan{}, err
	}
	var made plan.Plan
	is, wanted := kept.Manager, serverOf(next, facts)
	if is.Registered() && is.Server != wanted {
		made.Add(plan.Step{Kind: plan.UseTool, Object: is.Server, Tool: "leave", Why: "its certificate is not trusted any more"})
		made.Notes = append(made.Notes, operationscenter.Leave(is).Warning)
	}
	if wanted != "" && is.Server != wanted {
		made.Add(plan.Step{Kind: plan.UseTool, Object: wanted, Tool: "register", Why: "the certificate that it grants is trusted by the primary application and the fallback listener"})
	}
	choice := readProvider(next)
	if server := choice.authenticated(); next.Name == providerImages && server != "" && kept.Images.Server != server {
		made.Add(plan.Step{Kind: plan.UseTool, Object: server, Tool: "register", Why: "it gets to know the node's key"})
	}
	return made, nil
}

// Apply is part of Setting. Once the node has started, an error leaves everything as it was.
func (p *Provider) Apply(ctx context.Context, _ *osapi.ProviderConfig, next osapi.ProviderConfig) error {
	p.applying.Lock()
	defer p.applying.Unlock()
	if _, err := p.load(); err != nil {
		return err
	}
	before := p.registrations().Manager
	made, err := p.take(ctx, next)
	if err != nil && p.begun {
		return err
	}
	if err != nil {
		// What is wrong with a provider must not keep a node from starting.
		made = inUse{config: next, broken: err}
	}
	if next.Name != operationscenter.Name {
		if err := p.leave(); err != nil {
			return errors.Join(err, closeSource(made.source))
		}
	}
	was := p.use(made)
	if p.begun && before.Registered() && made.client != nil {
		p.reporter.Report(operationscenter.CauseNone)
	}
	if p.begun {
		p.failed(p.settle(ctx))
	} else if made.broken != nil {
		p.failed(made.broken)
	}
	p.begun = true
	p.poke()
	return closeSource(was.source)
}

func closeSource(source updater.Source) error {
	if source == nil {
		return nil
	}
	return source.Close()
}

// take makes a configuration ready to be used. Once the node has started, that includes the
// registration.
func (p *Provider) take(ctx context.Context, next osapi.ProviderConfig) (inUse, error) {
	facts, err := p.o.Hands.Facts(ctx)
	if err != nil {
		return inUse{}, err
	}
	if next.Name != operationscenter.Name {
		return p.takeImages(ctx, next)
	}
	made := inUse{config: next, server: serverOf(next, facts)}
	kept := p.registrations()
	if err := otherManager(kept.Manager, made.server); err != nil {
		return inUse{}, err
	}
	o := p.o.Hands.Center()
	o.ServerURL, o.Token = next.Config[operationscenter.KeyServerURL], next.Config[operationscenter.KeyServerToken]
	o.Certificate = next.Config[operationscenter.KeyServerCertificate]
	if facts.Local {
		o.Socket = operationscenter.Socket
	}
	if made.client, err = operationscenter.New(o); err != nil {
		return inUse{}, err
	}
	made.source = updater.OpenManaged(updater.ManagedOptions{Client: made.client, Architecture: facts.Architecture, Running: facts.Running})
	if kept.Manager.Registered() || !p.begun {
		return made, nil
	}
	return made, p.join(ctx, made, o.ClientCertificate)
}

// takeImages is take for the provider "images". Without a server the node runs what it has.
func (p *Provider) takeImages(ctx context.Context, next osapi.ProviderConfig) (inUse, error) {
	choice, made := readProvider(next), inUse{config: next}
	if len(choice.Servers) == 0 {
		return made, nil
	}
	if choice.Token != "" {
		prover, err := p.o.Hands.Prover(ctx)
		if err != nil {
			return inUse{}, err
		}
		made.prover = &prover
	}
	var err error
	if made.source, err = p.o.Hands.Images(choice, made.prover); err != nil {
		return inUse{}, err
	}
	if p.begun {
		err = p.introduce(ctx, made)
	}
	if err != nil {
		return inUse{}, errors.Join(err, closeSource(made.source))
	}
	return made, nil
}

// use puts a configuration into effect and gives the one of before.
func (p *Provider) use(next inUse) inUse {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.now
	p.now = next
	if next.client != nil {
		p.warning = ""
	}
	return was
}

func (p *Provider) inUse() inUse {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

// current is the source in use.
func (p *Provider) current() (updater.Source, error) {
	p.mu.Lock()
	lent := p.lent
	p.mu.Unlock()
	if lent != nil {
		return lent, nil
	}
	now := p.inUse()
	switch {
	case now.broken != nil:
		return nil, fmt.Errorf("the provider cannot be used: %w", now.broken)
	case now.source == nil:
		return nil, errors.New("no release server is configured: set config.server_url of /1.0/system/provider, or of the seed named provider")
	}
	return now.source, nil
}

// Hide is part of Setting.
func (*Provider) Hide(value osapi.ProviderConfig) osapi.ProviderConfig { return HideProvider(value) }

// State is part of Setting.
func (p *Provider) State(_ context.Context, config osapi.ProviderConfig) (osapi.ProviderState, error) {
	reported := p.reporter.State()
	p.mu.Lock()
	defer p.mu.Unlock()
	state := osapi.ProviderState{Registered: p.kept.Manager.Registered(), Server: p.kept.Manager.Server}
	if server := readProvider(config).authenticated(); config.Name == providerImages && server != "" {
		state.Registered = p.kept.Images.Server == server
	}
	if p.warning != "" {
		state.Warnings = append(state.Warnings, p.warning)
	}
	if p.failure != nil {
		state.Warnings = append(state.Warnings, p.failure.Error())
	}
	if p.now.client != nil && reported.LastError != nil {
		state.Warnings = append(state.Warnings, reported.LastError.Error())
	}
	return state, nil
}

// clientCertificate is an error while the node has nothing to prove itself with.
func clientCertificate(show func() (*tls.Certificate, error)) error {
	if show == nil {
		return nil
	}
	certificate, err := show()
	if err != nil {
		return err
	}
	if certificate == nil {
		return errors.New("the primary application has no certificate yet: it makes one at its first start")
	}
	return nil
}
