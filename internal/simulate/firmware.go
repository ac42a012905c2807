package simulate

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/keyupdate"
	"github.com/holdfast-os/holdfast/internal/pcr"
	"github.com/holdfast-os/holdfast/internal/plan"
	"github.com/holdfast-os/holdfast/internal/secureboot"
	"github.com/holdfast-os/holdfast/internal/state"
)

const (
	// firmwareFile keeps the variables of Secure Boot, volumesFile the bindings to the TPM in
	// the headers of the volumes.
	firmwareFile = "firmware.json"
	volumesFile  = "volumes.json"
	// keyArchive is the archive under way, below the kept files.
	keyArchive = "secureboot/update.tar"
	// theLoader and theUKI are the programs that start the machine.
	theLoader, theUKI = "BOOTX64.EFI", "Holdfast_" + version + ".efi"
)

var secureBootDocument = state.Document{Name: "secure-boot", Version: 1}

// GUIDs of the variables, as the firmware stores them. (UEFI 2.10, 32.6)
var (
	globalVendor = [16]byte{0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c}
	imageVendor  = [16]byte{0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f}
)

// firmware is a machine's Secure Boot and TPM in memory, below the real keyupdate: Machine,
// Disk and Store of it. It takes an update when the certificate that signed it is in the
// variable that rules over it, as firmware does.
type firmware struct {
	*Node
	updater   *keyupdate.Updater
	documents *state.Store

	mu sync.Mutex
	// variables are kept; the keys PK, KEK and db were made with the machine.
	variables map[string][]byte
	release   []byte // the certificate that signs the programs
	// events and pcr7 are what this start has measured, bootID its name.
	events []pcr.Event
	pcr7   pcr.Value
	bootID string
	opened bool
}

// keptFirmware is firmwareFile.
type keptFirmware struct {
	Variables map[string][]byte `json:"variables"`
	Release   []byte            `json:"release"`
}

// binding is one of volumesFile.
type binding struct {
	Policy []byte `json:"policy"`
	PCR7   string `json:"pcr7"`
}

// newFirmware starts the machine's firmware: it measures, and says whether the TPM would
// open the volumes.
func newFirmware(n *Node) (*firmware, error) {
	f := &firmware{Node: n, documents: n.store}
	f.updater = &keyupdate.Updater{Machine: f, Disk: f, Store: f}
	var kept keptFirmware
	if err := readJSON(n.path(firmwareFile), &kept); errors.Is(err, fs.ErrNotExist) {
		if kept, err = n.makeKeys(); err != nil {
			return nil, fmt.Errorf("making the keys of Secure Boot: %w", err)
		}
	} else if err != nil {
		return nil, err
	}
	f.variables, f.release = kept.Variables, kept.Release
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return nil, err
	}
	f.bootID = hex.EncodeToString(id)
	f.measure()
	return f, f.open()
}

// makeKeys makes the machine's platform key, exchange key and release key. The private ones
// lie beside the node, PEM, so that updates can be signed for it.
func (n *Node) makeKeys() (keptFirmware, error) {
	kept := keptFirmware{Variables: map[string][]byte{"SecureBoot": {1}, "dbx": {}}}
	for i, name := range []string{"PK", "KEK", "db"} {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return kept, err
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(int64(i) + 1), Subject: pkix.Name{CommonName: "simulated " + name},
			NotBefore: time.Now().AddDate(-1, 0, 0), NotAfter: time.Now().AddDate(30, 0, 0)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			return kept, err
		}
		private, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return kept, err
		}
		file := n.path("secureboot-" + name)
		err = errors.Join(
			os.WriteFile(file+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600),
			os.WriteFile(file+".crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
		if err != nil {
			return kept, err
		}
		kept.Variables[name] = secureboot.Database{{Kind: secureboot.X509, Data: der}}.Encode()
		kept.Release = der
	}
	return kept, writeJSON(n.path(firmwareFile), kept)
}

