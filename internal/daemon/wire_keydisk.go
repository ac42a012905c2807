package daemon

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-os/holdfast/internal/keyupdate"
	"github.com/holdfast-os/holdfast/internal/pcr"
	"github.com/holdfast-os/holdfast/internal/recovery"
	"github.com/holdfast-os/holdfast/internal/secureboot"
	"github.com/holdfast-os/holdfast/internal/system/bootloader"
	"github.com/holdfast-os/holdfast/internal/system/luks"
	"github.com/holdfast-os/holdfast/internal/system/pe"
)

// keyDisk is keyupdate.Disk: root and swap of this node.
type keyDisk struct {
	*Host
	esp *espPrograms
}

// Tokens is part of keyupdate.Disk.
func (d keyDisk) Tokens(ctx context.Context) ([]keyupdate.Token, error) {
	devices, err := d.volumes(ctx)
	if err != nil {
		return nil, err
	}
	found, err := d.luks.Bindings(ctx, devices[recovery.Root])
	if err != nil {
		return nil, err
	}
	var tokens []keyupdate.Token
	for _, b := range found {
		t := keyupdate.Token{PublicKey: b.PublicKey}
		if len(b.Policy) == len(t.Policy) {
			t.Policy = keyupdate.Policy(b.Policy)
		}
		tokens = append(tokens, t)
	}
	return tokens, nil
}

// maxPolicyKey bounds a key of the PCR policy, in bytes.
const maxPolicyKey = 64 << 10

// Keys is part of keyupdate.Disk: the key of this start, and those that the UKIs bring.
func (d keyDisk) Keys(context.Context) ([][]byte, error) {
	var keys [][]byte
	key, err := readLimited(policyKey, maxPolicyKey)
	if err != nil {
		return nil, fmt.Errorf("reading the key of the PCR policy: %w", err)
	}
	keys = append(keys, key)
	return append(keys, d.esp.policyKeys()...), nil
}

// Bind is part of keyupdate.Disk. Root comes first: it is what a start needs.
func (d keyDisk) Bind(ctx context.Context, b keyupdate.Wanted) error {
	devices, err := d.volumes(ctx)
	if err != nil {
		return err
	}
	for _, volume := range []string{recovery.Root, recovery.Swap} {
		if err := bindVolume(ctx, d.luks, devices[volume], recovery.KeyFile, b); err != nil {
			return err
		}
	}
	return nil
}

// bindVolume adds a binding to a volume that has none with this policy, and looks whether
// the header has it afterwards.
func bindVolume(ctx context.Context, host luks.Host, device, keyFile string, b keyupdate.Wanted) (err error) {
	is := func(o luks.Binding) bool { return bytes.Equal(o.Policy, b.Policy[:]) }
	before, err := host.Bindings(ctx, device)
	if err != nil || slices.ContainsFunc(before, is) {
		return err
	}
	dir := filepath.Join(host.Root, "run/holdfast/keys")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making a place for the key of the PCR policy: %w", err)
	}
	file, err := os.CreateTemp(dir, "policy")
	if err != nil {
		return fmt.Errorf("making a file for the key of the PCR policy: %w", err)
	}
	defer func() { err = errors.Join(err, os.Remove(file.Name())) }()
	_, err = file.Write(b.PublicKey)
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("writing the key of the PCR policy: %w", err)
	}
	policy := luks.TPMPolicy{PublicKeyFile: file.Name(), PCRs: map[int]string{
		pcr.Policy: hex.EncodeToString(b.Binding.PCR7[:]), 15: strings.Repeat("0", 64),
	}}
	if b.Binding.PCR4 != (pcr.Value{}) {
		policy.PCRs[pcr.Programs] = hex.EncodeToString(b.Binding.PCR4[:])
	}
	if _, err := host.AddBinding(ctx, device, keyFile, policy); err != nil {
		return err
	}
	after, err := host.Bindings(ctx, device)
	if err == nil && !slices.ContainsFunc(after, is) {
		err = fmt.Errorf("binding %s to the TPM: what its header has is not bound to %s", device, b.Binding)
	}
	return err
}

// Unbind is part of keyupdate.Disk. Root comes last: it is what is looked at.
func (d keyDisk) Unbind(ctx context.Context, policy keyupdate.Policy) error {
	devices, err := d.volumes(ctx)
	if err != nil {
		return err
	}
	for _, volume := range []string{recovery.Swap, recovery.Root} {
		found, err := d.luks.Bindings(ctx, devices[volume])
		if err != nil {
			return err
		}
		for _, b := range found {
			if !bytes.Equal(b.Policy, policy[:]) && !(b.Policy == nil && policy == keyupdate.Policy{}) {
				continue
			}
			if err := d.luks.RemoveBinding(ctx, devices[volume], b.Slot); err != nil {
				return err
			}
		}
	}
	return nil
}

