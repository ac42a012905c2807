package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
	apirelease "github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/apps"
	"github.com/holdfast-os/holdfast/internal/bootinfo"
	"github.com/holdfast-os/holdfast/internal/console"
	"github.com/holdfast-os/holdfast/internal/earlyboot"
	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/system/bootloader"
	"github.com/holdfast-os/holdfast/internal/system/journal"
	"github.com/holdfast-os/holdfast/internal/system/power"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/systemd"
	"github.com/holdfast-os/holdfast/internal/update"
	"github.com/holdfast-os/holdfast/internal/update/health"
	"github.com/holdfast-os/holdfast/internal/updater"
)

const (
	// updateDir is where what is fetched of a release is kept until it is written.
	updateDir = "/var/lib/updates"
	// imagesDir has the applications' images, by release.
	imagesDir = "/var/lib/incus-os-extensions"
	// releaseRoot is whom the image trusts with releases.
	releaseRoot = "/usr/lib/holdfast/releases/root.json"
	// policyKey is the key by which PCR 11 is bound, from systemd-stub.
	policyKey = "/run/systemd/tpm2-pcr-public-key.pem"
	// synchronized is there once a time server has set the clock.
	synchronized = "/run/systemd/timesync/synchronized"
	// The timers of a trial; see their units.
	trialTimer, gateTimer = "holdfast-trial.timer", "holdfast-gate.timer"
)

// system is this machine's slots. It is not known on an install medium, which has none.
func (h *Host) system() *updater.System {
	release, err := h.facts.Release()
	if err != nil {
		h.log.Error("finding out which release runs", "error", err)
	}
	return &updater.System{
		Run: run.Host, Disk: h.info.BootDisk, Partition: h.partition, Architecture: architecture(), Running: release.Version,
		Loader: bootloader.Loader{Run: run.Host, Name: layout.Name, Running: release.Version, Vars: h.efi},
		Dir:    updateDir, Images: imagesDir, Source: h.source.current,
	}
}

// hostUpdates is Updates: the update agent on this machine.
type hostUpdates struct {
	*Host
	agent *update.Agent
}

func (h *Host) updates(system *updater.System, keys hostSecureBoot, manager *apps.Manager) hostUpdates {
	clock := health.NewClock()
	agent := &update.Agent{
		Ports: update.Ports{
			Releases: currentReleases{h}, Stager: system,
			Slots:    updater.Slots{System: system, BootID: updater.BootID, Uptime: realClock().SinceBoot},
			TPM:      updater.Trust{System: system, Vars: h.efi, Disk: keys, Bound: h.boundToTPM, Programs: h.programBinding(system), Now: time.Now},
			Power:    trialPower{h},
			Apps:     manager,
			Settings: hostUpdateSettings{h},
			Journal:  hostTail{journal.Reader{Run: run.Host}},
			Keys:     keys,
		},
		Clock: clock, Health: health.Gate{Observer: hostObserver{h, manager}, Clock: clock},
		Architecture: architecture(), Random: rand.Float64,
	}
	return hostUpdates{h, agent}
}

// currentReleases are those of the provider in use.
type currentReleases struct{ *Host }

// Newest is part of update.Releases.
func (c currentReleases) Newest(ctx context.Context, channel string, fresh bool) (update.Found, error) {
	source, err := c.source.current()
	if err != nil {
		return update.Found{}, fmt.Errorf("%w: %w", update.ErrUnreachable, err)
	}
	return source.Newest(ctx, channel, fresh)
}

// Changelog is part of update.Releases.
func (c currentReleases) Changelog(ctx context.Context, found update.Found, channel string) (*apirelease.Changelog, error) {
	source, err := c.source.current()
	if err != nil {
		return nil, err
	}
	return source.Changelog(ctx, found, channel)
}

// Run is part of Updates.
func (u hostUpdates) Run(ctx context.Context, ready <-chan struct{}, tell func(update.Notice)) error {
	store, err := u.openStore()
	if err != nil {
		return err
	}
	u.agent.Store, u.agent.Events, u.agent.Ready = update.FileStore{State: store}, toldTo(tell), ready
	// The agent judges the trial from here on, within its own time.
	if err := u.extendTrial(ctx); err != nil {
		u.log.Error("the watch over the trial could not be given more time", "error", err)
	}
	return u.agent.Run(ctx)
}

type toldTo func(update.Notice)

// Publish is part of update.Events.
func (t toldTo) Publish(n update.Notice) { t(n) }

// State is part of Updates.
func (u hostUpdates) State() osapi.UpdateState { return showUpdates(u.agent.Snapshot()) }

