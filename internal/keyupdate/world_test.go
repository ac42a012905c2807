package keyupdate_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-os/holdfast/internal/keyupdate"
	"github.com/holdfast-os/holdfast/internal/pcr"
	"github.com/holdfast-os/holdfast/internal/secureboot"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// keys are those of one machine: the platform key, the exchange key, the key that signs
// releases and their PCR policy, the next one, and one of somebody else.
var keys = sync.OnceValue(func() map[string]secureboot.Signer {
	ring := map[string]secureboot.Signer{}
	for i, name := range []string{"PK", "KEK", "release", "next", "stranger"} {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(int64(i) + 1), Subject: pkix.Name{CommonName: name},
			NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(1, 0, 0)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			panic(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			panic(err)
		}
		ring[name] = secureboot.Signer{Key: key, Certificate: c}
	}
	return ring
})

func public(name string) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: keys()[name].Certificate.RawSubjectPublicKeyInfo})
}

func fingerprint(name string) string {
	return secureboot.Fingerprint(x509.MarshalPKCS1PublicKey(keys()[name].Certificate.PublicKey.(*rsa.PublicKey)))
}

func content(names ...string) []byte {
	var d secureboot.Database
	for _, n := range names {
		d = append(d, secureboot.Entry{Kind: secureboot.X509, Data: keys()[n].Certificate.Raw})
	}
	return d.Encode()
}

