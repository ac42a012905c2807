package keyupdate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/holdfast-os/holdfast/internal/secureboot"
)

// advance goes as far as this start lets it.
func (u *Updater) advance(ctx context.Context, doc Document) (Outcome, error) {
	text, err := u.Store.Archive()
	if err != nil {
		return Outcome{}, err
	}
	archive, err := secureboot.ReadArchive(bytes.NewReader(text))
	if err != nil {
		return Outcome{}, errors.Join(fmt.Errorf("%w: %w", ErrRefused, err), u.end(&doc, Refused, err.Error(), nil))
	}
	for {
		v, err := u.look(ctx, doc)
		if err != nil {
			return Outcome{}, err
		}
		d := secureboot.Next(v.state, archive)
		switch d.Action {
		case secureboot.Done:
			return Outcome{Why: d.Why, Notes: d.Notes}, u.end(&doc, Done, d.Why, d.Notes)
		case secureboot.Refuse:
			return Outcome{}, errors.Join(fmt.Errorf("%w: %s", ErrRefused, d.Why), u.end(&doc, Refused, d.Why, d.Notes))
		case secureboot.RestartFirst:
			return u.cover(ctx, doc, v, d)
		}
		if doc.Tried[d.Update.File] >= maxTries {
			why := fmt.Sprintf("the firmware took %s in %d starts and has it in none after that; look for a firmware update, then send the archive again", d.Update.File, maxTries)
			return Outcome{}, errors.Join(fmt.Errorf("%w: %s", ErrRefused, why), u.end(&doc, Failed, why, d.Notes))
		}
		refused, err := u.write(ctx, &doc, v, d)
		if err != nil {
			doc.Stage, doc.Reason = Failed, err.Error()
			return Outcome{}, errors.Join(err, u.Store.Save(doc))
		}
		if !refused {
			return u.restart(doc, d.Why, d.Notes)
		}
	}
}

// end forgets the archive.
func (u *Updater) end(doc *Document, stage Stage, reason string, notes []string) error {
	doc.Stage, doc.Reason, doc.Notes = stage, reason, notes
	// The document first: without it the archive would be taken up once more.
	return errors.Join(u.Store.Save(*doc), u.Store.Drop())
}

func (u *Updater) restart(doc Document, why string, notes []string) (Outcome, error) {
	doc.Stage, doc.Reason, doc.Notes = Restart, why, notes
	return Outcome{Restart: true, Why: why, Notes: notes}, u.Store.Save(doc)
}

// cover is for a start in which a variable was written: what the firmware has now is bound,
// in case that the daemon ended before it could look. A restart is asked for only when this
// node wrote it, or it would go on for ever with firmware that logs something else.
func (u *Updater) cover(ctx context.Context, doc Document, v *view, d secureboot.Decision) (Outcome, error) {
	if err := u.bindPresent(ctx, &doc, v); err != nil {
		doc.Stage, doc.Reason = Failed, err.Error()
		return Outcome{}, errors.Join(err, u.Store.Save(doc))
	}
	if doc.Written != nil && doc.Written.BootID == v.BootID {
		return u.restart(doc, d.Why, d.Notes)
	}
	doc.Reason, doc.Notes = d.Why, d.Notes
	return Outcome{Why: d.Why, Notes: d.Notes}, u.Store.Save(doc)
}

// ErrUnbound means that the next start will ask for the recovery key.
var ErrUnbound = errors.New("the disk could not be bound to what the firmware has now: keep a recovery key at hand, the next start will ask for it")

// bindPresent binds the starts that can come of the variables as they are.
func (u *Updater) bindPresent(ctx context.Context, doc *Document, v *view) error {
	fail := func(err error) error { return fmt.Errorf("%w: %w", ErrUnbound, err) }
	if v.doubt != nil {
		return fail(v.doubt)
	}
	starts, err := v.predict(v.State.Variables)
	if err != nil {
		return fail(err)
	}
	// The name of a variable is for the texts alone; only steps with bindings are done.
	d := secureboot.Decision{Action: secureboot.Write, Update: &secureboot.Auth{Variable: "variables"}}
	steps, err := secureboot.WriteSteps(d, v.have, v.starts, secureboot.Forecast{Starts: starts})
	if err != nil {
		return fail(err)
	}
	for _, s := range steps {
		if s.Kind == secureboot.AppendVariable {
			return nil
		}
		if err := u.step(ctx, doc, v, s, slices.Concat(v.starts, starts)); err != nil {
			return fail(err)
		}
	}
	return nil
}

// write carries out a decision to write. refused is true when the firmware did not take what
// it may refuse; the archive then goes on without it.
func (u *Updater) write(ctx context.Context, doc *Document, v *view, d secureboot.Decision) (refused bool, err error) {
	steps, err := v.writeSteps(d)
	if err != nil {
		return false, err
	}
	// Firmware writes the whole variable anew, with its name and what is around it.
	const around = 1024
	if err := u.Machine.Room(len(d.After) + around); err != nil {
		return false, err
	}
	next := maps.Clone(v.State.Variables)
	next[string(d.Update.Variable)] = d.After
	starts, err := v.predict(next)
	if err != nil {
		return false, err
	}
	for _, s := range steps {
		switch s.Kind {
		case secureboot.AppendVariable:
			if refused, err = u.append(doc, v, d); refused || err != nil {
				return refused, err
			}
		case secureboot.ReadBack:
			err = u.readBack(ctx, doc, v, s)
		case secureboot.Restart:
			return false, nil
		default:
			err = u.step(ctx, doc, v, s, slices.Concat(v.starts, starts))
		}
		if err != nil {
			return false, err
		}
	}
	return false, nil
}

