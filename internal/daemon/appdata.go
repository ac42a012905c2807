package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"filippo.io/age"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/apps"
	"github.com/holdfast-os/holdfast/internal/backup"
	"github.com/holdfast-os/holdfast/internal/httpapi"
	"github.com/holdfast-os/holdfast/internal/operation"
	"github.com/holdfast-os/holdfast/internal/plan"
)

// AppData is the data of applications, and what must happen for another one to take its
// place.
type AppData interface {
	// Hold keeps everybody else from starting and stopping applications until release.
	Hold() (release func())
	// Dir is where a folder of backup.Data lies on this machine.
	Dir(folder string) string
	// Stop stops an application, and unmounts what is mounted below its folder.
	Stop(ctx context.Context, name, dir string) error
	// Start starts it and returns when it answers.
	Start(ctx context.Context, name string) error
	// Initialize applies the seed and the defaults.
	Initialize(ctx context.Context, name string) error
	// Note changes what the node remembers of it.
	Note(ctx context.Context, name string, change func(*apps.Record)) error
}

// reserve is how many bytes a backup leaves free on the node's own disk.
const reserve = 256 << 20

// dataOf gives the data of an installed application.
func (d *Daemon) dataOf(r *httpapi.Request) (string, backup.Data, error) {
	name := r.Var("name")
	if err := d.applicationExists(r); err != nil {
		return name, backup.Data{}, err
	}
	if d.machine.Backups == nil || d.machine.AppData == nil {
		return name, backup.Data{}, noBackups()
	}
	data, has := backup.DataOf(name)
	if !has {
		return name, data, httpapi.NotImplemented("the application %s has no data to back up, to restore or to reset", name)
	}
	return name, data, nil
}

// backupApplication spools the data of an application, so that an error is told before the
// first byte of the answer, and then sends it.
func (d *Daemon) backupApplication(r *httpapi.Request) (any, error) {
	name, data, err := d.dataOf(r)
	if err != nil {
		return nil, err
	}
	body := httpapi.Body[osapi.BackupPost](r)
	to, err := recipient(body.Recipient)
	if err != nil {
		return nil, err
	}
	manifest, err := d.manifest(r.Context())
	if err != nil {
		return nil, err
	}
	manifest.Kind, manifest.Application = backup.KindApplication, name
	spool, err := d.machine.Backups.Spool()
	if err != nil {
		return nil, err
	}
	tree := backup.Tree{Dir: d.machine.AppData.Dir(data.Folder), Data: data, Complete: body.Complete}
	err = d.during("Backing up the application "+name, name, func(ctx context.Context, p *operation.Progress) (err error) {
		// The caller's end is the end of the work: nobody else wants the archive.
		ctx, stop := joined(ctx, r.Context())
		defer stop()
		total, err := tree.Bytes(ctx)
		if err != nil {
			return fmt.Errorf("looking how much there is to back up: %w", err)
		}
		p.Set("pack", 0, total, name)
		manifest.Members, manifest.LeftOut, err = backup.PackTree(ctx, &sparing{Spool: spool, free: d.machine.Backups.Free}, tree, func(done int64) {
			p.Set("pack", done, max(done, total), name) // it may have grown
		})
		return err
	})
	if err != nil {
		return nil, errors.Join(err, spool.Close())
	}
	return httpapi.Stream(func(w http.ResponseWriter, _ *http.Request) error {
		if err := errors.Join(send(w, spool, manifest, to), spool.Close()); err != nil {
			return fmt.Errorf("sending a backup of the application %s: %w", name, err)
		}
		d.lifecycle("application-backed-up", "/1.0/applications/"+name, nil)
		return nil
	}), nil
}

// send writes a spooled archive to the caller.
func send(w http.ResponseWriter, spool Spool, manifest osapi.BackupManifest, to age.Recipient) error {
	if _, err := spool.Seek(0, io.SeekStart); err != nil {
		return err
	}
	out, kind, err := sealed(w, to)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if err := backup.Finish(out, manifest, spool); err != nil {
		return err // not closed: the end would make it look whole
	}
	return out.Close()
}

