package keyupdate

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/holdfast-os/holdfast/internal/pcr"
	"github.com/holdfast-os/holdfast/internal/secureboot"
)

// Release is a release that is to be installed, as its kernel image has it.
type Release struct {
	// Version names it.
	Version string
	// UKI is the kernel image; its name must be none of the ESP.
	UKI Program
	// Key is the key of its PCR policy, PEM; nil when it brings none.
	Key []byte
}

// Coming is a release that the disk was bound to and whose kernel image may reach the ESP
// at any moment of this start. Its bindings are kept until then, whoever asks.
type Coming struct {
	// BootID is the start in which it was prepared; in a later one the ESP says what may start.
	BootID  string        `json:"boot_id"`
	Version string        `json:"version"`
	Starts  []ComingStart `json:"starts"`
}

// ComingStart is a secureboot.Start, hexadecimal.
type ComingStart struct {
	Name   string   `json:"name"`
	PCR7   string   `json:"pcr7"`
	Signed []string `json:"signed"`
}

// Opens says whether the TPM opens the disk under a release, with each boot loader of the
// ESP, and in note why, for a person. It changes nothing.
//
// A release that the same entry of db lets in, and that carries the signatures of the same
// PCR keys, is measured as the running one is: that is known without any prediction, also on
// a machine whose firmware logs odd things. Every other one is predicted; where that cannot
// be done, the answer is no, and note says why.
func (u *Updater) Opens(ctx context.Context, r Release) (opens bool, note string, err error) {
	doc, err := u.Store.Load()
	if err != nil {
		return false, "", err
	}
	v, err := u.look(ctx, doc)
	if err != nil {
		return false, "", err
	}
	if v.measuredAlike(r) {
		return true, "PCR 7 stays; PCR 11 changes, and its policy is signed by the keys that the disk is bound to", nil
	}
	present, coming, err := v.startsWith(r)
	if err != nil {
		return false, err.Error(), nil
	}
	for _, s := range append(present, coming...) {
		if _, open := secureboot.Opens(v.have, s); !open {
			return false, "the release is signed by other keys, and the TPM does not open the disk for " + s.Name + " yet", nil
		}
	}
	return true, "the release is signed by other keys, and the disk is bound to what it will measure", nil
}

// Prepare binds the disk to what a release will measure, beside what the node may start as
// now: secureboot.SwitchSteps, up to the moment at which the release is installed. That is
// for the caller to do, when it has returned without an error. ErrBusy.
//
// The caller has removed the boot entry of the release that is overwritten before, so that
// nothing is kept open for it.
func (u *Updater) Prepare(ctx context.Context, r Release) error {
	if !u.working.TryLock() {
		return ErrBusy
	}
	defer u.working.Unlock()
	fail := func(err error) error {
		return fmt.Errorf("binding the disk to release %s, which is signed by other keys: %w", r.Version, err)
	}
	doc, err := u.Store.Load()
	if err != nil {
		return err
	}
	v, err := u.look(ctx, doc)
	if err != nil {
		return err
	}
	present, coming, err := v.startsWith(r)
	if err != nil {
		return fail(err)
	}
	n := len(coming) - 1
	steps, err := secureboot.SwitchSteps(secureboot.Switch{Release: r.Version, Between: coming[:n], After: coming[n]}, v.have, present)
	if err != nil {
		return fail(err)
	}
	v.learn(r.Key)
	// First of all, so that no start of the daemon takes the new bindings for old ones.
	doc.Coming = &Coming{BootID: v.BootID, Version: r.Version}
	for _, s := range coming {
		doc.Coming.Starts = append(doc.Coming.Starts, ComingStart{Name: s.Name, PCR7: hex.EncodeToString(s.PCR7[:]), Signed: s.Signed})
	}
	if err := u.Store.Save(doc); err != nil {
		return fail(err)
	}
	for _, s := range steps {
		switch s.Kind {
		case secureboot.Bind:
			err = u.bind(ctx, &doc, v, *s.Binding)
		case secureboot.Unbind:
			err = u.Disk.Unbind(ctx, v.policies[*s.Binding])
		case secureboot.CheckBindings:
			err = u.check(ctx, doc, s.Bindings, append(slices.Clone(present), coming...))
		case secureboot.InstallRelease:
			return nil
		default:
			err = fmt.Errorf("a step of the kind %s is not known", s.Kind)
		}
		if err != nil {
			return fail(err)
		}
	}
	return nil
}

// startsWith gives what the node may start as with the variables of now: without a release,
// and by it.
func (v *view) startsWith(r Release) (present, coming []secureboot.Start, err error) {
	if v.doubt != nil {
		return nil, nil, v.doubt
	}
	all := *v
	all.UKIs = append(slices.Clone(v.UKIs), r.UKI)
	starts, err := all.predict(v.State.Variables)
	if err != nil {
		return nil, nil, err
	}
	for _, s := range starts {
		if slices.ContainsFunc(v.Loaders, func(l Program) bool { return s.Name == startName(l.Image.Name, r.UKI.Image.Name) }) {
			coming = append(coming, s)
		} else {
			present = append(present, s)
		}
	}
	if len(coming) == 0 {
		return nil, nil, errors.New("nothing in db lets the release in together with a boot loader of the ESP")
	}
	return present, coming, nil
}

// measuredAlike is true when the next start into a release finds the same registers and
// signatures of the same keys as this one did.
func (v *view) measuredAlike(r Release) bool {
	if !v.OpenedByTPM || len(v.state.Written) > 0 {
		return false
	}
	at := slices.IndexFunc(v.UKIs, func(p Program) bool { return p.Image.Name == v.UKI })
	if at < 0 {
		return false
	}
	running := v.UKIs[at]
	if v.state.Enabled {
		db, err := secureboot.ParseDatabase(v.State.Variables[string(secureboot.DB)])
		if err != nil {
			return false
		}
		ours, in := db.Authority(running.Image)
		theirs, inToo := db.Authority(r.UKI.Image)
		if !in || !inToo || string(ours.Signature()) != string(theirs.Signature()) {
			return false
		}
	}
	// This start went through the bindings up to the one that opened; what it met there, and
	// had signatures of, the release has to have too.
	for _, b := range v.have {
		if slices.Contains(running.Signed, b.Key) && !slices.Contains(r.UKI.Signed, b.Key) {
			return false
		}
	}
	return true
}

// expected are the starts of a release that may reach the ESP in this start.
func (d Document) expected(boot string) []secureboot.Start {
	if d.Coming == nil || d.Coming.BootID != boot {
		return nil
	}
	var starts []secureboot.Start
	for _, s := range d.Coming.Starts {
		start := secureboot.Start{Name: s.Name, Signed: s.Signed}
		raw, err := hex.DecodeString(s.PCR7)
		if err != nil || len(raw) != len(pcr.Value{}) {
			continue
		}
		copy(start.PCR7[:], raw)
		starts = append(starts, start)
	}
	return starts
}
