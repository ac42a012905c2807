package daemon

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/bootinfo"
	"github.com/holdfast-os/holdfast/internal/keyupdate"
	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/pcr"
	"github.com/holdfast-os/holdfast/internal/plan"
	"github.com/holdfast-os/holdfast/internal/secureboot"
	"github.com/holdfast-os/holdfast/internal/state"
	"github.com/holdfast-os/holdfast/internal/system/bootloader"
	"github.com/holdfast-os/holdfast/internal/system/efi"
	"github.com/holdfast-os/holdfast/internal/system/pe"
	"github.com/holdfast-os/holdfast/internal/system/tpm"
	"github.com/holdfast-os/holdfast/internal/update"
	"github.com/holdfast-os/holdfast/internal/updater"
)

const (
	// startedNote is what was on the ESP when this start began; it ends with the start.
	startedNote = "/run/holdfast/started.json"
	// keyArchive is the archive under way.
	keyArchive = stateDir + "/secureboot/update.tar"
	// applicationEvent is the type of an event that measures a program of the firmware.
	applicationEvent = 0x80000003
)

var secureBootDocument = state.Document{Name: "secure-boot", Version: 1}

// hostSecureBoot is SecureBoot, and update.Keys for the update agent.
type hostSecureBoot struct {
	*Host
	system  *updater.System
	updater *keyupdate.Updater
}

func (h *Host) secureBoot(system *updater.System) hostSecureBoot {
	s := hostSecureBoot{Host: h, system: system}
	esp := &espPrograms{loader: system.Loader, esp: espDir, arch: architecture()}
	s.updater = &keyupdate.Updater{Machine: keyMachine{h, esp}, Disk: keyDisk{h, esp}, Store: keyStore{h}}
	if h.info.Mode != bootinfo.Node {
		return s
	}
	go func() {
		// Before anything on the ESP changes; whoever needs it later reads the note.
		if _, err := esp.started(); err != nil {
			h.log.Warn("noting what this start was made of", "error", err)
		}
	}()
	return s
}

// Keys is part of SecureBoot.
func (s hostSecureBoot) Keys() (osapi.SecureBootKeys, error) {
	contents, err := s.efi.SecureBootVariables()
	if err != nil {
		return osapi.SecureBootKeys{}, err
	}
	keys := osapi.SecureBootKeys{KEK: []string{}, DB: []string{}, DBX: []string{}}
	for name, list := range map[string]*[]string{"KEK": &keys.KEK, "db": &keys.DB, "dbx": &keys.DBX} {
		if *list, err = certificatesPEM(contents[name]); err != nil {
			return osapi.SecureBootKeys{}, fmt.Errorf("reading the certificates of %s: %w", name, err)
		}
	}
	platform, err := certificatesPEM(contents["PK"])
	if err != nil {
		return osapi.SecureBootKeys{}, fmt.Errorf("reading the certificate of PK: %w", err)
	}
	keys.PK = strings.Join(platform, "")
	return keys, nil
}