// archive has updates written as "KEK+next by PK".
func archive(t *testing.T, updates ...string) []byte {
	t.Helper()
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for _, text := range updates {
		what, by, _ := strings.Cut(text, " by ")
		variable, certificate, _ := strings.Cut(what, "+")
		auth, err := secureboot.Sign(keys()[by], secureboot.Name(variable), [16]byte{}, keys()[certificate].Certificate.Raw, now)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: auth.File, Mode: 0o600, Size: int64(len(auth.Raw))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(auth.Raw); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buffer.Bytes()
}

// GUIDs as the firmware stores them.
var (
	global        = [16]byte{0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c}
	imageSecurity = [16]byte{0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f}
)

// token is one of the header, with the values that the TPM sealed it to.
type token struct {
	keyupdate.Token
	values secureboot.Binding
}

// cut is the end of the power.
type cut struct{}

// world is a node with its firmware, TPM and disk. What happens is counted; before what
// count cuts, the power goes.
type world struct {
	variables map[string][]byte
	tokens    map[int]token
	document  []byte
	archive   []byte

	boot   int
	log    []pcr.Event
	pcr7   pcr.Value
	opened bool
	trial  bool
	// running is the UKI that was started, by the key that lets it in, and signed are the keys
	// whose signatures it has; others are more UKIs. quirk is what the firmware measures beside.
	running, by string
	quirk       string
	// loaderBy is whose boot loader is on the ESP, startedBy whose was started.
	loaderBy, startedBy string
	signed              []string
	others              []keyupdate.Program
	// unknown are programs that cannot be read.
	unknown []string
	// store is what the firmware makes of an update; refuse whether it takes it at all.
	store  func(old, added []byte) []byte
	refuse map[string]error

	ops int
	at  int
	did string
}

func image(name, by string) secureboot.Image {
	return secureboot.Image{Name: name, SHA256: sha256.Sum256([]byte(name)), Signatures: [][][]byte{{keys()[by].Certificate.Raw}}}
}

// newWorld is a node that its release key signed, and whose disk is bound to it.
func newWorld() *world {
	w := &world{
		variables: map[string][]byte{"SecureBoot": {1}, "PK": content("PK"), "KEK": content("KEK"), "db": content("release"), "dbx": {}},
		tokens:    map[int]token{}, signed: []string{fingerprint("release")}, refuse: map[string]error{}, at: -1,
		running: "R1", by: "release", loaderBy: "release", startedBy: "release",
		store: func(old, added []byte) []byte { return slices.Concat(old, added) },
	}
	w.measure()
	b := secureboot.Binding{PCR7: w.pcr7, Key: w.signed[0]}
	policy, err := keyupdate.PolicyOf(b, public("release"))
	if err != nil {
		panic(err)
	}
	w.tokens[0] = token{keyupdate.Token{Policy: policy, PublicKey: public("release")}, b}
	w.start()
	return w
}

// measure is what the firmware does at a start.
func (w *world) measure() {
	w.log, w.pcr7 = nil, pcr.Value{}
	extend := func(kind uint32, data []byte) {
		digest := sha256.Sum256(data)
		w.log = append(w.log, pcr.Event{PCR: 7, Type: kind, Data: data, SHA256: digest})
		w.pcr7 = sha256.Sum256(append(w.pcr7[:], digest[:]...))
	}
	for _, name := range []string{"SecureBoot", "PK", "KEK", "db", "dbx"} {
		vendor := global
		if strings.HasPrefix(name, "db") {
			vendor = imageSecurity
		}
		extend(0x80000001, pcr.Variable{Vendor: vendor, Name: name, Data: w.variables[name]}.Encode())
	}
	extend(4, make([]byte, 4))
	// An entry that lets in both loader and UKI is measured once.
	for _, by := range slices.Compact([]string{w.loaderBy, w.by}) {
		if w.variables["SecureBoot"][0] == 1 {
			entry := secureboot.Entry{Kind: secureboot.X509, Data: keys()[by].Certificate.Raw}
			extend(0x800000e0, pcr.Variable{Vendor: imageSecurity, Name: "db", Data: entry.Signature()}.Encode())
		}
	}
	if w.quirk != "" { // measured, and not logged
		w.pcr7 = sha256.Sum256(append(w.pcr7[:], w.quirk...))
	}
}

// start starts the machine, and says how the disk is opened: as systemd-cryptsetup does,
// which test/host shows.
func (w *world) start() string {
	w.boot++
	w.startedBy = w.loaderBy
	w.measure()
	w.opened = false
	for _, number := range slices.Sorted(maps.Keys(w.tokens)) {
		values := w.tokens[number].values
		if !slices.Contains(w.signed, values.Key) {
			break
		}
		if values.PCR7 == w.pcr7 {
			w.opened = true
			return "TPM"
		}
	}
	return "RECOVERY KEY"
}

// op is something that changes what lasts.
func (w *world) op(format string, args ...any) {
	if w.ops == w.at {
		panic(cut{})
	}
	w.ops++
	w.did = fmt.Sprintf(format, args...)
}

func (w *world) Look(context.Context) (keyupdate.Facts, error) {
	loader := keyupdate.Program{Image: image("BOOTX64.EFI", w.loaderBy)}
	uki := keyupdate.Program{Image: image(w.running, w.by), Signed: w.signed}
	f := keyupdate.Facts{
		BootID: fmt.Sprint("boot ", w.boot), OpenedByTPM: w.opened, OnTrial: w.trial, Log: w.log, PCR7: w.pcr7,
		Loaders: []keyupdate.Program{loader}, UKIs: append([]keyupdate.Program{uki}, w.others...), Loader: "BOOTX64.EFI", UKI: w.running,
		Unknown: w.unknown,
		State:   secureboot.State{Enabled: w.variables["SecureBoot"][0] == 1, Variables: maps.Clone(w.variables), Now: now},
	}
	if w.startedBy != w.loaderBy {
		f.Loader = "" // what was started is not there any more
	}
	for _, p := range append(f.UKIs, f.Loaders...) {
		f.State.Images = append(f.State.Images, p.Image)
	}
	return f, nil
}

func (w *world) Room(size int) error { return w.refuse["room"] }

func (w *world) Append(update secureboot.Auth) error {
	name := string(update.Variable)
	if err := w.refuse[name]; err != nil {
		return err
	}
	w.op("write %s", name)
	w.variables[name] = w.store(w.variables[name], secureboot.Database{update.Entry}.Encode())
	return w.refuse["after "+name]
}

func (w *world) Read(name secureboot.Name) ([]byte, error) { return w.variables[string(name)], nil }

func (w *world) Tokens(context.Context) ([]keyupdate.Token, error) {
	var list []keyupdate.Token
	for _, number := range slices.Sorted(maps.Keys(w.tokens)) {
		list = append(list, w.tokens[number].Token)
	}
	return list, nil
}

func (w *world) Keys(context.Context) ([][]byte, error) { return [][]byte{public("release")}, nil }

func (w *world) Bind(_ context.Context, b keyupdate.Wanted) error {
	w.op("bind")
	for number := 0; ; number++ {
		if _, used := w.tokens[number]; !used {
			w.tokens[number] = token{keyupdate.Token{Policy: b.Policy, PublicKey: b.PublicKey}, b.Binding}
			return nil
		}
	}
}

func (w *world) Unbind(_ context.Context, policy keyupdate.Policy) error {
	w.op("unbind")
	maps.DeleteFunc(w.tokens, func(_ int, t token) bool { return t.Policy == policy })
	return nil
}

func (w *world) Load() (doc keyupdate.Document, err error) {
	if w.document != nil {
		err = json.Unmarshal(w.document, &doc)
	}
	return doc, err
}

func (w *world) Save(doc keyupdate.Document) (err error) {
	w.op("save %s", doc.Stage)
	w.document, err = json.Marshal(doc)
	return err
}

func (w *world) Archive() ([]byte, error) { return w.archive, nil }

func (w *world) Keep(archive []byte) error {
	w.op("keep archive")
	w.archive = archive
	return nil
}

func (w *world) Drop() error {
	w.op("drop archive")
	w.archive = nil
	return nil
}

func (w *world) updater() *keyupdate.Updater {
	return &keyupdate.Updater{Machine: w, Disk: w, Store: w}
}

// until runs something until the power goes; true when it does.
func (w *world) until(run func() (keyupdate.Outcome, error)) (outcome keyupdate.Outcome, err error, gone bool) {
	defer func() {
		if r := recover(); r != nil {
			if _, power := r.(cut); !power {
				panic(r)
			}
			gone = true
		}
	}()
	outcome, err = run()
	return outcome, err, false
}

func has(t *testing.T, variable []byte, name string) bool {
	t.Helper()
	d, err := secureboot.ParseDatabase(variable)
	if err != nil {
		t.Fatal(err)
	}
	return d.Has(secureboot.X509, keys()[name].Certificate.Raw)
}
