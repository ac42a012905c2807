package keyupdate

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/holdfast-os/holdfast/internal/secureboot"
)

// ReplaceLoaders puts the boot loader of the running release in the place of those on the
// ESP that another key lets in than the release itself: they are what is left of the key
// before, and as long as they are there, nothing can revoke it. copy replaces one, named as
// in Facts, whole or not at all. It gives the names of those that were replaced.
//
// The disk is bound to the new boot loader with each UKI first, beside the old one, so that
// the power may go at any time. The loader that was started is the last: until then the
// firmware has it, and from then on what it falls back to. Nothing is done where a release
// is on trial, where something waits for a restart, or where nothing can be predicted.
func (u *Updater) ReplaceLoaders(ctx context.Context, loader Program, copy func(name string) error) (replaced []string, err error) {
	if !u.working.TryLock() {
		return nil, ErrBusy
	}
	defer u.working.Unlock()
	doc, err := u.Store.Load()
	if err != nil {
		return nil, err
	}
	v, err := u.look(ctx, doc)
	if err != nil || !v.state.Enabled || !v.OpenedByTPM || v.OnTrial || v.doubt != nil || len(v.state.Written) > 0 {
		return nil, err
	}
	fail := func(err error) ([]string, error) {
		return replaced, fmt.Errorf("replacing the boot loader, which is signed by the key before: %w", err)
	}
	stale, err := v.stale(loader)
	if err != nil {
		return fail(err)
	}
	if len(stale) == 0 {
		return nil, nil
	}
	loader.Image.Name = "the new boot loader"
	all := *v
	all.Loaders = append(slices.Clone(v.Loaders), loader)
	starts, err := all.predict(v.State.Variables)
	if err != nil {
		return fail(err)
	}
	coming := slices.DeleteFunc(starts, func(s secureboot.Start) bool {
		return slices.ContainsFunc(v.starts, func(o secureboot.Start) bool { return o.Name == s.Name })
	})
	if len(coming) == 0 {
		return fail(fmt.Errorf("nothing in db lets it in"))
	}
	n := len(coming) - 1
	steps, err := secureboot.SwitchSteps(secureboot.Switch{Release: "with a new boot loader", Loaders: stale, Between: coming, After: coming[n]}, v.have, v.starts)
	if err != nil {
		return fail(err)
	}
	for _, s := range steps {
		switch s.Kind {
		case secureboot.Bind:
			err = u.bind(ctx, &doc, v, *s.Binding)
		case secureboot.Unbind:
			err = u.Disk.Unbind(ctx, v.policies[*s.Binding])
		case secureboot.CheckBindings:
			err = u.check(ctx, doc, s.Bindings, slices.Concat(v.starts, coming))
		case secureboot.CopyLoader:
			if err = copy(s.Object); err == nil {
				replaced = append(replaced, s.Object)
			}
		case secureboot.InstallRelease:
			return replaced, nil
		}
		if err != nil {
			return fail(err)
		}
	}
	return replaced, nil
}

// stale are the boot loaders of the ESP that another entry of db lets in than the running
// UKI, the started one last; none when the new one is not let in by that of the UKI either.
func (v *view) stale(loader Program) ([]string, error) {
	db, err := secureboot.ParseDatabase(v.State.Variables[string(secureboot.DB)])
	if err != nil {
		return nil, err
	}
	dbx, err := secureboot.ParseDatabase(v.State.Variables[string(secureboot.DBX)])
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(v.UKIs, func(p Program) bool { return p.Image.Name == v.UKI })
	if at < 0 {
		return nil, nil
	}
	by := func(p Program) []byte {
		entry, in := db.Authority(p.Image)
		if _, revoked := dbx.Revokes(p.Image); !in || revoked {
			return nil
		}
		return entry.Signature()
	}
	want := by(v.UKIs[at])
	if want == nil || !bytes.Equal(by(loader), want) {
		return nil, nil
	}
	var first, last []string
	for _, p := range v.Loaders {
		switch {
		case bytes.Equal(by(p), want):
		case p.Image.Name == v.Loader:
			last = append(last, p.Image.Name)
		default:
			first = append(first, p.Image.Name)
		}
	}
	return append(first, last...), nil
}
