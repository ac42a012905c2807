package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"filippo.io/age"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/apps"
	"github.com/holdfast-os/holdfast/internal/backup"
	"github.com/holdfast-os/holdfast/internal/console"
	"github.com/holdfast-os/holdfast/internal/httpapi"
	"github.com/holdfast-os/holdfast/internal/operation"
	"github.com/holdfast-os/holdfast/internal/plan"
	"github.com/holdfast-os/holdfast/internal/recovery"
)

// Backups is what backups of this node need of the machine.
type Backups interface {
	// Kept is the folder of what the node keeps, as "/var/lib/incus-os".
	Kept() string
	// Cards are the network cards.
	Cards(ctx context.Context) ([]osapi.BackupCard, error)
	// OpensPool tells whether a key opens an imported pool; true for one that is not there.
	OpensPool(ctx context.Context, pool string, key []byte) (bool, error)
	// Enroll makes keys open the node's volumes, beside those that do already; alone takes
	// all others away.
	Enroll(ctx context.Context, keys []string, alone bool) error
	// Spool makes a file that nobody else sees, and that is gone when it is closed.
	Spool() (Spool, error)
	// Free is how many bytes can still be written, where Spool writes and the data of
	// applications lies.
	Free() (int64, error)
}

// Spool is a file for an archive on its way.
type Spool interface {
	backup.Spool
	io.Closer
}

const archiveType = "application/gzip"

// dryRunQuery is the parameter of what shows its plan first.
func dryRunQuery() []httpapi.Param {
	return []httpapi.Param{{Name: "dry-run", Doc: "with 1 nothing is changed: the answer is the plan", Example: "1"}}
}

func restoreQuery() []httpapi.Param {
	return append(dryRunQuery(), httpapi.Param{Name: "skip",
		Doc: "what to leave out, with commas: " + strings.Join(backup.Skips, ", ") + "; default nothing", Example: "network-macs"},
		httpapi.Param{Name: "cards",
			Doc: "network cards of this machine for those of the backup's, OLD=NEW with commas, each by name or MAC address; default none", Example: "eno1=enp1s0"})
}

// noBackups is for a machine that has none of this.
func noBackups() error {
	return httpapi.NotImplemented("this machine has nothing to back up, to restore or to reset")
}

// alone keeps restores and resets from going on beside one another.
func (d *Daemon) alone() (release func(), err error) {
	if !d.replacing.TryLock() {
		return nil, httpapi.Conflict("a restore or a reset goes on already: see /1.0/operations")
	}
	return d.replacing.Unlock, nil
}

// refusedArchive gives the faults of an archive their HTTP code.
func refusedArchive(err error) error {
	var problem *backup.Problem
	if errors.As(err, &problem) {
		return httpapi.BadRequest("%w", err)
	}
	return coded(err)
}

// manifest is what every backup of this node says of it.
func (d *Daemon) manifest(ctx context.Context) (osapi.BackupManifest, error) {
	environment, err := d.machine.Facts.Environment(ctx)
	if err != nil {
		return osapi.BackupManifest{}, fmt.Errorf("naming the node in its backup: %w", err)
	}
	return osapi.BackupManifest{
		Format: backup.Format, Release: environment.OSVersion, MachineID: environment.MachineID, CreatedAt: d.clock.Now().UTC(),
	}, nil
}