// measure is what firmware does at a start.
func (f *firmware) measure() {
	extend := func(kind uint32, data []byte) {
		digest := sha256.Sum256(data)
		f.events = append(f.events, pcr.Event{PCR: 7, Type: kind, Data: data, SHA256: digest})
		f.pcr7 = sha256.Sum256(append(f.pcr7[:], digest[:]...))
	}
	for _, name := range []string{"SecureBoot", "PK", "KEK", "db", "dbx"} {
		vendor := globalVendor
		if strings.HasPrefix(name, "db") {
			vendor = imageVendor
		}
		extend(0x80000001, pcr.Variable{Vendor: vendor, Name: name, Data: f.variables[name]}.Encode())
	}
	extend(4, make([]byte, 4)) // the separator
	// The entry of db that lets the programs in is measured once.
	entry := secureboot.Entry{Kind: secureboot.X509, Data: f.release}
	extend(0x800000e0, pcr.Variable{Vendor: imageVendor, Name: "db", Data: entry.Signature()}.Encode())
}

// open finds a binding with the value of now. Volumes without any are new: they are bound.
func (f *firmware) open() error {
	all, err := f.bindings()
	if err != nil {
		return err
	}
	if len(all) == 0 {
		key, err := f.policyKey()
		if err != nil {
			return err
		}
		b := secureboot.Binding{PCR7: f.pcr7, Key: key}
		policy, err := keyupdate.PolicyOf(b, f.publicKey())
		if err != nil {
			return err
		}
		f.opened = true
		return f.Bind(context.Background(), keyupdate.Wanted{Binding: b, PublicKey: f.publicKey(), Policy: policy})
	}
	f.opened = slices.ContainsFunc(all, func(b binding) bool { return b.PCR7 == hex.EncodeToString(f.pcr7[:]) })
	if !f.opened {
		f.log.Error("the TPM of this machine would not open its volumes: a real one asks for the recovery key")
	}
	return nil
}

func (f *firmware) publicKey() []byte {
	certificate, err := x509.ParseCertificate(f.release)
	if err != nil {
		return nil // newFirmware has made it
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: certificate.RawSubjectPublicKeyInfo})
}

func (f *firmware) policyKey() (string, error) { return secureboot.KeyFingerprint(f.publicKey()) }

func (f *firmware) bindings() ([]binding, error) {
	var all []binding
	err := readJSON(f.path(volumesFile), &all)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return all, err
}

