package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/apps"
	"github.com/holdfast-os/holdfast/internal/backup"
	"github.com/holdfast-os/holdfast/internal/recovery"
	"github.com/holdfast-os/holdfast/internal/state"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

// spoolDir is where archives wait. It is on root, as the data of applications is.
const spoolDir = "/var/tmp"

// hostBackups is Backups.
type hostBackups struct{ *Host }

func (hostBackups) Kept() string { return stateDir }

func (h hostBackups) Cards(ctx context.Context) ([]osapi.BackupCard, error) {
	found, err := h.facts.Cards(ctx)
	if err != nil {
		return nil, err
	}
	cards := make([]osapi.BackupCard, 0, len(found))
	for _, card := range found {
		cards = append(cards, osapi.BackupCard{Name: card.Name, Hwaddr: card.Hwaddr})
	}
	return cards, nil
}

// OpensPool has zfs try a key without using it.
func (h hostBackups) OpensPool(ctx context.Context, pool string, key []byte) (opens bool, err error) {
	imported, err := h.zfs.Exists(ctx, pool)
	if err != nil || !imported {
		return true, err
	}
	dir := "/run/holdfast/keys"
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return false, fmt.Errorf("making a place for a key: %w", err)
	}
	file, err := os.CreateTemp(dir, "pool")
	if err != nil {
		return false, fmt.Errorf("making a file for a key: %w", err)
	}
	defer func() { err = errors.Join(err, os.Remove(file.Name())) }()
	_, err = file.Write(key)
	if err = errors.Join(err, file.Close()); err != nil {
		return false, fmt.Errorf("writing a key: %w", err)
	}
	_, err = run.Host(ctx, run.Command{Name: "zfs", Args: []string{"load-key", "-n", "-L", "file://" + file.Name(), pool}})
	if _, ran := run.ExitCode(err); err != nil && ran {
		return false, nil
	}
	return err == nil, err
}

func (h hostBackups) Enroll(ctx context.Context, keys []string, alone bool) error {
	if alone {
		return h.executor().Do(ctx, recovery.NewPlan(nil, keys))
	}
	devices, err := h.volumes(ctx)
	if err != nil {
		return err
	}
	for _, volume := range []string{recovery.Root, recovery.Swap} {
		for _, key := range keys {
			if err := h.luks.Enroll(ctx, devices[volume], recovery.KeyFile, key); err != nil {
				return err
			}
		}
	}
	return nil
}

// Spool has no name from the beginning, so that nothing is left of it, whatever happens.
func (hostBackups) Spool() (Spool, error) {
	f, err := os.CreateTemp(spoolDir, "backup")
	if err != nil {
		return nil, fmt.Errorf("making room for an archive: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(fmt.Errorf("making room for an archive: %w", err), f.Close())
	}
	return f, nil
}

func (hostBackups) Free() (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(spoolDir, &s); err != nil {
		return 0, fmt.Errorf("asking for the room on %s: %w", spoolDir, err)
	}
	return int64(s.Bavail) * s.Bsize, nil
}

// openRestored opens the documents, once a restore that was committed is carried out.
func (h *Host) openRestored(dir string) (*state.Store, error) {
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return nil, fmt.Errorf("making %s: %w", stateDir, err)
	}
	folder, err := backup.OpenFolder(stateDir)
	if err != nil {
		return nil, err
	}
	pending, err := backup.Resume(folder)
	if err = errors.Join(err, folder.Close()); err != nil {
		return nil, err
	}
	h.replaced.restored = pending
	return state.Open(dir)
}

// restoredKeys is Keys that ends a restore: the keys that it brought open the volumes, and
// no others; after one that has not come about, those of the kept state alone.
type restoredKeys struct{ hostKeys }

// Prepare is part of Keys. Whatever keeps the other keys from being removed is told, and
// tried again at the next start: both open the volumes until then.
func (k restoredKeys) Prepare(ctx context.Context) error {
	if err := k.hostKeys.Prepare(ctx); err != nil {
		return err
	}
	if err := k.settle(ctx); err != nil {
		k.log.Error("recovery keys that the configuration does not list still open the volumes; the next start removes them", "error", err)
		k.display.Message("warning", "recovery keys: "+err.Error())
	}
	return nil
}

