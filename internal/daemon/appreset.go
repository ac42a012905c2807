package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/apps"
	"github.com/holdfast-os/holdfast/internal/backup"
	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/httpapi"
	"github.com/holdfast-os/holdfast/internal/operation"
	"github.com/holdfast-os/holdfast/internal/plan"
	"github.com/holdfast-os/holdfast/internal/reset"
	"github.com/holdfast-os/holdfast/internal/seed"
	"github.com/holdfast-os/holdfast/internal/state"
)

// The reset of an application is noted before its answer, and the note goes when it has
// ended. A start of the node that finds the note goes on with the reset from whatever a power
// cut has left: up to the moment in which the application works with its new data it begins
// once more, and behind it only the data of before is left to be removed.

// appResetDocument is no part of a backup: a reset belongs to the machine that has begun it.
var appResetDocument = state.Document{Name: backup.ResetDocument, Version: 1}

// appReset is the document "application-reset".
type appReset struct {
	Application string `json:"application"`
	// Started is when it was asked for, By who asked.
	Started time.Time `json:"started"`
	By      string    `json:"by"`
	// Initialized is what was noted of the application before.
	Initialized bool `json:"initialized"`
	// Works is true once the application has answered with its new data and has its seed.
	Works bool `json:"works"`
	// Seed is the document that it is given, and Before the one of the node that it takes the
	// place of; empty for a reset with the seed that the node has, and for none.
	Seed   json.RawMessage `json:"seed,omitempty"`
	Before json.RawMessage `json:"before,omitempty"`
}

func (n appReset) what() string { return "Resetting the application " + n.Application }

// notedReset gives the reset that is under way; the application's name is empty without one.
func (d *Daemon) notedReset() (appReset, error) {
	var note appReset
	docs, err := d.memory.documents()
	if err == nil {
		_, err = docs.Load(appResetDocument, &note)
	}
	if err != nil {
		return appReset{}, fmt.Errorf("looking for a reset of an application that has begun: %w", err)
	}
	return note, nil
}

func (d *Daemon) noteReset(note appReset) error {
	docs, err := d.memory.documents()
	if err == nil {
		err = docs.Save(appResetDocument, note)
	}
	if err != nil {
		return fmt.Errorf("noting how far the reset of the application %s is: %w", note.Application, err)
	}
	return nil
}