// step does what concerns the disk.
func (u *Updater) step(ctx context.Context, doc *Document, v *view, s secureboot.Step, starts []secureboot.Start) error {
	switch s.Kind {
	case secureboot.Bind:
		return u.bind(ctx, doc, v, *s.Binding)
	case secureboot.Unbind:
		return u.Disk.Unbind(ctx, v.policies[*s.Binding])
	case secureboot.CheckBindings:
		if err := u.check(ctx, *doc, s.Bindings, starts); err != nil {
			return err
		}
		doc.Stage = Bound
		return u.Store.Save(*doc)
	}
	return fmt.Errorf("updating Secure Boot keys: a step of the kind %s is not known", s.Kind)
}

// bind adds a binding. Its values are remembered first: without them it could not be told
// what it is for.
func (u *Updater) bind(ctx context.Context, doc *Document, v *view, b secureboot.Binding) error {
	key, known := v.keys[b.Key]
	if !known {
		return fmt.Errorf("binding the disk to %s: no UKI of this node and no binding has the key itself", b)
	}
	policy, err := PolicyOf(b, key)
	if err != nil {
		return fmt.Errorf("binding the disk to %s: %w", b, err)
	}
	doc.know(b)
	if err := u.Store.Save(*doc); err != nil {
		return err
	}
	v.policies[b] = policy
	return u.Disk.Bind(ctx, Wanted{Binding: b, PublicKey: key, Policy: policy})
}

// check compares the header with what was planned, and looks whether every start is opened
// in the order that the header has: a new token takes the lowest number that is free.
func (u *Updater) check(ctx context.Context, doc Document, want []secureboot.Binding, starts []secureboot.Start) error {
	again, err := u.look(ctx, doc)
	if err != nil {
		return err
	}
	missing := func(in, of []secureboot.Binding) []secureboot.Binding {
		return slices.DeleteFunc(slices.Clone(of), func(b secureboot.Binding) bool { return slices.Contains(in, b) })
	}
	if lack, more := missing(again.have, want), missing(want, again.have); len(lack)+len(more) > 0 {
		return fmt.Errorf("checking the bindings of the disk: its header lacks %v and has %v beside what was planned; nothing was switched", lack, more)
	}
	for _, s := range starts {
		if _, open := secureboot.Opens(again.have, s); !open {
			return fmt.Errorf("checking the bindings of the disk: in the order of its header they do not open it for %s; nothing was switched", s.Name)
		}
	}
	return nil
}

// append hands the update to the firmware.
func (u *Updater) append(doc *Document, v *view, d secureboot.Decision) (refused bool, err error) {
	file := d.Update.File
	before := *doc
	doc.Stage, doc.Reason = Writing, d.Why
	doc.Written = &Written{BootID: v.BootID, File: file, Variable: d.Update.Variable}
	doc.Tried = maps.Clone(doc.Tried)
	if doc.Tried == nil {
		doc.Tried = map[string]int{}
	}
	doc.Tried[file]++
	if err := u.Store.Save(*doc); err != nil {
		return false, err
	}
	err = u.Machine.Append(*d.Update)
	switch {
	case err == nil:
		return false, nil
	case errors.Is(err, ErrFirmware) && d.MayFail:
		*doc = before
		doc.Failed = maps.Clone(doc.Failed)
		if doc.Failed == nil {
			doc.Failed = map[string]string{}
		}
		doc.Failed[file] = err.Error()
		return true, u.Store.Save(*doc)
	case errors.Is(err, ErrFirmware):
		*doc = before
		return false, err
	}
	// What else went wrong may have gone wrong behind the change.
	content, readErr := u.Machine.Read(d.Update.Variable)
	if readErr == nil && bytes.Equal(content, v.State.Variables[string(d.Update.Variable)]) {
		*doc = before
		return false, err
	}
	return false, readErr
}

// readBack binds what the firmware really stored.
func (u *Updater) readBack(ctx context.Context, doc *Document, v *view, s secureboot.Step) error {
	content, err := u.Machine.Read(doc.Written.Variable)
	if err != nil {
		return err
	}
	if bytes.Equal(content, s.Content) {
		return nil
	}
	if bytes.Equal(content, v.State.Variables[s.Object]) {
		return fmt.Errorf("the firmware took the update of %s and stored nothing of it; look for a firmware update", s.Object)
	}
	again, err := u.look(ctx, *doc)
	if err != nil {
		return err
	}
	return u.bindPresent(ctx, doc, again)
}

// settle removes the bindings that no start needs any more. Nothing is removed while a
// variable is not what was measured, or when a person opened the disk.
func (u *Updater) settle(ctx context.Context, doc *Document) error {
	v, err := u.look(ctx, *doc)
	if err != nil || !v.state.Enabled || !v.OpenedByTPM || v.doubt != nil || len(v.state.Written) > 0 {
		return err
	}
	if doc.Written != nil { // by an earlier start: what it did is measured now
		doc.Written = nil
		if err := u.Store.Save(*doc); err != nil {
			return err
		}
	}
	for _, s := range secureboot.Settle(v.have, v.present, append(slices.Clone(v.starts), doc.expected(v.BootID)...)) {
		if err := u.Disk.Unbind(ctx, v.policies[*s.Binding]); err != nil {
			return err
		}
	}
	return nil
}
