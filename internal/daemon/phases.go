package daemon

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
)

// showEvery is how often the console looks for new addresses.
const showEvery = 30 * time.Second

// nodePhases is what a node does when it starts, in this order.
func (d *Daemon) nodePhases() []phase {
	return []phase{
		{"state", time.Minute, d.loadState},
		{"console", time.Minute, d.startConsole},
		{"requirements", time.Minute, d.checkRequirements},
		{"api", time.Minute, d.listen},
		{"recovery-keys", 5 * time.Minute, d.prepareKeys},
		{"network", 5 * time.Minute, d.startNetwork},
		{"extensions", 5 * time.Minute, d.mergeExtensions},
		{"pools", 10 * time.Minute, d.ensurePools},
		{"provider", 5 * time.Minute, d.startProvider},
		{"applications", time.Hour, d.startApplications},
		{"ready", time.Minute, d.becomeReady},
	}
}

// installPhases is what an install medium does. It serves no API, and ends with a
// restart from the installed disk.
func (d *Daemon) installPhases() []phase {
	return []phase{
		{"console", time.Minute, d.startConsole},
		{"install", 0, d.install},
	}
}

func (d *Daemon) loadState(context.Context) error {
	docs, err := d.openDocuments()
	if err != nil {
		return err
	}
	return d.config.load(docs, d.log, func(damage error) {
		d.machine.Display.Message("warning", damage.Error())
	})
}

func (d *Daemon) startConsole(ctx context.Context) error {
	if err := d.machine.Display.Start(ctx); err != nil {
		return err
	}
	d.showIdentity(ctx)
	return nil
}

func (d *Daemon) checkRequirements(ctx context.Context) error {
	problems, err := d.machine.Requirements.Check(ctx)
	if err != nil {
		return err
	}
	if len(problems) > 0 {
		return fmt.Errorf("this machine cannot be a node: %s", strings.Join(problems, "; "))
	}
	return nil
}

func (d *Daemon) install(ctx context.Context) error {
	return d.machine.Installer.Run(ctx, d.machine.Display)
}

func (d *Daemon) prepareKeys(ctx context.Context) error { return d.machine.Security.Prepare(ctx) }

// startNetwork takes the seed's network at the first start, and what was kept later.
func (d *Daemon) startNetwork(ctx context.Context) error {
	if !d.config.has(networkDocument) {
		seed, err := d.machine.Seed.Network(ctx)
		if err != nil {
			return err
		}
		if seed != nil {
			if err := d.config.setNetwork(seed); err != nil {
				return err
			}
		}
	}
	wanted, err := d.config.getNetwork()
	if err != nil {
		return err
	}
	effective, err := d.machine.Network.Apply(ctx, wanted)
	if err != nil {
		return err
	}
	d.setEffectiveNetwork(effective)
	d.networkStarted.Store(true)
	d.showIdentity(ctx)
	return nil
}

func (d *Daemon) mergeExtensions(ctx context.Context) error { return d.machine.Extensions.Refresh(ctx) }

func (d *Daemon) ensurePools(ctx context.Context) error { return d.machine.Pools.Ensure(ctx) }

// startProvider takes the seeds for provider and updates at the first start.
func (d *Daemon) startProvider(ctx context.Context) error {
	if !d.config.has(providerDocument) {
		provider, err := d.machine.Seed.Provider(ctx)
		if err != nil {
			return err
		}
		if provider == nil {
			provider = new(defaultProvider())
		}
		if err := d.machine.Provider.Use(ctx, *provider); err != nil {
			return fmt.Errorf("using the provider of the seed: %w", err)
		}
		if err := d.config.setProvider(*provider); err != nil {
			return err
		}
	}
	if err := d.seedUpdate(ctx); err != nil {
		return err
	}
	provider, err := d.config.getProvider()
	if err != nil {
		return err
	}
	return d.machine.Provider.Use(ctx, provider)
}

func (d *Daemon) seedUpdate(ctx context.Context) error {
	if d.config.has(updateDocument) {
		return nil
	}
	update, err := d.machine.Seed.Update(ctx)
	if err != nil {
		return err
	}
	if update == nil {
		update = new(defaultUpdate())
	}
	if problems := checkUpdateConfig(update); len(problems) > 0 {
		return fmt.Errorf("using the update seed: %s", strings.Join(problems, "; "))
	}
	return d.config.setUpdate(*update)
}

// startApplications starts what is installed, and installs what is missing.
func (d *Daemon) startApplications(ctx context.Context) error {
	if err := d.machine.AppUpdates.StartAll(ctx); err != nil {
		return err
	}
	seeded, err := d.machine.Seed.Applications(ctx)
	if err != nil {
		return err
	}
	return d.machine.AppUpdates.Ensure(ctx, seeded)
}

func (d *Daemon) becomeReady(ctx context.Context) error {
	d.ready.Store(true)
	d.showIdentity(ctx)
	d.machine.Display.Progress("ready", 0, 0)
	d.log.Info("system is ready")
	d.notify("status", d.machine.Notify.Status("ready"))
	return nil
}

// showIdentity tells the console what the node is by now. What cannot be found out yet is
// left out: the screen must not hold up the start.
func (d *Daemon) showIdentity(ctx context.Context) {
	var shown Identity
	var err error
	if shown.Environment, err = d.machine.Facts.Environment(ctx); err != nil {
		d.log.Warn("console without the node's name", "error", err)
	}
	if shown.Warnings, err = d.machine.Facts.Warnings(ctx); err != nil {
		d.log.Warn("console without warnings", "error", err)
	}
	// Before its phase networkd may not even run, and asking it would wait for it.
	if d.networkStarted.Load() {
		network, err := d.machine.Network.State(ctx, d.effectiveNetwork())
		if err != nil {
			d.log.Warn("console without addresses", "error", err)
		}
		shown.Addresses = addresses(network)
	}
	if shown.Fingerprint, err = d.machine.Facts.Fingerprint(ctx); err != nil {
		d.log.Warn("console without the certificate's fingerprint", "error", err)
	}
	// On an install medium nothing is kept, and so nothing is there to be retrieved.
	if flags, err := d.config.getSecurity(); err == nil && !flags.RecoveryKeysRetrieved {
		shown.Warnings = append(shown.Warnings, "the recovery keys have not been retrieved: holdfast node system security show")
	}
	shown.Applications = d.applicationTitles(ctx)
	d.machine.Display.Identity(shown)
}

// applicationTitles are the installed applications as "incus 7.0.2 [202611220104]".
func (d *Daemon) applicationTitles(ctx context.Context) []string {
	if !d.ready.Load() {
		return nil
	}
	names, err := d.machine.Apps.List(ctx)
	if err != nil {
		d.log.Warn("console without applications", "error", err)
	}
	titles := make([]string, 0, len(names))
	for _, name := range names {
		app, err := d.machine.Apps.Show(ctx, name)
		if err != nil {
			d.log.Warn("console without an application", "application", name, "error", err)
			continue
		}
		titles = append(titles, strings.TrimSpace(name+" "+app.State.FriendlyVersion))
	}
	return titles
}

// keepShowing brings the console up to date until the context ends: addresses change.
func (d *Daemon) keepShowing(ctx context.Context) {
	for d.clock.wait(ctx, showEvery) {
		d.showIdentity(ctx)
	}
}

func addresses(network osapi.NetworkState) []string {
	var all []string
	for _, device := range network.Interfaces {
		all = append(all, device.Addresses...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}
