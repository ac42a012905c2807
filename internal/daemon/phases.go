package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/operationscenter"
)

// showEvery is how often the console looks for new addresses.
const showEvery = 30 * time.Second

// nodePhases is what a node does when it starts, in this order. Waiting for an address,
// reading the images of applications, importing pools and reading the programs that the
// firmware starts take seconds each and need nothing of each other; nor do opening swap
// and waiting for devices.
func (d *Daemon) nodePhases() []phase {
	return []phase{
		{"state", time.Minute, d.loadState, inTurn},
		{"console", time.Minute, d.startConsole, inTurn},
		{"requirements", time.Minute, d.checkRequirements, inTurn},
		{"api", time.Minute, d.listen, inTurn},
		{"updates", time.Minute, d.startUpdates, inTurn},
		{"recovery-keys", 5 * time.Minute, d.prepareKeys, inTurn},
		{"devices", 2 * time.Minute, d.awaitDevices, together},
		{"rescue", time.Hour, d.useRescue, inTurn},
		{"kernel", time.Minute, d.startKernel, inTurn},
		{"security", 5 * time.Minute, d.startSetting(sectionSecurity), inTurn},
		{"logging", time.Minute, d.startSetting(sectionLogging), inTurn},
		{"network", 5 * time.Minute, d.startNetwork, inTurn},
		{"extensions", 5 * time.Minute, d.mergeExtensions, together},
		{"pools", 10 * time.Minute, d.ensurePools, together},
		{"secure-boot-keys", 10 * time.Minute, d.startSecureBoot, together},
		{"provider", 5 * time.Minute, d.startProvider, inTurn},
		{"services", 5 * time.Minute, d.startServices, inTurn},
		{"configuration", time.Minute, d.settleConfiguration, inTurn},
		{"applications", time.Hour, d.startApplications, inTurn},
		{"ready", time.Minute, d.becomeReady, inTurn},
	}
}

// installPhases is what an install medium does. It serves no API, and ends with a
// restart from the installed disk.
func (d *Daemon) installPhases() []phase {
	return []phase{
		{"console", time.Minute, d.startConsole, inTurn},
		{"devices", 2 * time.Minute, d.awaitDevices, inTurn},
		{"install", 0, d.install, inTurn},
	}
}

func (d *Daemon) loadState(context.Context) error {
	docs, err := d.openDocuments()
	if err != nil {
		return err
	}
	damaged := func(damage error) {
		d.log.Error("state document damaged, its last copy is used", "error", damage)
		d.machine.Display.Message("warning", damage.Error())
	}
	if err := d.memory.load(docs, damaged); err != nil {
		return err
	}
	if err := d.changes.Load(docs, damaged); err != nil {
		return err
	}
	if err := d.openAudit(); err != nil {
		return err
	}
	d.tellAbandoned()
	return nil
}

func (d *Daemon) startConsole(ctx context.Context) error {
	kept, err := current(ctx, d, sectionKernel, d.machine.Kernel)
	if err != nil {
		// An install medium has read nothing, and a screen is wanted most when things are wrong.
		d.log.Info("showing on the kernel's consoles alone", "error", err)
	}
	if len(kept.Console) == 0 {
		kept.Console = d.seededConsole(ctx)
	}
	if err := d.machine.Display.Start(ctx, kept.Console); err != nil {
		return err
	}
	d.showIdentity(ctx)
	return nil
}

// awaitDevices is for the phases behind it, which look once at what is there: a network card
// that appears after its phase would stay without an address.
func (d *Daemon) awaitDevices(ctx context.Context) error {
	if err := d.machine.Devices.Settle(ctx); err != nil {
		d.log.Warn("starting before all devices have appeared", "error", err)
		d.machine.Display.Message("warning", "starting before all devices have appeared: "+err.Error())
	}
	return ctx.Err()
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

// startSetting applies a section of the configuration as it was last accepted. One that
// this machine refuses is told and left out: what an owner has asked for once must not
// keep a node from starting after its hardware has changed.
func (d *Daemon) startSetting(name string) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := d.changes.Boot(ctx, name); err != nil {
			d.log.Error("a section of the configuration cannot be applied", "section", name, "error", err)
			d.machine.Display.Message("error", name+": "+err.Error())
		}
		return ctx.Err()
	}
}

// startNetwork takes the seed's network at the first start, and what was kept later. A
// node that nobody can reach could not be told the right configuration, so one that this
// machine cannot have gives way to the defaults.
func (d *Daemon) startNetwork(ctx context.Context) error {
	if err := d.leaveOut("network", seedSection(ctx, d, sectionNetwork, d.seededNetwork)); err != nil {
		return err
	}
	err := d.changes.Boot(ctx, sectionNetwork)
	var problems config.Problems
	if errors.As(err, &problems) {
		d.log.Error("the network configuration cannot be used, every card asks for an address", "error", err)
		d.machine.Display.Message("error", "network configuration: "+err.Error())
		var defaults osapi.NetworkConfig
		if err := d.machine.Network.Check(ctx, &defaults, nil); err != nil {
			return err
		}
		err = d.machine.Network.Apply(ctx, nil, defaults)
	}
	if err != nil {
		return err
	}
	d.networkStarted.Store(true)
	d.showIdentity(ctx)
	return nil
}

