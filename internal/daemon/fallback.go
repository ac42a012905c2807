package daemon

import (
	"context"
	"crypto/tls"
	"net/http"
	"sync"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/httpapi"
	"github.com/holdfast-os/holdfast/internal/listener"
	"github.com/holdfast-os/holdfast/internal/plan"
)

// Identity is what the node shows who it is with.
type Identity interface {
	// Certificate is that of the primary application; an error while there is none.
	Certificate() (*tls.Certificate, error)
}

// fallback is the listener for emergencies. Once it runs it stays until the daemon ends.
type fallback struct {
	mu     sync.Mutex
	server *listener.Server
	reason string
}

func (f *fallback) active() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.server != nil
}

// open is a sentence about a listener that is open; empty when none is.
func (f *fallback) open() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.server == nil {
		return ""
	}
	return "the fallback listener is open at " + f.server.Addr().String() + ": " + f.reason
}

// listenerSetting is the section "fallback-listener".
func (d *Daemon) listenerSetting() Setting[osapi.FallbackListenerConfig, osapi.FallbackListenerState] {
	return Planned[osapi.FallbackListenerConfig, osapi.FallbackListenerState, listener.Facts]{
		Facts: func(context.Context) (listener.Facts, error) { return listener.Facts{Active: d.fallback.active()}, nil },
		CheckConfig: func(value, _ *osapi.FallbackListenerConfig, _ listener.Facts) error {
			return listener.Check(value).Err()
		},
		PlanConfig: func(before *osapi.FallbackListenerConfig, next osapi.FallbackListenerConfig, facts listener.Facts) (plan.Plan, error) {
			if before == nil {
				before = &next
			}
			return listener.NewPlan(*before, next, facts), nil
		},
		Do: func(context.Context, plan.Plan) error { return nil },
		Observe: func(context.Context, osapi.FallbackListenerConfig) (osapi.FallbackListenerState, error) {
			return osapi.FallbackListenerState{Active: d.fallback.active()}, nil
		},
	}
}

// movingListener opens a running listener at its new address when a change moves it.
type movingListener struct {
	Setting[osapi.FallbackListenerConfig, osapi.FallbackListenerState]
	d *Daemon
}

// Apply is part of Setting.
func (s movingListener) Apply(ctx context.Context, before *osapi.FallbackListenerConfig, next osapi.FallbackListenerConfig) error {
	if before == nil || before.ListenAddress == next.ListenAddress || !s.d.fallback.active() {
		return nil
	}
	return s.d.openFallback(ctx, next.ListenAddress, "")
}

// startFallback opens the listener when the node needs it.
func (d *Daemon) startFallback(ctx context.Context, failed bool) {
	reason := d.needsFallback(failed)
	if reason == "" || d.fallback.active() {
		return
	}
	config, err := current(ctx, d, sectionListener, d.listener)
	if err == nil && len(d.trustedClients(config)) == 0 {
		d.log.Warn("the fallback listener has nobody to trust and stays closed", "why", reason)
		return
	}
	if err == nil {
		err = d.openFallback(ctx, config.ListenAddress, reason)
	}
	if err != nil {
		d.log.Error("opening the fallback listener", "error", err)
		d.machine.Display.Message("error", "fallback listener: "+err.Error())
	}
}

// openFallback opens the listener at an address, in the place of one that runs.
func (d *Daemon) openFallback(ctx context.Context, address, reason string) error {
	if address == "" {
		address = listener.AnyAddress
	}
	d.fallback.mu.Lock()
	defer d.fallback.mu.Unlock()
	server, err := listener.Listen(address, listener.Options{
		Handler: d.known(), Certificate: d.machine.Identity.Certificate, Log: d.log,
		Trusted: func() []listener.Fingerprint {
			config, err := current(context.Background(), d, sectionListener, d.listener)
			if err != nil {
				d.log.Error("reading whom the fallback listener trusts", "error", err)
				return nil
			}
			return d.trustedClients(config)
		},
	})
	if err != nil {
		return err
	}
	if before := d.fallback.server; before != nil {
		if err := before.Close(ctx); err != nil {
			d.log.Warn("closing the fallback listener at its address of before", "error", err)
		}
	}
	d.fallback.server = server
	if reason != "" {
		d.fallback.reason = reason
	}
	d.log.Warn("the fallback listener is open", "address", server.Addr().String(), "why", d.fallback.reason)
	d.machine.Display.Message("warning", "fallback listener at "+server.Addr().String()+": "+d.fallback.reason)
	return nil
}

// known hands on who the listener has seen.
func (d *Daemon) known() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if fingerprint := listener.Caller(r); fingerprint != "" {
			r = httpapi.WithCaller(r, "sha256:"+fingerprint)
		}
		d.handler.ServeHTTP(w, r)
	})
}

func (d *Daemon) closeFallback(ctx context.Context) error {
	d.fallback.mu.Lock()
	defer d.fallback.mu.Unlock()
	if d.fallback.server == nil {
		return nil
	}
	return d.fallback.server.Close(ctx)
}
