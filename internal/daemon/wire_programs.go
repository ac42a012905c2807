package daemon

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/holdfast-os/holdfast/internal/keyupdate"
	"github.com/holdfast-os/holdfast/internal/pcr"
	"github.com/holdfast-os/holdfast/internal/secureboot"
	"github.com/holdfast-os/holdfast/internal/system/pe"
	"github.com/holdfast-os/holdfast/internal/system/tpm"
	"github.com/holdfast-os/holdfast/internal/updater"
)

// programBinding is updater.Programs: on a node without Secure Boot the disk is bound to
// register 4, which has another value with each kernel image.
type programBinding struct {
	disk keyDisk
	esp  *espPrograms
}

func (h *Host) programBinding(system *updater.System) updater.Programs {
	esp := &espPrograms{loader: system.Loader, esp: espDir, arch: architecture()}
	return programBinding{keyDisk{h, esp}, esp}
}

// matter is false with Secure Boot, which checks programs before they start, and with an
// emulated TPM, which the firmware measures nothing into.
func (p programBinding) matter() (bool, error) {
	modes, err := p.disk.efi.Modes()
	if err != nil || modes.SecureBoot {
		return false, err
	}
	kind, err := tpm.Host{Root: root}.Kind()
	return kind == tpm.Hardware, err
}

// Bound is part of updater.Programs.
func (p programBinding) Bound(ctx context.Context, image string) (bool, error) {
	matter, err := p.matter()
	if err != nil || !matter {
		return !matter, err
	}
	_, next, err := p.bindings(image)
	if err != nil {
		return false, err
	}
	tokens, err := p.disk.Tokens(ctx)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(tokens, func(t keyupdate.Token) bool { return t.Policy == next.Policy }), nil
}

// Bind is part of updater.Programs. The binding of the running release stays, in case that
// the next one has to be left again; those of releases before it go.
func (p programBinding) Bind(ctx context.Context, image string) error {
	present, next, err := p.bindings(image)
	if err != nil {
		return err
	}
	tokens, err := p.disk.Tokens(ctx)
	if err != nil {
		return err
	}
	for _, policy := range outdated(tokens, present.Policy, next.Policy) {
		if err := p.disk.Unbind(ctx, policy); err != nil {
			return err
		}
	}
	return p.disk.Bind(ctx, next)
}

// outdated are the bindings that open neither this start nor the next. When the one of this
// start is not among them, the log and the disk do not belong together: nothing is removed.
func outdated(tokens []keyupdate.Token, present, next keyupdate.Policy) []keyupdate.Policy {
	var old []keyupdate.Policy
	known := false
	for _, token := range tokens {
		known = known || token.Policy == present
		if token.Policy != present && token.Policy != next {
			old = append(old, token.Policy)
		}
	}
	if !known {
		return nil
	}
	return old
}

// bindings are that of this start and that of the next one with a kernel image.
func (p programBinding) bindings(image string) (present, next keyupdate.Wanted, err error) {
	fail := func(err error) (keyupdate.Wanted, keyupdate.Wanted, error) {
		return present, next, fmt.Errorf("predicting register 4 of the TPM: %w", err)
	}
	log, keys, err := firmwareLog()
	if err != nil {
		return fail(err)
	}
	programs, err := tpm.Host{Root: root}.PCR(pcr.Programs)
	if err != nil {
		return fail(err)
	}
	note, err := p.esp.started()
	if err != nil {
		return fail(err)
	}
	before, err := note.measured()
	if err != nil {
		return fail(err)
	}
	after := before
	if after.UKI, after.Kernel, err = kernelHashes(image); err != nil {
		return fail(err)
	}
	prediction, err := pcr.NextPrograms(log, programs, before, after)
	if err != nil {
		return fail(err)
	}
	key, err := os.ReadFile(policyKey)
	if err != nil {
		return fail(err)
	}
	for value, wanted := range map[pcr.Value]*keyupdate.Wanted{programs: &present, prediction.Next: &next} {
		if err := wantPrograms(wanted, keys, value, key); err != nil {
			return fail(err)
		}
	}
	if programs == prediction.Next {
		present = next // the same image again
	}
	return present, next, nil
}

func wantPrograms(w *keyupdate.Wanted, keys, programs pcr.Value, publicKey []byte) (err error) {
	w.Binding, w.PublicKey = secureboot.Binding{PCR7: keys, PCR4: programs}, publicKey
	w.Policy, err = keyupdate.PolicyOf(w.Binding, publicKey)
	return err
}

// kernelHashes are the Authenticode hashes of a kernel image and of the kernel in it.
func kernelHashes(path string) (image, kernel pcr.Value, err error) {
	whole, err := pe.ReadFile(path)
	if err != nil {
		return image, kernel, err
	}
	inner, err := pe.ReadPayload(path, ".linux")
	return whole.SHA256, inner.SHA256, err
}

// measured is the note as values.
func (s startedPrograms) measured() (pcr.Started, error) {
	if s.UKI == "" {
		return pcr.Started{}, errors.New("it is not known which kernel image was started")
	}
	started := pcr.Started{Loaders: map[string]pcr.Value{}}
	value := func(text pcrHash) (v pcr.Value, err error) {
		raw, err := hex.DecodeString(text)
		if err != nil || len(raw) != len(v) {
			return v, fmt.Errorf("the note of this start has %q for a hash", text)
		}
		return pcr.Value(raw), nil
	}
	var err error
	for name, text := range s.Loaders {
		if started.Loaders[name], err = value(text); err != nil {
			return pcr.Started{}, err
		}
	}
	if started.UKI, err = value(s.UKI); err == nil {
		started.Kernel, err = value(s.Kernel)
	}
	return started, err
}