// Look is part of keyupdate.Machine.
func (f *firmware) Look(ctx context.Context) (keyupdate.Facts, error) {
	key, err := f.policyKey()
	if err != nil {
		return keyupdate.Facts{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	program := func(name string) secureboot.Image {
		return secureboot.Image{Name: name, SHA256: sha256.Sum256([]byte(name)), Signatures: [][][]byte{{f.release}}}
	}
	loader, uki := keyupdate.Program{Image: program(theLoader)}, keyupdate.Program{Image: program(theUKI), Signed: []string{key}}
	return keyupdate.Facts{
		BootID: f.bootID, OpenedByTPM: f.opened, Log: f.events, PCR7: f.pcr7, Loader: theLoader, UKI: theUKI,
		Loaders: []keyupdate.Program{loader}, UKIs: []keyupdate.Program{uki},
		State: secureboot.State{Enabled: true, Variables: maps.Clone(f.variables), Images: []secureboot.Image{loader.Image, uki.Image}, Now: time.Now()},
	}, f.faults.hit(ctx, "secureboot.look")
}

// Room is part of keyupdate.Machine.
func (f *firmware) Room(int) error { return f.faults.hit(context.Background(), "secureboot.room") }

// Append is part of keyupdate.Machine: it looks at the signature, as firmware does.
func (f *firmware) Append(a secureboot.Auth) error {
	if err := f.faults.hit(context.Background(), "secureboot.append"); err != nil {
		return fmt.Errorf("%w: %w", keyupdate.ErrFirmware, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	ruler := "KEK"
	if a.Variable == secureboot.KEK || a.Variable == secureboot.PK {
		ruler = "PK"
	}
	rulers, err := secureboot.ParseDatabase(f.variables[ruler])
	if err != nil {
		return err
	}
	if err := a.SignedBy(rulers.Certificates()); err != nil {
		return fmt.Errorf("%w: %w", keyupdate.ErrFirmware, err)
	}
	next := maps.Clone(f.variables)
	next[string(a.Variable)] = slices.Concat(next[string(a.Variable)], secureboot.Database{a.Entry}.Encode())
	if err := writeJSON(f.path(firmwareFile), keptFirmware{next, f.release}); err != nil {
		return err
	}
	f.variables = next
	return nil
}

// Read is part of keyupdate.Machine.
func (f *firmware) Read(name secureboot.Name) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.variables[string(name)], nil
}

// Tokens is part of keyupdate.Disk.
func (f *firmware) Tokens(context.Context) ([]keyupdate.Token, error) {
	all, err := f.bindings()
	var tokens []keyupdate.Token
	for _, b := range all {
		token := keyupdate.Token{PublicKey: f.publicKey()}
		copy(token.Policy[:], b.Policy)
		tokens = append(tokens, token)
	}
	return tokens, err
}

// Keys is part of keyupdate.Disk.
func (f *firmware) Keys(context.Context) ([][]byte, error) { return [][]byte{f.publicKey()}, nil }

// Bind is part of keyupdate.Disk.
func (f *firmware) Bind(ctx context.Context, w keyupdate.Wanted) error {
	all, err := f.bindings()
	if err = errors.Join(err, f.faults.hit(ctx, "secureboot.bind")); err != nil {
		return err
	}
	return writeJSON(f.path(volumesFile), append(all, binding{w.Policy[:], hex.EncodeToString(w.Binding.PCR7[:])}))
}

// Unbind is part of keyupdate.Disk.
func (f *firmware) Unbind(_ context.Context, policy keyupdate.Policy) error {
	all, err := f.bindings()
	if err != nil {
		return err
	}
	return writeJSON(f.path(volumesFile), slices.DeleteFunc(all, func(b binding) bool { return slices.Equal(b.Policy, policy[:]) }))
}

// Load is part of keyupdate.Store.
func (f *firmware) Load() (doc keyupdate.Document, err error) {
	_, err = f.documents.Load(secureBootDocument, &doc)
	return doc, err
}

// Save is part of keyupdate.Store.
func (f *firmware) Save(doc keyupdate.Document) error {
	return f.documents.Save(secureBootDocument, doc)
}

func (f *firmware) archive() string { return filepath.Join(f.path(keptDir), keyArchive) }

// Archive is part of keyupdate.Store.
func (f *firmware) Archive() ([]byte, error) {
	text, err := os.ReadFile(f.archive())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return text, err
}

// Keep is part of keyupdate.Store.
func (f *firmware) Keep(archive []byte) error {
	if err := os.MkdirAll(filepath.Dir(f.archive()), 0o700); err != nil {
		return err
	}
	return os.WriteFile(f.archive(), archive, 0o600)
}

// Drop is part of keyupdate.Store.
func (f *firmware) Drop() error { return os.RemoveAll(f.archive()) }

// secureBoot is daemon.SecureBoot.
type secureBoot struct{ *firmware }

func (s secureBoot) Keys() (osapi.SecureBootKeys, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	lists := map[string][]string{}
	for _, name := range []string{"PK", "KEK", "db", "dbx"} {
		database, err := secureboot.ParseDatabase(s.variables[name])
		if err != nil {
			return osapi.SecureBootKeys{}, fmt.Errorf("reading the certificates of %s: %w", name, err)
		}
		lists[name] = []string{}
		for _, der := range database.Certificates() {
			lists[name] = append(lists[name], string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
		}
	}
	return osapi.SecureBootKeys{PK: strings.Join(lists["PK"], ""), KEK: lists["KEK"], DB: lists["db"], DBX: lists["dbx"]}, nil
}

func (s secureBoot) State() (*osapi.SecureBootState, error) {
	doc, err := s.updater.Document()
	if err != nil || doc.Stage == "" {
		return nil, err
	}
	return &osapi.SecureBootState{
		Version: doc.Version, FullyApplied: doc.FullyApplied(), Stage: string(doc.Stage), Status: doc.Reason, Notes: doc.Notes,
		NeedsReboot: doc.Stage == keyupdate.Restart && doc.Written != nil && doc.Written.BootID == s.bootID,
	}, nil
}

func (s secureBoot) Start(ctx context.Context) (keyupdate.Outcome, error) {
	return s.updater.Start(ctx)
}

func (s secureBoot) Plan(ctx context.Context, archive []byte) (plan.Plan, error) {
	return s.updater.Plan(ctx, archive)
}

func (s secureBoot) Update(ctx context.Context, archive []byte) (keyupdate.Outcome, error) {
	return s.updater.Apply(ctx, archive, "")
}

func readJSON(path string, into any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}

// writeJSON replaces a file in one step.
func writeJSON(path string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
