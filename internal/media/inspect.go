package media

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/holdfast-os/holdfast/internal/layout"
)

// Limits of what Inspect reads of single files, in bytes.
const (
	maxAuth    = 64 << 10
	maxCmdline = 64 << 10
)

// Program is what is known of a program of the firmware.
type Program struct {
	// SHA256 is the Authenticode hash, hexadecimal.
	SHA256 string
	// Signers are DER certificates, one for each signature; each one was checked.
	Signers [][]byte
	// Sections are by name, in bytes of the file.
	Sections map[string]Region
}

// Prover checks what was signed. Its answers are about the form alone: which certificates
// to trust is said by the caller.
type Prover interface {
	// Program reads a program of the firmware and checks its signatures.
	Program(r io.ReaderAt, size int64) (Program, error)
	// Verity checks an image with the three partitions of a /usr: the signature of the root
	// hash by one of the DER certificates, and every block of data against it.
	Verity(ctx context.Context, image io.ReaderAt, size int64, certificates [][]byte) (rootHash, signer string, err error)
	// Certificates takes the DER certificates out of a chain of EFI_SIGNATURE_LIST. A chain
	// with anything else in it is an error.
	Certificates(lists []byte) ([][]byte, error)
}

// Report is what is in an image. Texts come from the image and may be anything.
type Report struct {
	Kind
	// Form is "disk" or "cd".
	Form string `json:"form"`
	// Variant is "release", or "test" for an image that lets others look inside.
	Variant string `json:"variant"`
	// Size is in bytes.
	Size       int64       `json:"size"`
	SectorSize int64       `json:"sector_size"`
	Partitions []Partition `json:"partitions"`
	// Keys are the certificates that the first start enrols.
	Keys []Key `json:"keys"`
	// Programs are those on the ESP.
	Programs []Signed `json:"programs"`
	// Usr is the state of /usr.
	Usr Usr `json:"usr"`
	// Seed holds the documents by name, without secrets.
	Seed map[string]any `json:"seed"`
	// Problems are what is wrong with the image; nil when nothing is.
	Problems []string `json:"problems,omitempty"`
}

// Key is a certificate that the image brings.
type Key struct {
	// Variable is "PK", "KEK" or "db".
	Variable string `json:"variable"`
	Subject  string `json:"subject"`
	// Fingerprint is the SHA-256 of the DER certificate, hexadecimal.
	Fingerprint string `json:"fingerprint"`
}

// Signed is a program with who signed it.
type Signed struct {
	// Path is that on the ESP.
	Path string `json:"path"`
	// SHA256 is the Authenticode hash, hexadecimal.
	SHA256 string `json:"sha256"`
	// Signers are the certificates, as in Key; Variable is "db" for those that the image's
	// own db has, and empty for others.
	Signers []Key `json:"signers"`
}

// Usr is what was checked of /usr.
type Usr struct {
	// RootHash is that of the signed hash tree, hexadecimal.
	RootHash string `json:"root_hash"`
	// Signer is the fingerprint of the certificate that signed it.
	Signer string `json:"signer"`
	// Valid tells that all data fits the signed hash.
	Valid bool `json:"valid"`
	// Booted tells that the UKI names the same hash.
	Booted bool `json:"booted"`
}

// Options say how much Inspect does.
type Options struct {
	// Trusted are DER certificates that must have signed; default those that the image
	// itself enrols, which shows that it is consistent, and not whose it is.
	Trusted [][]byte
	// Quick leaves /usr unread, which takes most of the time; default false.
	Quick bool
}

type inspector struct {
	ctx    context.Context
	image  io.ReaderAt
	prove  Prover
	table  Table
	report Report
	// allowed are DER certificates that may have signed.
	allowed [][]byte
	booted  string // the root hash that the UKI names
}

func (i *inspector) problem(format string, args ...any) {
	i.report.Problems = append(i.report.Problems, fmt.Sprintf(format, args...))
}