// aloneWithData is alone for what replaces the data of an application: a reset that was
// stopped in the middle comes first.
func (d *Daemon) aloneWithData() (release func(), err error) {
	if release, err = d.alone(); err != nil {
		return nil, err
	}
	note, err := d.notedReset()
	if err == nil && note.Application != "" {
		err = httpapi.Conflict("the reset of the application %s, asked for at %s, is not finished: restart the node, and its start goes on with it",
			note.Application, note.Started.UTC().Format(time.RFC3339))
	}
	if err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// resetApplication starts an application anew, with empty data and the seed.
func (d *Daemon) resetApplication(r *httpapi.Request) (any, error) {
	name, data, err := d.dataOf(r)
	if err != nil {
		return nil, err
	}
	given, err := reset.ApplicationSeed(name, httpapi.Body[osapi.ApplicationResetPost](r).Seeds)
	var problems config.Problems
	if errors.As(err, &problems) {
		return nil, httpapi.BadRequest("%w", problems)
	}
	if err != nil {
		return nil, err
	}
	if r.Query("dry-run") != "" {
		return d.dryRun(r, func() (plan.Plan, error) { return planReset(name, data, given != nil), nil })
	}
	release, err := d.aloneWithData()
	if err != nil {
		return nil, err
	}
	note := appReset{Application: name, Started: d.clock.Now().UTC(), By: r.Caller(), Seed: given}
	place := backup.Place{Dir: d.machine.AppData.Dir(data.Folder)}
	if err := d.decideReset(r.Context(), &note, place); err != nil {
		release()
		return nil, err
	}
	return d.behindAlone(note.what(), release, func(ctx context.Context, p *operation.Progress) error {
		p.Set("start", 0, 0, name)
		return d.endReset(ctx, note, d.anew(ctx, note, place))
	}), nil
}

// planReset shows what a reset does.
func planReset(name string, data backup.Data, seeded bool) plan.Plan {
	p := planData(name, data, nil)
	why := "apply the node's seed to it"
	if seeded {
		p.Add(plan.Step{Kind: plan.UseTool, Object: "the seed", Tool: reset.ToolSeed, Why: "it has another document " + reset.SeedOf(name) + "; that of before comes back when the reset fails"})
		why = "apply the new seed to it"
	}
	p.Add(plan.Step{Kind: plan.UseTool, Object: "application " + name, Tool: "seed", Why: why})
	p.Notes = append(p.Notes, "A reset that is stopped in the middle goes on at the next start of the node.")
	return p
}

// decideReset makes room for the new data and writes the note. On an error nothing is decided.
func (d *Daemon) decideReset(ctx context.Context, note *appReset, place backup.Place) error {
	err := d.machine.AppData.Note(ctx, note.Application, func(r *apps.Record) { note.Initialized = r.Initialized })
	if err == nil && note.Seed != nil {
		note.Before, err = d.seedOf(ctx, note.Application)
	}
	if err != nil {
		return err
	}
	if err := place.Prepare(); err != nil {
		return err
	}
	if err := d.noteReset(*note); err != nil {
		return errors.Join(err, place.Discard())
	}
	return nil
}

// seedOf is the document of the seed that an application is initialized with; nil for none.
func (d *Daemon) seedOf(ctx context.Context, application string) (json.RawMessage, error) {
	set, err := d.machine.Seed.Read(ctx)
	if err != nil {
		return nil, err
	}
	document, err := set.Get(reset.SeedOf(application))
	if errors.Is(err, seed.Missing) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return json.Marshal(document)
}

// anew gives an application empty data and the seed.
func (d *Daemon) anew(ctx context.Context, note appReset, place backup.Place) error {
	if err := d.unseed(ctx, note); err != nil {
		return errors.Join(err, place.Discard())
	}
	return d.exchange(ctx, note.Application, place, d.reseed(note))
}

// unseed notes that an application needs the seed, the new one if one was given.
func (d *Daemon) unseed(ctx context.Context, note appReset) error {
	if note.Seed != nil {
		if err := d.machine.Seed.Replace(context.WithoutCancel(ctx), reset.SeedOf(note.Application), note.Seed); err != nil {
			return fmt.Errorf("keeping its new seed: %w", err)
		}
	}
	return d.machine.AppData.Note(context.WithoutCancel(ctx), note.Application, func(r *apps.Record) { r.Initialized = false })
}

// reseed gives an application that runs with its new data the seed, unless its start has done
// so. Behind it there is no way back.
func (d *Daemon) reseed(note appReset) func(context.Context) error {
	return func(ctx context.Context) error {
		seeded := false
		err := d.machine.AppData.Note(ctx, note.Application, func(r *apps.Record) { seeded = r.Initialized })
		if err == nil && !seeded {
			err = d.machine.AppData.Initialize(ctx, note.Application)
		}
		if err != nil {
			return err
		}
		note.Works = true
		return d.noteReset(note)
	}
}

// endReset ends a reset that has worked, or that has failed and given the data of before back.
// One that failed since the node is stopping has not ended: the next start goes on with it.
func (d *Daemon) endReset(ctx context.Context, note appReset, err error) error {
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("resetting the application %s: %w; the next start of the node goes on with it", note.Application, err)
	}
	works := err == nil
	if !works && note.Seed != nil {
		err = errors.Join(err, d.machine.Seed.Replace(context.WithoutCancel(ctx), reset.SeedOf(note.Application), note.Before))
	}
	err = errors.Join(err, d.machine.AppData.Note(context.WithoutCancel(ctx), note.Application, func(r *apps.Record) {
		r.Initialized = works || note.Initialized
	}), d.forgetReset())
	if err != nil {
		return fmt.Errorf("resetting the application %s: %w", note.Application, err)
	}
	d.lifecycle("application-reset", "/1.0/applications/"+note.Application, nil)
	return nil
}