func certificatesPEM(content []byte) ([]string, error) {
	database, err := secureboot.ParseDatabase(content)
	if err != nil {
		return nil, err
	}
	list := []string{}
	for _, der := range database.Certificates() {
		list = append(list, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	}
	return list, nil
}

// State is part of SecureBoot.
func (s hostSecureBoot) State() (*osapi.SecureBootState, error) {
	doc, err := s.updater.Document()
	if err != nil || doc.Stage == "" {
		return nil, err
	}
	id, err := updater.BootID()
	if err != nil {
		return nil, err
	}
	// What was written in an earlier start has had its restart.
	waits := doc.Stage == keyupdate.Restart && doc.Written != nil && doc.Written.BootID == id
	return &osapi.SecureBootState{
		Version: doc.Version, FullyApplied: doc.FullyApplied(), NeedsReboot: waits,
		Stage: string(doc.Stage), Status: doc.Reason, Notes: doc.Notes,
	}, nil
}

// Start is part of SecureBoot.
func (s hostSecureBoot) Start(ctx context.Context) (keyupdate.Outcome, error) {
	return s.updater.Start(ctx)
}

// Plan is part of SecureBoot.
func (s hostSecureBoot) Plan(ctx context.Context, archive []byte) (plan.Plan, error) {
	return s.updater.Plan(ctx, archive)
}

// Update is part of SecureBoot.
func (s hostSecureBoot) Update(ctx context.Context, archive []byte) (keyupdate.Outcome, error) {
	return s.updater.Apply(ctx, archive, "")
}

// Apply is part of update.Keys.
func (s hostSecureBoot) Apply(ctx context.Context, found update.Found) (restart string, err error) {
	modes, err := s.efi.Modes()
	if err != nil || !modes.SecureBoot {
		return "", err
	}
	// An archive under way may be waiting for this one.
	if err := s.replaceLoaders(ctx); err != nil {
		s.log.Error("keeping the boot loader as it is", "error", err)
	}
	outcome, err := s.updater.Continue(ctx)
	if err != nil || outcome.Why != "" {
		return restartOf(outcome), err
	}
	part, there, err := updater.KeyPart(found.Manifest)
	if err != nil || !there {
		return "", err
	}
	doc, err := s.updater.Document()
	if err != nil || doc.Stage == keyupdate.Done && doc.Digest == part.Full.SHA256 {
		return "", err
	}
	archive, err := s.system.KeyArchive(ctx, found, part)
	if err != nil {
		return "", err
	}
	outcome, err = s.updater.Apply(ctx, archive, found.Manifest.Version)
	return restartOf(outcome), err
}

func restartOf(o keyupdate.Outcome) string {
	if !o.Restart {
		return ""
	}
	return cmp.Or(o.Why, "a variable was written")
}

// keyMachine is keyupdate.Machine.
type keyMachine struct {
	*Host
	esp *espPrograms
}

// Look is part of keyupdate.Machine.
func (m keyMachine) Look(ctx context.Context) (keyupdate.Facts, error) {
	modes, err := m.efi.Modes()
	if err != nil {
		return keyupdate.Facts{}, err
	}
	contents, err := m.efi.SecureBootVariables()
	if err != nil {
		return keyupdate.Facts{}, err
	}
	id, err := updater.BootID()
	if err != nil {
		return keyupdate.Facts{}, err
	}
	f := keyupdate.Facts{
		BootID: id, State: secureboot.State{Enabled: modes.SecureBoot, Variables: contents, Now: time.Now()},
	}
	f.OpenedByTPM, err = m.boundToTPM(ctx)
	if err != nil {
		return keyupdate.Facts{}, err
	}
	log, value, err := firmwareLog()
	if err != nil && !errors.Is(err, tpm.ErrNoLog) {
		return keyupdate.Facts{}, err
	}
	// Without a log nothing is predicted, and that is said there.
	f.Log, f.PCR7 = log, value
	if err := m.esp.read(&f); err != nil {
		return keyupdate.Facts{}, err
	}
	started, err := m.esp.started()
	if err != nil {
		return keyupdate.Facts{}, err
	}
	f.Loader = started.loader(f.Log, f.Loaders)
	return f, ctx.Err()
}

// firmwareLog gives the log of this start and the value of register 7.
func firmwareLog() ([]pcr.Event, pcr.Value, error) {
	host := tpm.Host{Root: root}
	value, err := host.PCR(pcr.Policy)
	if err != nil {
		return nil, pcr.Value{}, err
	}
	log, err := host.EventLog()
	if err != nil {
		return nil, value, err
	}
	events := make([]pcr.Event, 0, len(log))
	for _, e := range log {
		events = append(events, pcr.Event(e))
	}
	return events, value, nil
}

// pcrMismatch is true when the log of the firmware does not give the TPM's register 7. What
// cannot be read is no mismatch, and must not hide what else there is to say of the node.
func (h *Host) pcrMismatch() bool {
	events, value, err := firmwareLog()
	if err != nil {
		h.log.Debug("comparing the TPM with the log of the firmware", "error", err)
		return false
	}
	return pcr.Check(events, pcr.Policy, value) != nil
}

// Room is part of keyupdate.Machine.
func (m keyMachine) Room(size int) error { return m.efi.Room(size) }

// Append is part of keyupdate.Machine.
func (m keyMachine) Append(a secureboot.Auth) error {
	err := m.efi.AppendAuthenticated(string(a.Variable), vendorOf(a.Variable), a.Raw)
	// A full memory and a write protection are another day's matter: they are not remembered.
	for _, refused := range []error{efi.ErrRefused, efi.ErrUnusable} {
		if errors.Is(err, refused) {
			return fmt.Errorf("%w: %w", keyupdate.ErrFirmware, err)
		}
	}
	return err
}

// Read is part of keyupdate.Machine.
func (m keyMachine) Read(name secureboot.Name) ([]byte, error) {
	value, err := m.efi.Read(string(name), vendorOf(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return value.Data, err
}

func vendorOf(name secureboot.Name) string {
	if name == secureboot.PK || name == secureboot.KEK {
		return efi.Global
	}
	return efi.ImageSecurity
}

// keyStore is keyupdate.Store.
type keyStore struct{ *Host }

// Load is part of keyupdate.Store.
func (s keyStore) Load() (doc keyupdate.Document, err error) {
	store, err := s.openStore()
	if err != nil {
		return keyupdate.Document{}, err
	}
	loaded, err := store.Load(secureBootDocument, &doc)
	if loaded.Damage != nil {
		s.log.Error("state document damaged, its last copy is used", "document", secureBootDocument.Name, "error", loaded.Damage)
	}
	return doc, err
}

// Save is part of keyupdate.Store.
func (s keyStore) Save(doc keyupdate.Document) error {
	store, err := s.openStore()
	if err != nil {
		return err
	}
	return store.Save(secureBootDocument, doc)
}

// Archive is part of keyupdate.Store.
func (keyStore) Archive() ([]byte, error) { return readLimited(keyArchive, secureboot.MaxArchive) }

// readLimited gives a whole file; nil for one that is not there.
func readLimited(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("reading %s: it has more than %d bytes", path, limit)
	}
	return data, errors.Join(err, file.Close())
}

// Keep is part of keyupdate.Store.
func (keyStore) Keep(archive []byte) error { return keepFile(keyArchive, archive) }

// keepFile replaces a file, for root alone; it is on the disk when this returns.
func keepFile(path string, data []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	file, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = io.Copy(file, bytes.NewReader(data))
	err = errors.Join(err, file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return errors.Join(syncDir(dir), syncDir(filepath.Dir(dir)))
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Drop is part of keyupdate.Store.
func (keyStore) Drop() error {
	if err := os.Remove(keyArchive); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the archive of Secure Boot keys: %w", err)
	}
	return nil
}

// startedPrograms is what this start was made of: Authenticode hashes, hexadecimal.
type startedPrograms struct {
	// Loaders are the boot loaders by their path on the ESP.
	Loaders map[string]pcrHash `json:"loaders"`
	// UKI is the running one, Kernel the section .linux of it.
	UKI    pcrHash `json:"uki"`
	Kernel pcrHash `json:"kernel"`
}

// pcrHash is a hash as text.
type pcrHash = string

// loader gives the boot loader that was started: one that is as it was then, and that the
// firmware has measured. Empty when there is none.
func (s startedPrograms) loader(log []pcr.Event, present []keyupdate.Program) string {
	for _, p := range present {
		if s.Loaders[p.Image.Name] != fmt.Sprintf("%x", p.Image.SHA256) {
			continue
		}
		for _, e := range log {
			if e.PCR == pcr.Programs && e.Type == applicationEvent && e.SHA256 == p.Image.SHA256 {
				return p.Image.Name
			}
		}
	}
	return ""
}

// loaderPaths are where the firmware finds a boot loader on the ESP of this system.
func loaderPaths(arch string) []string {
	if arch == layout.AArch64 {
		return []string{"EFI/systemd/systemd-bootaa64.efi", "EFI/BOOT/BOOTAA64.EFI"}
	}
	return []string{"EFI/systemd/systemd-bootx64.efi", "EFI/BOOT/BOOTX64.EFI"}
}

// isLoader knows a boot loader by its place; FAT does not care for capital letters.
func (e *espPrograms) isLoader(name string) bool {
	return slices.ContainsFunc(loaderPaths(e.arch), func(p string) bool { return strings.EqualFold(p, name) })
}

// started reads the note of this start, and makes it when there is none yet.
func (e *espPrograms) started() (startedPrograms, error) {
	e.noting.Lock()
	defer e.noting.Unlock()
	text, err := readLimited(cmp.Or(e.note, startedNote), 64<<10)
	if err != nil {
		return startedPrograms{}, err
	}
	var note startedPrograms
	if text != nil {
		if err := json.Unmarshal(text, &note); err != nil {
			return startedPrograms{}, fmt.Errorf("reading the note of what this start was made of: %w", err)
		}
		return note, nil
	}
	if note, err = e.makeNote(); err != nil {
		return startedPrograms{}, fmt.Errorf("noting what this start was made of: %w", err)
	}
	if text, err = json.Marshal(note); err != nil {
		return startedPrograms{}, err
	}
	return note, keepFile(cmp.Or(e.note, startedNote), text)
}

func (e *espPrograms) makeNote() (startedPrograms, error) {
	note := startedPrograms{Loaders: map[string]pcrHash{}}
	names, err := e.names()
	if err != nil {
		return startedPrograms{}, err
	}
	for _, name := range names {
		if !e.isLoader(name) {
			continue
		}
		image, err := pe.ReadFile(filepath.Join(e.esp, name))
		if err != nil {
			return startedPrograms{}, err
		}
		note.Loaders[name] = fmt.Sprintf("%x", image.SHA256)
	}
	state, err := e.loader.Read()
	if err != nil {
		return startedPrograms{}, err
	}
	for _, entry := range state.Entries {
		if !entry.Booted {
			continue
		}
		path := filepath.Join(e.esp, bootloader.Folder, entry.File)
		uki, err := pe.ReadFile(path)
		if err != nil {
			return startedPrograms{}, err
		}
		kernel, err := pe.ReadPayload(path, ".linux")
		if err != nil {
			return startedPrograms{}, err
		}
		note.UKI, note.Kernel = fmt.Sprintf("%x", uki.SHA256), fmt.Sprintf("%x", kernel.SHA256)
	}
	return note, nil
}