// espPrograms reads the programs on the ESP. A UKI has some 60 MB, and is read anew only
// when its file is another one.
type espPrograms struct {
	loader bootloader.Loader
	esp    string
	arch   string
	// note is where the note of this start lies; default startedNote.
	note   string
	noting sync.Mutex

	mu   sync.Mutex
	seen map[string]seenProgram
}

type seenProgram struct {
	size    int64
	changed time.Time
	program keyupdate.Program
	key     []byte // .pcrpkey of a UKI
}

// maxPrograms bounds how many programs are looked for on the ESP.
const maxPrograms = 64

// read fills in the programs of the ESP.
func (e *espPrograms) read(f *keyupdate.Facts) error {
	state, err := e.loader.Read()
	if err != nil {
		return err
	}
	f.OnTrial = state.Trial
	ukis := map[string]bool{}
	for _, entry := range state.Entries {
		name := path.Join(bootloader.Folder, entry.File)
		ukis[name] = true
		if entry.Booted {
			f.UKI = name
		}
	}
	names, err := e.names()
	if err != nil {
		return err
	}
	f.State.Unread = map[string]string{}
	for _, name := range names {
		program, err := e.program(name, ukis[name])
		if err != nil {
			f.State.Unread[name] = err.Error()
			if ukis[name] || e.isLoader(name) {
				f.Unknown = append(f.Unknown, name)
			}
			continue
		}
		f.State.Images = append(f.State.Images, program.Image)
		if ukis[name] {
			f.UKIs = append(f.UKIs, program)
		}
		if e.isLoader(name) {
			f.Loaders = append(f.Loaders, program)
		}
	}
	return nil
}

// names are all programs on the ESP, in order.
func (e *espPrograms) names() ([]string, error) {
	var names []string
	err := fs.WalkDir(os.DirFS(e.esp), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		// What systemd-sysupdate has not finished has a name that nothing starts.
		if !entry.Type().IsRegular() || !strings.EqualFold(path.Ext(name), ".efi") || strings.HasPrefix(entry.Name(), ".#") {
			return nil
		}
		if len(names) == maxPrograms {
			return fmt.Errorf("there are more than %d", maxPrograms)
		}
		names = append(names, name)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("looking for the programs on the ESP: %w", err)
	}
	return names, nil
}

func (e *espPrograms) program(name string, uki bool) (keyupdate.Program, error) {
	file := filepath.Join(e.esp, name)
	info, err := os.Stat(file)
	if err != nil {
		return keyupdate.Program{}, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if seen, ok := e.seen[name]; ok && seen.size == info.Size() && seen.changed.Equal(info.ModTime()) {
		return seen.program, nil
	}
	seen, err := readProgram(file, name, uki)
	if err != nil {
		return keyupdate.Program{}, err
	}
	seen.size, seen.changed = info.Size(), info.ModTime()
	if e.seen == nil {
		e.seen = map[string]seenProgram{}
	}
	e.seen[name] = seen
	return seen.program, nil
}

// readProgram reads a boot loader or a UKI. name is what it is called.
func readProgram(file, name string, uki bool) (seenProgram, error) {
	image, err := pe.ReadFile(file)
	if err != nil {
		return seenProgram{}, err
	}
	var seen seenProgram
	seen.program.Image = secureboot.Image{Name: name, SHA256: image.SHA256}
	for _, s := range image.Signatures {
		seen.program.Image.Signatures = append(seen.program.Image.Signatures, s.Chain)
	}
	if !uki {
		return seen, nil
	}
	section, err := pe.ReadSection(file, ".pcrsig", secureboot.MaxPCRSig)
	if err != nil {
		return seenProgram{}, err
	}
	if seen.program.Signed, err = secureboot.SignedKeys(section); err != nil {
		return seenProgram{}, err
	}
	seen.key, err = pe.ReadSection(file, ".pcrpkey", maxPolicyKey)
	return seen, err
}

// policyKeys are the keys of the UKIs that were read.
func (e *espPrograms) policyKeys() [][]byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	var keys [][]byte
	for _, seen := range e.seen {
		if key := bytes.TrimRight(seen.key, "\x00"); len(key) > 0 {
			keys = append(keys, key)
		}
	}
	return keys
}

// Opens is part of updater.Disk.
func (s hostSecureBoot) Opens(ctx context.Context, version, image string) (bool, string, error) {
	release, err := readRelease(version, image)
	if err != nil {
		return false, "", err
	}
	return s.updater.Opens(ctx, release)
}

// Bind is part of updater.Disk.
func (s hostSecureBoot) Bind(ctx context.Context, version, image string) error {
	release, err := readRelease(version, image)
	if err != nil {
		return err
	}
	return s.updater.Prepare(ctx, release)
}

// readRelease reads the kernel image of a release that is not on the ESP yet.
func readRelease(version, image string) (keyupdate.Release, error) {
	seen, err := readProgram(image, "release "+version, true)
	if err != nil {
		return keyupdate.Release{}, fmt.Errorf("reading the kernel image of %s: %w", version, err)
	}
	return keyupdate.Release{Version: version, UKI: seen.program, Key: bytes.TrimRight(seen.key, "\x00")}, nil
}