func (d *Daemon) forgetReset() error {
	docs, err := d.memory.documents()
	if err == nil {
		err = docs.Remove(appResetDocument)
	}
	if err != nil {
		return fmt.Errorf("removing the note of the reset: %w", err)
	}
	return nil
}

// startInstalled starts the applications, and goes on with a reset that was stopped in the
// middle. That it fails is told, and keeps no node from starting.
func (d *Daemon) startInstalled(ctx context.Context) error {
	release, busy := d.alone()
	note, err := d.notedReset()
	if busy == nil {
		defer release()
	}
	if err != nil {
		d.tellReset(err)
	}
	switch {
	case note.Application == "":
		return d.machine.AppUpdates.StartAll(ctx, "")
	case busy != nil: // who holds the data carries it out
		return d.machine.AppUpdates.StartAll(ctx, note.Application)
	}
	return d.resume(ctx, note)
}

func (d *Daemon) tellReset(err error) {
	d.log.Error("the reset of an application", "error", err)
	d.machine.Display.Message("error", err.Error())
}

// resume goes on with a reset, as an operation, and starts the applications meanwhile. The
// error is that of their start.
func (d *Daemon) resume(ctx context.Context, note appReset) error {
	data, has := backup.DataOf(note.Application)
	names, err := d.machine.Apps.List(ctx)
	if err != nil {
		return err
	}
	if d.machine.AppData == nil || !has || !slices.Contains(names, note.Application) {
		d.tellReset(errors.Join(fmt.Errorf("a reset of the application %s is forgotten: the node does not have it any more", note.Application), d.forgetReset()))
		return d.machine.AppUpdates.StartAll(ctx, "")
	}
	text := fmt.Sprintf("The reset of the application %s, asked for at %s, goes on.", note.Application, note.Started.UTC().Format(time.RFC3339))
	d.log.Warn(text)
	d.machine.Display.Message("warning", text)
	started := errors.New("the applications were not started")
	err = d.during(note.what(), note.Application, func(operationCtx context.Context, p *operation.Progress) (err error) {
		ctx, stop := joined(ctx, operationCtx)
		defer stop()
		p.Set("start", 0, 0, note.Application)
		started, err = d.anewAtStart(ctx, note, backup.Place{Dir: d.machine.AppData.Dir(data.Folder)})
		return d.endReset(ctx, note, err)
	})
	if err != nil {
		d.tellReset(err)
	}
	return started
}

// anewAtStart is anew for a node that starts, where the data may be in any state between the
// steps of a reset. started is what StartAll says, which starts the application too.
func (d *Daemon) anewAtStart(ctx context.Context, note appReset, place backup.Place) (started, err error) {
	all := d.machine.AppUpdates.StartAll
	if note.Works {
		err = place.Finish()
		return all(ctx, ""), err
	}
	if err := d.emptyAtStart(ctx, note, place); err != nil {
		return all(ctx, ""), err
	}
	started = all(ctx, note.Application)
	if ctx.Err() != nil {
		return started, ctx.Err()
	}
	err = func() error {
		defer d.machine.AppData.Hold()()
		return d.startWith(context.WithoutCancel(ctx), note.Application, place, d.reseed(note))
	}()
	if err != nil && ctx.Err() == nil {
		started = all(ctx, "")
	}
	return started, err
}

// emptyAtStart puts empty data in the place of an application's. The application may run, when
// it was the daemon alone that had ended.
func (d *Daemon) emptyAtStart(ctx context.Context, note appReset, place backup.Place) error {
	ctx = context.WithoutCancel(ctx)
	defer d.machine.AppData.Hold()()
	if err := d.machine.AppData.Stop(ctx, note.Application, place.Dir); err != nil {
		return fmt.Errorf("stopping it: %w", err)
	}
	err := place.Rewind()
	if err == nil {
		err = place.Prepare()
	}
	if err == nil {
		err = d.unseed(ctx, note)
	}
	if err != nil {
		return err
	}
	return place.Swap()
}