// seedSection takes a document of the seed for a section that has none yet.
func seedSection[C any](ctx context.Context, d *Daemon, name string, read func(context.Context) (*C, error)) error {
	kept, err := d.changes.Get(name)
	if err != nil || len(kept) > 0 {
		return err
	}
	seed, err := read(ctx)
	if err != nil || seed == nil {
		return err
	}
	raw, err := json.Marshal(seed)
	if err != nil {
		return fmt.Errorf("encoding the seed %s: %w", name, err)
	}
	if err := d.changes.Seed(ctx, name, raw); err != nil {
		return fmt.Errorf("using the seed %s: %w", name, err)
	}
	return nil
}

// settleConfiguration notes that everything is applied: a change that a restart had cut
// short is undone.
func (d *Daemon) settleConfiguration(context.Context) error { return d.changes.Settle() }

func (d *Daemon) mergeExtensions(ctx context.Context) error { return d.machine.Extensions.Refresh(ctx) }

func (d *Daemon) ensurePools(ctx context.Context) error { return d.machine.Pools.Ensure(ctx) }

// startProvider takes the seeds for provider and updates at the first start.
func (d *Daemon) startProvider(ctx context.Context) error {
	provider := func(ctx context.Context) (*osapi.ProviderConfig, error) {
		set, err := d.machine.Seed.Read(ctx)
		if err != nil || set.Provider == nil {
			return &osapi.ProviderConfig{Name: providerImages}, err
		}
		return &set.Provider.ProviderConfig, nil
	}
	if err := seedSection(ctx, d, sectionProvider, provider); err != nil {
		return err
	}
	if err := seedSection(ctx, d, sectionUpdate, d.seededUpdate); err != nil {
		return err
	}
	if err := d.changes.Boot(ctx, sectionProvider); err != nil {
		return err
	}
	d.startReporting()
	return nil
}

// startApplications starts what is installed, and installs what is missing.
func (d *Daemon) startApplications(ctx context.Context) error {
	if err := d.startInstalled(ctx); err != nil {
		d.startFallback(ctx, true)
		return err
	}
	set, err := d.machine.Seed.Read(ctx)
	if err != nil {
		return err
	}
	var names []string
	if set.Applications != nil {
		for _, application := range set.Applications.Applications {
			names = append(names, application.Name)
		}
	}
	return d.machine.AppUpdates.Ensure(ctx, names)
}

func (d *Daemon) becomeReady(ctx context.Context) error {
	if err := d.machine.Starts.Finished(); err != nil {
		d.log.Error("early boot counts this start as one that did not end well", "error", err)
	}
	if d.ready.CompareAndSwap(false, true) {
		close(d.readied)
		d.report(operationscenter.CauseReady)
		d.seedUsed(ctx)
	}
	d.startFallback(ctx, false)
	d.showIdentity(ctx)
	d.machine.Display.Progress("ready", 0, 0)
	d.log.Info("system is ready")
	d.notify("status", d.machine.Notify.Status("ready"))
	return nil
}

// showIdentity tells the console what the node is by now. What cannot be found out yet is
// left out: the screen must not hold up the start.
func (d *Daemon) showIdentity(ctx context.Context) {
	var shown Shown
	var err error
	if shown.Environment, err = d.machine.Facts.Environment(ctx); err != nil {
		d.log.Warn("console without the node's name", "error", err)
	}
	if shown.Warnings, err = d.machine.Facts.Warnings(ctx); err != nil {
		d.log.Warn("console without warnings", "error", err)
	}
	// Before its phase networkd may not even run, and asking it would wait for it.
	if d.networkStarted.Load() {
		config, err := current(ctx, d, sectionNetwork, d.machine.Network)
		if err != nil {
			d.log.Warn("console without addresses", "error", err)
		}
		network, err := d.machine.Network.State(ctx, config)
		if err != nil {
			d.log.Warn("console without addresses", "error", err)
		}
		shown.Addresses = addresses(network)
	}
	if shown.Fingerprint, err = d.machine.Facts.Fingerprint(ctx); err != nil {
		d.log.Warn("console without the certificate's fingerprint", "error", err)
	}
	// On an install medium nothing is kept, and so nothing is there to be retrieved.
	if flags, err := d.memory.getSecurity(); err == nil && !flags.RecoveryKeysRetrieved {
		shown.Warnings = append(shown.Warnings, "the recovery keys have not been retrieved: holdfast node system security show")
	}
	if open := d.fallback.open(); open != "" {
		shown.Warnings = append(shown.Warnings, open)
	}
	d.showPending()
	shown.Applications = d.applicationTitles(ctx)
	d.machine.Display.Identity(shown)
}

// showPending tells the console of a change that waits to be confirmed.
func (d *Daemon) showPending() {
	status, ok := d.changes.Pending()
	if !ok || status.Deadline.IsZero() {
		d.machine.Doing.Pending(nil)
		return
	}
	d.machine.Doing.Pending(&status)
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