func (k restoredKeys) settle(ctx context.Context) error {
	keys := k.replaced.restored.RecoveryKeys
	if k.replaced.restored.ForeignKeys {
		security, err := current(ctx, k.daemon, sectionSecurity, k.daemon.machine.Security)
		if err != nil {
			return err
		}
		keys = security.EncryptionRecoveryKeys
	}
	if len(keys) == 0 {
		return nil
	}
	if err := k.executor().Do(ctx, recovery.NewPlan(nil, keys)); err != nil {
		return err
	}
	folder, err := backup.OpenFolder(stateDir)
	if err != nil {
		return err
	}
	err = errors.Join(backup.Done(folder), folder.Close())
	if err == nil {
		k.replaced.restored.RecoveryKeys, k.replaced.restored.ForeignKeys = nil, false
	}
	return err
}

// replacement is what the Host keeps for restores: what is left to do of one, the units
// without the gate, and the gate.
type replacement struct {
	restored backup.Pending
	units    apps.Units
	gate     gate
}

// gate lets one side at a time at the applications: their manager, or a restore.
type gate struct{ sync.RWMutex }

// gated is the manager behind a gate: what it starts and stops waits while data is replaced.
func (h *Host) gated(m *apps.Manager) *apps.Manager {
	h.replaced.units = m.Units
	m.Units = gatedUnits{m.Units, &h.replaced.gate}
	return m
}

type gatedUnits struct {
	apps.Units
	gate *gate
}

func (g gatedUnits) Start(ctx context.Context, units ...string) error {
	g.gate.RLock()
	defer g.gate.RUnlock()
	return g.Units.Start(ctx, units...)
}

func (g gatedUnits) Stop(ctx context.Context, units ...string) error {
	g.gate.RLock()
	defer g.gate.RUnlock()
	return g.Units.Stop(ctx, units...)
}

func (g gatedUnits) Restart(ctx context.Context, units ...string) error {
	g.gate.RLock()
	defer g.gate.RUnlock()
	return g.Units.Restart(ctx, units...)
}

// hostAppData is AppData.
type hostAppData struct {
	*Host
	manager *apps.Manager
	// root is the directory that stands for "/".
	root string
}

func (h *Host) appData(m *apps.Manager) hostAppData {
	return hostAppData{Host: h, manager: m, root: root}
}

func (h hostAppData) Hold() func() {
	h.replaced.gate.Lock()
	return h.replaced.gate.Unlock
}

func (h hostAppData) Dir(folder string) string { return filepath.Join(h.root, folder) }

// Stop also stops what starts the application again, its sockets, and with the helpers what
// it runs.
func (h hostAppData) Stop(ctx context.Context, name, dir string) error {
	app := h.manager.Catalogue[name]
	for _, unit := range slices.Concat(app.After, nonEmpty(app.Service), app.Sockets, app.Before) {
		if err := h.replaced.units.Stop(ctx, unit); err != nil {
			return err
		}
	}
	return unmountBelow(dir)
}

func nonEmpty(unit string) []string {
	if unit == "" {
		return nil
	}
	return []string{unit}
}

// startTimeout is how long an application may take to answer, with a database to upgrade.
const startTimeout = 5 * time.Minute

func (h hostAppData) Start(ctx context.Context, name string) error {
	app := h.manager.Catalogue[name]
	h.helpers(ctx, name, app.Before)
	for _, unit := range slices.Concat(app.Sockets, nonEmpty(app.Service)) {
		if err := h.replaced.units.Start(ctx, unit); err != nil {
			return err
		}
	}
	if program, ok := h.manager.Programs[name]; ok {
		ctx, cancel := context.WithTimeout(ctx, startTimeout)
		defer cancel()
		if err := program.Ready(ctx); err != nil {
			return fmt.Errorf("waiting for it to answer: %w", err)
		}
	}
	h.helpers(ctx, name, app.After)
	return nil
}

func (h hostAppData) helpers(ctx context.Context, name string, units []string) {
	for _, unit := range units {
		if err := h.replaced.units.Start(ctx, unit); err != nil {
			h.log.Warn("helper unit of an application", "application", name, "unit", unit, "error", err)
		}
	}
}