// Inspect reads an image. An error is something that is no image of ours, or that cannot be
// read; what is wrong with an image is in the report.
func Inspect(ctx context.Context, image io.ReaderAt, size int64, prove Prover, o Options) (Report, error) {
	table, err := ReadTable(image, size)
	if err != nil {
		return Report{}, err
	}
	kind, err := table.KindOf()
	if err != nil {
		return Report{}, err
	}
	i := &inspector{ctx: ctx, image: image, prove: prove, table: table}
	i.report = Report{Kind: kind, Form: "disk", Variant: "release", Size: size, SectorSize: table.Sector, Partitions: table.Partitions,
		Keys: []Key{}, Programs: []Signed{}, Seed: map[string]any{}}
	if table.Sector == isoSector {
		i.report.Form = "cd"
	}
	i.layout()
	files, err := espFiles(image, table)
	if err != nil {
		i.problem("%v", err)
	}
	i.keys(files)
	if len(o.Trusted) > 0 {
		i.allowed = o.Trusted
	}
	i.programs(files)
	if err := i.seed(); err != nil {
		return Report{}, err
	}
	if !o.Quick {
		i.usr()
	}
	return i.report, ctx.Err()
}

// layout compares the partitions with those that the installer expects.
func (i *inspector) layout() {
	want, err := layout.Table(i.report.Architecture)
	if err != nil {
		i.problem("%v", err)
		return
	}
	for _, w := range want[:layout.UsrA] {
		p, ok := i.table.Find(w.Number)
		if !ok || p.Start != w.Start || p.Size != w.Size || !strings.EqualFold(p.Type, w.GUID) {
			i.problem("partition %d is not as the layout of nodes has it (%d bytes at %d): the installer will refuse this medium", w.Number, w.Size, w.Start)
		}
	}
}

// keys reads the updates that the boot loader enrols.
func (i *inspector) keys(files []espFile) {
	for _, variable := range []string{"PK", "KEK", "db"} {
		f := fileNamed(files, "loader/keys/auto/"+variable+".auth")
		if f == nil {
			i.problem("the ESP has no loader/keys/auto/%s.auth: Secure Boot cannot be set up from it", variable)
			continue
		}
		lists, err := authPayload(f)
		var found [][]byte
		if err == nil {
			found, err = i.prove.Certificates(lists)
		}
		if err != nil {
			i.problem("reading the keys of %s: %v", variable, err)
			continue
		}
		for _, der := range found {
			i.report.Keys = append(i.report.Keys, keyOf(variable, der))
			if variable == "db" {
				i.allowed = append(i.allowed, der)
			}
		}
	}
}

// authPayload cuts the time and the signature (EFI_VARIABLE_AUTHENTICATION_2) off the front
// of an update.
func authPayload(f *io.SectionReader) ([]byte, error) {
	if f.Size() > maxAuth {
		return nil, fmt.Errorf("the file has %d bytes, at most %d are read", f.Size(), maxAuth)
	}
	data := make([]byte, f.Size())
	if err := readAt(f, data, 0); err != nil {
		return nil, err
	}
	const stamp, smallest = 16, 24
	if len(data) < stamp+smallest {
		return nil, errors.New("the update is cut off")
	}
	length := int64(binary.LittleEndian.Uint32(data[stamp:]))
	if length < smallest || length > int64(len(data)-stamp) {
		return nil, errors.New("the update has a signature of an impossible size")
	}
	return data[stamp+length:], nil
}

func keyOf(variable string, der []byte) Key {
	k := Key{Variable: variable, Fingerprint: hexSum(der), Subject: "(cannot be read)"}
	if c, err := x509.ParseCertificate(der); err == nil {
		k.Subject = c.Subject.String()
	}
	return k
}

func (i *inspector) programs(files []espFile) {
	ukis := 0
	for _, f := range files {
		if !strings.HasSuffix(strings.ToLower(f.path), ".efi") {
			continue
		}
		p, err := i.prove.Program(f.data, f.data.Size())
		if err != nil {
			i.problem("%.200s: %v", f.path, err)
			continue
		}
		s := Signed{Path: f.path, SHA256: p.SHA256, Signers: []Key{}}
		trusted := false
		for _, der := range p.Signers {
			k := keyOf("", der)
			if slices.ContainsFunc(i.allowed, func(a []byte) bool { return string(a) == string(der) }) {
				k.Variable, trusted = "db", true
			}
			s.Signers = append(s.Signers, k)
		}
		if !trusted {
			i.problem("%.200s is not signed by a certificate that may sign it", f.path)
		}
		i.report.Programs = append(i.report.Programs, s)
		if strings.EqualFold(path.Dir(f.path)+"/", ukiFolder) {
			ukis++
			i.uki(f, p)
		}
	}
	if ukis != 1 {
		i.problem("the ESP has %d UKIs, one is expected", ukis)
	}
}

var usrHash = regexp.MustCompile(`(?:^|\s)usrhash=([0-9a-f]{64})(?:\s|$)`)