// Plan is part of Updates.
func (u hostUpdates) Plan(ctx context.Context) (osapi.UpdatePlan, error) {
	made, err := u.agent.Plan(ctx)
	return showPlan(made), codedUpdate(err)
}

// Check is part of Updates.
func (u hostUpdates) Check(ctx context.Context, post osapi.UpdateCheckPost) error {
	err := u.agent.Check(ctx, update.CheckOptions{Manual: true, OSOnly: post.OSOnly, Force: post.Force})
	if errors.Is(err, update.ErrBusy) {
		return nil
	}
	return codedUpdate(err)
}

// hostPower is Power. A restart into a staged release is the agent's, who notes what runs.
type hostPower struct {
	power.Power
	agent *update.Agent
}

// Reboot is part of Power.
func (p hostPower) Reboot(ctx context.Context) error {
	err := p.agent.Reboot(ctx)
	if errors.Is(err, update.ErrNothingStaged) || errors.Is(err, update.ErrBusy) {
		return p.Power.Reboot(ctx)
	}
	return err
}

// trialPower is update.Power.
type trialPower struct{ *Host }

// Reboot is part of update.Power.
func (t trialPower) Reboot(ctx context.Context, why string) error {
	t.log.Warn("restarting the machine", "why", why)
	t.display.Message("info", "restarting: "+why)
	t.daemon.goingDown(ctx, console.Rebooting)
	return power.Power{Run: run.Host}.Reboot(ctx)
}

// StayUp is part of update.Power.
func (t trialPower) StayUp(ctx context.Context) error {
	dropIn := filepath.Join("/run", earlyboot.TrialDropIn)
	there, err := exists(dropIn)
	if err != nil || !there {
		return err
	}
	if err := os.Remove(dropIn); err != nil {
		return fmt.Errorf("ending the watch over the trial: %w", err)
	}
	manager := systemd.Manager{Run: run.Host}
	return errors.Join(manager.DaemonReload(ctx), manager.Stop(ctx, trialTimer), manager.Stop(ctx, gateTimer))
}

// extendTrial puts the longer of the two timers in the place of the shorter.
func (h *Host) extendTrial(ctx context.Context) error {
	there, err := exists(filepath.Join("/run", earlyboot.TrialDropIn))
	if err != nil || !there {
		return err
	}
	manager := systemd.Manager{Run: run.Host}
	if err := manager.Start(ctx, gateTimer); err != nil {
		return err
	}
	return manager.Stop(ctx, trialTimer)
}

// boundToTPM is true when a TPM opens the disk.
func (h *Host) boundToTPM(context.Context) (bool, error) {
	return h.info.RootUnlock == bootinfo.TPM, nil
}

// hostUpdateSettings are the owner's.
type hostUpdateSettings struct{ *Host }

// Update is part of update.Settings.
func (s hostUpdateSettings) Update() osapi.UpdateConfig {
	value, err := current(context.Background(), s.daemon, sectionUpdate, Setting[osapi.UpdateConfig, osapi.UpdateState](updateSetting{s.daemon}))
	if err != nil {
		return defaultUpdate()
	}
	return value
}

// Location is part of update.Settings: the zone of now, which the owner can change.
func (s hostUpdateSettings) Location() *time.Location {
	name, err := filepath.EvalSymlinks("/etc/localtime")
	if err != nil {
		return time.UTC
	}
	zone, err := filepath.Rel("/usr/share/zoneinfo", name)
	if err != nil {
		return time.UTC
	}
	location, err := time.LoadLocation(zone)
	if err != nil {
		s.log.Warn("the time zone cannot be read, windows are in UTC", "zone", zone, "error", err)
		return time.UTC
	}
	return location
}

// hostTail is update.Journal.
type hostTail struct{ journal journal.Reader }

// Tail is part of update.Journal.
func (t hostTail) Tail(ctx context.Context, lines int) ([]string, error) {
	entries, err := t.journal.Read(ctx, journal.Query{Boot: "0", Entries: lines})
	if err != nil {
		return nil, err
	}
	var text []string
	for _, entry := range entries {
		var line struct {
			Unit    string          `json:"_SYSTEMD_UNIT"`
			Ident   string          `json:"SYSLOG_IDENTIFIER"`
			Message json.RawMessage `json:"MESSAGE"`
		}
		if err := json.Unmarshal(entry, &line); err != nil {
			return nil, fmt.Errorf("reading the journal: %w", err)
		}
		message := string(line.Message)
		_ = json.Unmarshal(line.Message, &message) // one that is no text stays as it is
		text = append(text, cmp.Or(line.Ident, line.Unit)+": "+message)
	}
	return text, nil
}