func (h hostAppData) Initialize(ctx context.Context, name string) error {
	program, ok := h.manager.Programs[name]
	if !ok {
		return nil
	}
	return program.Initialize(ctx)
}

func (h hostAppData) Note(_ context.Context, name string, change func(*apps.Record)) error {
	found, err := h.manager.Store.Load()
	if err != nil {
		return fmt.Errorf("noting what became of %s: %w", name, err)
	}
	record, installed := found[name]
	if !installed {
		return nil
	}
	change(&record)
	found[name] = record
	if err := h.manager.Store.Save(found); err != nil {
		return fmt.Errorf("noting what became of %s: %w", name, err)
	}
	return nil
}

// judgedApps is AppUpdates that judges data which was restored just before a power cut: it
// stays when the applications start with it, and gives way to that of before when not.
type judgedApps struct {
	hostApps
	data hostAppData
}

// StartAll leaves alone what is noted of the seed: only a reset changes that, and it has a note of
// its own. An application that never got its seed gets it also with data that came back.
func (j judgedApps) StartAll(ctx context.Context, judged string) error {
	var unproven []backup.Place
	for _, name := range backup.Applications() {
		place := j.place(name)
		if judged != "" && place == j.place(judged) {
			continue
		}
		found, err := place.Recover()
		if err == nil && found != backup.Nothing {
			j.data.log.Warn("a restore that was cut short is taken back", "folder", place.Dir)
		}
		if err != nil {
			return err
		}
		pending, err := place.Pending()
		if err != nil {
			return err
		}
		if pending && !slices.Contains(unproven, place) {
			unproven = append(unproven, place)
		}
	}
	err := j.hostApps.StartAll(ctx, judged)
	if err == nil {
		return settleAll(unproven)
	}
	if len(unproven) == 0 || ctx.Err() != nil {
		return err
	}
	j.data.log.Error("an application does not start with its new data: that of before comes back", "error", err)
	return errors.Join(j.goBack(ctx, unproven), j.hostApps.StartAll(ctx, judged))
}

func (j judgedApps) place(name string) backup.Place {
	data, _ := backup.DataOf(name)
	return backup.Place{Dir: j.data.Dir(data.Folder)}
}

func settleAll(places []backup.Place) error {
	var failed []error
	for _, place := range places {
		failed = append(failed, place.Settle())
	}
	return errors.Join(failed...)
}

// goBack stops what has the unproven data, and gives it that of before.
func (j judgedApps) goBack(ctx context.Context, places []backup.Place) error {
	found, err := j.data.manager.List()
	if err != nil {
		return err
	}
	var failed []error
	for _, place := range places {
		for _, name := range found {
			if j.place(name) == place {
				failed = append(failed, j.data.Stop(ctx, name, place.Dir))
			}
		}
		failed = append(failed, place.Back())
	}
	return errors.Join(failed...)
}

// unmountBelow unmounts what is mounted in a folder, the deepest first.
func unmountBelow(dir string) error {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("looking for what is mounted in %s: %w", dir, err)
	}
	for _, point := range mountsBelow(string(text), filepath.Clean(dir)) {
		if err := unix.Unmount(point, 0); err != nil {
			return fmt.Errorf("unmounting %s: %w", point, err)
		}
	}
	return nil
}

// mountsBelow are the mount points in a folder, the last mounted first.
func mountsBelow(mountinfo, dir string) []string {
	var points []string
	for line := range strings.Lines(mountinfo) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		if point := unescapeMount(fields[4]); strings.HasPrefix(point, dir+"/") {
			points = append(points, point)
		}
	}
	slices.Reverse(points)
	return points
}

// unescapeMount reads the octal numbers that the kernel writes in the place of spaces.
func unescapeMount(field string) string {
	var b strings.Builder
	for i := 0; i < len(field); i++ {
		if field[i] == '\\' && i+3 < len(field) {
			if code, err := strconv.ParseUint(field[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(code))
				i += 3
				continue
			}
		}
		b.WriteByte(field[i])
	}
	return b.String()
}