// sealed gives a writer that encrypts when there is somebody to encrypt to, and the type of
// the answer.
func sealed(w io.Writer, to age.Recipient) (io.WriteCloser, string, error) {
	if to == nil {
		return nopCloser{w}, archiveType, nil
	}
	out, err := backup.Encrypt(w, to)
	return out, "application/octet-stream", err
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func recipient(text string) (age.Recipient, error) {
	if text == "" {
		return nil, nil
	}
	to, err := backup.ParseRecipient(text)
	if err != nil {
		return nil, httpapi.BadRequest("recipient: %w", err)
	}
	return to, nil
}

// backupSystem gives what the node keeps: its configuration, its history, and its keys.
func (d *Daemon) backupSystem(r *httpapi.Request) (any, error) {
	if d.machine.Backups == nil {
		return nil, noBackups()
	}
	to, err := recipient(httpapi.Body[osapi.BackupPost](r).Recipient)
	if err != nil {
		return nil, err
	}
	kept, err := backup.Collect(d.machine.Backups.Kept())
	if err != nil {
		return nil, err
	}
	if err := kept.Whole(); err != nil {
		return nil, httpapi.Conflict("a backup made now could not be restored (%w): the first start makes what is missing; see /1.0/debug/boot, and ask again when the node is ready", err)
	}
	manifest, err := d.manifest(r.Context())
	if err != nil {
		return nil, err
	}
	if manifest.Cards, err = d.machine.Backups.Cards(r.Context()); err != nil {
		return nil, fmt.Errorf("naming the network cards in the backup: %w", err)
	}
	var archive bytes.Buffer
	w, kind, err := sealed(&archive, to)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(kept.Write(r.Context(), w, manifest), w.Close()); err != nil {
		return nil, err
	}
	d.lifecycle("system-backed-up", "/1.0/system", nil)
	return httpapi.Raw{ContentType: kind, Body: archive.Bytes()}, nil
}

// restoreSystem makes the node what a backup says, at its next start, which it brings about.
func (d *Daemon) restoreSystem(r *httpapi.Request) (any, error) {
	if d.machine.Backups == nil {
		return nil, noBackups()
	}
	choice, err := backup.ParseChoice(r.Query("skip"), r.Query("cards"))
	if err != nil {
		return nil, httpapi.BadRequest("%w", err)
	}
	if status, ok := d.changes.Pending(); ok {
		return nil, httpapi.Conflict("a change of %s by %s is going on or waits to be confirmed: confirm it or take it back first", strings.Join(status.Sections, ", "), status.Who)
	}
	archive, err := backup.ReadSystem(r.Context(), r.HTTP.Body)
	if err != nil {
		return nil, refusedArchive(err)
	}
	restored, err := d.fitting(r.Context(), archive, choice)
	if err != nil {
		return nil, refusedArchive(err)
	}
	p, err := d.planRestore(r.Context(), restored)
	if err != nil {
		return nil, coded(err)
	}
	if r.Query("dry-run") != "" {
		return d.dryRun(r, func() (plan.Plan, error) { return p, nil })
	}
	release, err := d.alone()
	if err != nil {
		return nil, err
	}
	if err := d.commitRestore(r.Context(), restored); err != nil {
		release()
		return nil, err
	}
	d.lifecycle("system-restored", "/1.0/system", map[string]any{"made_on": archive.Manifest.MachineID, "made_at": archive.Manifest.CreatedAt})
	return d.behindAlone("Restarting into the restored state", release, func(ctx context.Context, _ *operation.Progress) error {
		err := d.shownAs(console.Rebooting, func(ctx context.Context) error { return d.machine.Power.Reboot(ctx) })(ctx)
		if err != nil {
			// The state of before goes on being used, so nothing may wait for the next start.
			err = errors.Join(err, d.abandon(ctx, restored))
		}
		return err
	}), nil
}

// fitting makes a backup fit for this machine.
func (d *Daemon) fitting(ctx context.Context, archive backup.System, choice backup.Choice) (backup.Restore, error) {
	manifest, err := d.manifest(ctx)
	if err != nil {
		return backup.Restore{}, err
	}
	m := backup.Machine{ID: manifest.MachineID, Release: manifest.Release, Opens: func(pool string, key []byte) (bool, error) {
		return d.machine.Backups.OpensPool(ctx, pool, key)
	}}
	if m.Cards, err = d.machine.Backups.Cards(ctx); err != nil {
		return backup.Restore{}, fmt.Errorf("looking for the network cards: %w", err)
	}
	present, err := backup.Collect(d.machine.Backups.Kept())
	if err != nil {
		return backup.Restore{}, err
	}
	m.Keys = present.Files
	if m.Network, err = d.changes.Get(sectionNetwork); err != nil {
		return backup.Restore{}, err
	}
	security, err := current(ctx, d, sectionSecurity, d.machine.Security)
	if err != nil {
		return backup.Restore{}, err
	}
	m.RecoveryKeys = security.EncryptionRecoveryKeys
	installed, err := archive.Installed()
	if err != nil {
		return backup.Restore{}, err
	}
	primary := slices.ContainsFunc(installed, func(name string) bool { return apps.Catalogue()[name].Primary })
	if !primary {
		return backup.Restore{}, &backup.Problem{Rule: backup.RuleContent, Text: "it has no primary application, as incus: nobody could reach the node"}
	}
	return archive.For(m, choice)
}

// planRestore shows what becomes another. The checks of every section are part of it.
func (d *Daemon) planRestore(ctx context.Context, restored backup.Restore) (plan.Plan, error) {
	p := plan.Plan{Disconnects: true, Reboot: "the restored state is read when the node starts", Notes: restored.Notes}
	known, names := map[string]json.RawMessage{}, map[string]bool{}
	for _, section := range d.sections() {
		names[section.Name()] = true
		raw, has := restored.Sections[section.Name()]
		if has {
			known[section.Name()] = raw
			continue
		}
		if is, err := d.changes.Get(section.Name()); err == nil && len(is) > 0 {
			p.Notes = append(p.Notes, "The backup says nothing of "+section.Name()+": it gets the defaults.")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(restored.Sections)) {
		if !names[name] {
			p.Notes = append(p.Notes, "This release does not know the section "+name+" of the backup: it is kept, and nothing is done with it.")
		}
	}
	changed, err := d.changes.Plan(ctx, known)
	if err != nil {
		return plan.Plan{}, err
	}
	for _, step := range changed.Steps {
		if step.Kind == plan.KeepDocument { // what else is done is done by the start
			p.Add(step)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(restored.Files)) {
		if path.Ext(name) == ".key" {
			p.Add(plan.Step{Kind: plan.WriteFile, Object: path.Join(d.machine.Backups.Kept(), name), After: "key", Secret: true})
		}
	}
	p.Add(plan.Step{Kind: plan.KeepDocument, Object: "applications, history and whatever else the node keeps", Secret: true})
	if restored.RecoveryKeys != nil {
		p.Append(recovery.NewPlan(nil, restored.RecoveryKeys))
	}
	return p, nil
}

// commitRestore lets the restored keys open the volumes, and then decides the restore. When
// it fails nothing has changed.
func (d *Daemon) commitRestore(ctx context.Context, restored backup.Restore) error {
	ctx = context.WithoutCancel(ctx)
	folder, err := backup.OpenFolder(d.machine.Backups.Kept())
	if err != nil {
		return err
	}
	err = d.enroll(ctx, folder, restored.RecoveryKeys)
	if err == nil {
		err = backup.Commit(folder, restored)
	}
	if err != nil {
		err = errors.Join(err, d.withdraw(ctx, folder, restored))
	}
	return errors.Join(err, folder.Close())
}

// enroll notes first that the volumes open with more keys than the kept state knows.
func (d *Daemon) enroll(ctx context.Context, folder backup.Folder, keys []string) error {
	if keys == nil {
		return nil
	}
	if err := backup.NoteKeys(folder); err != nil {
		return err
	}
	if err := d.machine.Backups.Enroll(ctx, keys, false); err != nil {
		return fmt.Errorf("making the restored recovery keys open the volumes: %w", err)
	}
	return nil
}

// abandon forgets a restore that was committed.
func (d *Daemon) abandon(ctx context.Context, restored backup.Restore) error {
	ctx = context.WithoutCancel(ctx)
	folder, err := backup.OpenFolder(d.machine.Backups.Kept())
	if err != nil {
		return err
	}
	if err = backup.Abandon(folder); err == nil {
		err = d.withdraw(ctx, folder, restored)
	}
	return errors.Join(err, folder.Close())
}

// withdraw has the volumes open with the keys of now alone. What fails is tried again by the
// next start.
func (d *Daemon) withdraw(ctx context.Context, folder backup.Folder, restored backup.Restore) error {
	if restored.RecoveryKeys == nil {
		return nil
	}
	security, err := current(ctx, d, sectionSecurity, d.machine.Security)
	if err == nil && len(security.EncryptionRecoveryKeys) > 0 {
		err = d.machine.Backups.Enroll(ctx, security.EncryptionRecoveryKeys, true)
	}
	if err != nil {
		return fmt.Errorf("taking the restored recovery keys away again, which the next start does too: %w", err)
	}
	return backup.Done(folder)
}

// tellAbandoned says on the console, in the log and among the operations that the restore for
// which the node was restarted has not come about.
func (d *Daemon) tellAbandoned() {
	if d.machine.Abandoned == nil {
		return
	}
	reason := d.machine.Abandoned()
	if reason == nil {
		return
	}
	err := fmt.Errorf("the restore was abandoned, and the node goes on as it was before: %w: restore the backup again, and look after the disk", reason)
	d.log.Error("restoring the system", "error", err)
	d.machine.Display.Message("error", err.Error())
	_, failed := d.operations.Start("Restoring the system", nil, false, func(context.Context, *operation.Progress) error { return err })
	if failed != nil {
		d.log.Warn("showing an abandoned restore among the operations", "error", failed)
	}
}

// behindAlone is behind for what must go on alone; release is called at its end.
func (d *Daemon) behindAlone(what string, release func(), do func(context.Context, *operation.Progress) error) httpapi.After {
	return httpapi.After{Do: func(ctx context.Context) {
		if !d.clock.wait(ctx, graceTime) {
			release()
			return
		}
		_, err := d.operations.Start(what, nil, false, func(ctx context.Context, p *operation.Progress) error {
			defer release()
			err := do(ctx, p)
			if err != nil {
				d.log.Error("background work failed", "what", what, "error", err)
				d.machine.Display.Message("error", what+": "+err.Error())
			}
			return err
		})
		if err != nil {
			release()
			d.log.Error("starting background work", "what", what, "error", err)
		}
	}}
}