// during runs work as an operation that can be watched, and waits for its end in any case:
// the work has the caller's own resources.
func (d *Daemon) during(description, name string, do func(context.Context, *operation.Progress) error) error {
	resources := map[string][]string{"applications": {"/1.0/applications/" + name}}
	failure, done := errors.New("the node made a mistake: see /1.0/debug/log"), make(chan struct{})
	_, err := d.operations.Start(description, resources, false, func(ctx context.Context, p *operation.Progress) error {
		defer close(done)
		failure = do(ctx, p)
		return failure
	})
	if err != nil {
		return watched(err)
	}
	<-done
	return refusedArchive(failure)
}

// joined ends with either context.
func joined(a, b context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(a)
	stop := context.AfterFunc(b, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// sparing is a spool that leaves room on the disk for the node itself.
type sparing struct {
	Spool
	free  func() (int64, error)
	since int64
}

// lookEvery is how many bytes are written between two looks at the room that is left.
const lookEvery = 16 << 20

func (s *sparing) Write(p []byte) (int, error) {
	if s.since <= 0 {
		left, err := s.free()
		if err != nil {
			return 0, fmt.Errorf("looking how much room is left: %w", err)
		}
		if left < reserve+lookEvery {
			return 0, noRoom(left, reserve+lookEvery)
		}
		s.since = lookEvery
	}
	n, err := s.Spool.Write(p)
	s.since -= int64(n)
	return n, err
}

// metered tells how much of an archive was read.
type metered struct {
	r           io.Reader
	p           *operation.Progress
	stage, text string
	done, total int64
}

func (w *metered) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	w.done += int64(n)
	w.p.Set(w.stage, w.done, w.total, w.text)
	return n, err
}

func noRoom(left, needed int64) error {
	return httpapi.WithCode(http.StatusInsufficientStorage,
		fmt.Errorf("the node's disk has %d MiB left and %d MiB are needed: make room, as by removing images and files below the data of the application", left>>20, needed>>20))
}

// restoreApplication puts the data of a backup in the place of an application's. The archive
// is received and checked whole before anything of it is written.
func (d *Daemon) restoreApplication(r *httpapi.Request) (any, error) {
	name, data, err := d.dataOf(r)
	if err != nil {
		return nil, err
	}
	release, err := d.aloneWithData()
	if err != nil {
		return nil, err
	}
	place := backup.Place{Dir: d.machine.AppData.Dir(data.Folder)}
	var summary backup.Summary
	err = d.during("Receiving a backup of the application "+name, name, func(ctx context.Context, p *operation.Progress) (err error) {
		ctx, stop := joined(ctx, r.Context())
		defer stop()
		summary, err = d.receive(ctx, r, name, data, place, p)
		return err
	})
	if err == nil && r.Query("dry-run") != "" {
		defer release()
		return d.dryRun(r, func() (plan.Plan, error) { return planData(name, data, &summary), nil })
	}
	if err != nil {
		release()
		return nil, err
	}
	return d.behindAlone("Restoring the application "+name, release, func(ctx context.Context, p *operation.Progress) error {
		p.Set("start", 0, 0, name)
		if err := d.exchange(ctx, name, place, func(context.Context) error { return nil }); err != nil {
			return fmt.Errorf("restoring the application %s: %w", name, err)
		}
		d.lifecycle("application-restored", "/1.0/applications/"+name, nil)
		now := d.clock.Now().UTC()
		return d.machine.AppData.Note(ctx, name, func(r *apps.Record) { r.LastRestored, r.Initialized = &now, true })
	}), nil
}

// receive spools an archive, checks it, and unpacks it beside the data of now; a dry run
// unpacks nothing.
func (d *Daemon) receive(ctx context.Context, r *httpapi.Request, name string, data backup.Data, place backup.Place, p *operation.Progress) (backup.Summary, error) {
	spool, err := d.machine.Backups.Spool()
	if err != nil {
		return backup.Summary{}, err
	}
	summary, err := d.unpack(ctx, r, spool, name, data, place, p)
	return summary, errors.Join(err, spool.Close())
}

func (d *Daemon) unpack(ctx context.Context, r *httpapi.Request, spool Spool, name string, data backup.Data, place backup.Place, p *operation.Progress) (backup.Summary, error) {
	rules := data.Rules()
	guarded := &sparing{Spool: spool, free: d.machine.Backups.Free}
	body := &metered{r: r.HTTP.Body, p: p, stage: "receive", total: max(r.HTTP.ContentLength, 0), text: name}
	size, err := io.Copy(guarded, io.LimitReader(body, rules.Limits.Packed+1))
	if err != nil {
		return backup.Summary{}, fmt.Errorf("receiving the backup: %w", err)
	}
	if _, err := spool.Seek(0, io.SeekStart); err != nil {
		return backup.Summary{}, err
	}
	summary, err := backup.Scan(ctx, &metered{r: spool, p: p, stage: "check", total: size, text: name}, rules, nil)
	if err != nil {
		return backup.Summary{}, err
	}
	if err := backup.CheckManifest(summary.Manifest, backup.KindApplication, name); err != nil {
		return backup.Summary{}, err
	}
	if summary.Members == 0 {
		return backup.Summary{}, &backup.Problem{Rule: backup.RuleContent, Text: "it has no members: restore nothing with a factory reset of the application"}
	}
	left, err := d.machine.Backups.Free()
	if err != nil {
		return backup.Summary{}, err
	}
	// A file takes a block at least.
	if needed := summary.Bytes + int64(summary.Members)*4096 + reserve; left < needed {
		return backup.Summary{}, noRoom(left, needed)
	}
	if r.Query("dry-run") != "" {
		return summary, nil
	}
	if _, err := spool.Seek(0, io.SeekStart); err != nil {
		return backup.Summary{}, err
	}
	return summary, place.Extract(ctx, spool, rules, func(done int64) { p.Set("unpack", done, summary.Bytes, name) })
}

// planData shows what a restore does, or without a summary the part of a reset that is alike.
func planData(name string, data backup.Data, summary *backup.Summary) plan.Plan {
	p := plan.Plan{Disconnects: true}
	p.Add(plan.Step{Kind: plan.StopUnit, Object: "application " + name, Why: "with all that it runs"})
	why := "it begins empty"
	if summary != nil {
		why = fmt.Sprintf("%d files with %d bytes out of the backup take its place", summary.Members, summary.Bytes)
		if m := summary.Manifest; m != nil {
			why += ", made " + m.CreatedAt.UTC().Format(time.RFC3339) + " on " + m.MachineID
		} else {
			p.Notes = append(p.Notes, "The archive does not say who made it when: it is one of IncusOS.")
		}
	}
	p.Add(plan.Step{Kind: plan.WriteFile, Object: data.Folder, Before: "the data of now", After: "the data to be", Secret: true, Why: why})
	p.Add(plan.Step{Kind: plan.StartUnit, Object: "application " + name, Why: "when it does not start, the data of before comes back"})
	p.Notes = append(p.Notes, "What lies in storage pools, as instances, stays as it is.")
	return p
}

// exchange stops an application, gives it its new data, starts it and does what is left to
// do with it. When any of that fails it has the data of before again, and runs. The last good
// data is removed only when the new one works.
func (d *Daemon) exchange(ctx context.Context, name string, place backup.Place, then func(context.Context) error) error {
	// What has begun is brought to an end, whether or not the daemon is asked to stop.
	ctx = context.WithoutCancel(ctx)
	defer d.machine.AppData.Hold()()
	if err := d.machine.AppData.Stop(ctx, name, place.Dir); err != nil {
		return errors.Join(fmt.Errorf("stopping it: %w", err), place.Discard(), d.machine.AppData.Start(ctx, name))
	}
	if err := place.Swap(); err != nil {
		return errors.Join(err, place.Discard(), d.machine.AppData.Start(ctx, name))
	}
	return d.startWith(ctx, name, place, then)
}

// startWith is the second half of exchange, for an application that has its new data.
func (d *Daemon) startWith(ctx context.Context, name string, place backup.Place, then func(context.Context) error) error {
	err := d.machine.AppData.Start(ctx, name)
	if err == nil {
		err = then(ctx)
	}
	if err == nil {
		return place.Settle()
	}
	err = fmt.Errorf("with its new data: %w", err)
	if failed := errors.Join(d.machine.AppData.Stop(ctx, name, place.Dir), place.Back()); failed != nil {
		return errors.Join(err, fmt.Errorf("going back to the data of before: %w; the next start of the node tries again", failed))
	}
	if failed := d.machine.AppData.Start(ctx, name); failed != nil {
		return errors.Join(err, fmt.Errorf("starting it with the data of before: %w", failed))
	}
	return fmt.Errorf("%w; it runs with the data of before again", err)
}