// uki reads the command line, which says what the kernel will take for /usr.
func (i *inspector) uki(f espFile, p Program) {
	line, ok := p.Sections[".cmdline"]
	if !ok || line.Size > maxCmdline || line.Offset < 0 || line.Size < 0 {
		i.problem("%.200s has no command line that can be read", f.path)
		return
	}
	text := make([]byte, line.Size)
	if err := readAt(f.data, text, line.Offset); err != nil {
		i.problem("%.200s: its command line: %v", f.path, err)
		return
	}
	words := strings.Fields(strings.TrimRight(string(text), "\x00"))
	if slices.Contains(words, "holdfast.variant=test") {
		i.report.Variant = "test"
		i.problem("%.200s is the variant for tests: everybody who can reach such a node's firmware can look inside", f.path)
	}
	if found := usrHash.FindStringSubmatch(strings.Join(words, " ")); found != nil {
		i.booted = found[1]
	} else {
		i.problem("%.200s does not say which /usr it belongs to (usrhash=)", f.path)
	}
	if want := layout.Name + "_" + i.report.Version; !strings.HasPrefix(path.Base(f.path), want) {
		i.problem("%.200s is not that of release %.40s", f.path, i.report.Version)
	}
}

func (i *inspector) seed() error {
	at, err := SeedPlace(i.table)
	if err != nil {
		i.problem("%v", err)
		return nil
	}
	set, err := ReadSeed(i.image, at)
	var problems Problems
	if errors.As(err, &problems) {
		for _, p := range problems {
			i.problem("seed: %.500s", p)
		}
	} else if err != nil {
		return err
	}
	for _, p := range CheckSet(set, nil) {
		i.problem("seed: %.500s", p)
	}
	if i.report.Seed, err = Hidden(set); err != nil {
		return err
	}
	return nil
}

// usr checks the signature over /usr and all of its data.
func (i *inspector) usr() {
	image, size, err := slotImage(i.image, i.table)
	if err != nil {
		i.problem("/usr: %v", err)
		return
	}
	root, signer, err := i.prove.Verity(i.ctx, image, size, i.allowed)
	if err != nil {
		i.problem("/usr: %v", err)
		return
	}
	i.report.Usr = Usr{RootHash: root, Signer: signer, Valid: true, Booted: root == i.booted}
	if !i.report.Usr.Booted {
		i.problem("/usr has root hash %s, and the UKI asks for %s: it will not start", root, cmp.Or(i.booted, "none"))
	}
}

// slotImage is the image as if it had the three partitions of slot A alone, in the form that
// extensions have: the same check is then done on both.
func slotImage(image io.ReaderAt, t Table) (io.ReaderAt, int64, error) {
	const sector, first = 4096, 1 << 20
	slot := Table{Sector: sector, DiskGUID: t.DiskGUID}
	m := &mosaic{}
	at := int64(first)
	for n, number := range []int{layout.SigA, layout.VerityA, layout.UsrA} {
		p, ok := t.Find(number)
		if !ok {
			return nil, 0, fmt.Errorf("partition %d is missing", number)
		}
		m.pieces = append(m.pieces, piece{at, io.NewSectionReader(image, p.Start, p.Size)})
		p.Number, p.Start = n+1, at
		if p.Size%sector != 0 {
			return nil, 0, fmt.Errorf("partition %d has %d bytes, which is no multiple of %d", number, p.Size, sector)
		}
		slot.Partitions = append(slot.Partitions, p)
		at += p.Size
	}
	size := at + first
	head, _, err := slot.render(size)
	if err != nil {
		return nil, 0, err
	}
	m.pieces = append([]piece{{0, io.NewSectionReader(&headReader{head}, 0, int64(len(head)))}}, m.pieces...)
	m.size = size
	return m, size, nil
}

// mosaic is made of pieces, and of zeros between them.
type mosaic struct {
	pieces []piece // ascending
	size   int64
}

type piece struct {
	at   int64
	data *io.SectionReader
}

func (m *mosaic) ReadAt(p []byte, offset int64) (int, error) {
	if offset < 0 || offset >= m.size {
		return 0, io.EOF
	}
	short := false
	if int64(len(p)) > m.size-offset {
		p, short = p[:m.size-offset], true
	}
	clear(p)
	for _, one := range m.pieces {
		from, to := max(offset, one.at), min(offset+int64(len(p)), one.at+one.data.Size())
		if from >= to {
			continue
		}
		if err := readAt(one.data, p[from-offset:to-offset], from-one.at); err != nil {
			return 0, err
		}
	}
	if short {
		return len(p), io.EOF
	}
	return len(p), nil
}
