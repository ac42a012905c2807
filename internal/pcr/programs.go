package pcr

import (
	"encoding/binary"
	"fmt"
	"path"
	"strings"
	"unicode/utf16"
)

// Started is what register 4 depends on. All hashes are Authenticode ones of SHA-256.
type Started struct {
	// Loaders are the boot loaders by their path on the ESP, as "EFI/BOOT/BOOTX64.EFI";
	// capital letters and the sort of slash do not matter.
	Loaders map[string]Value
	// UKI is the one that is started out of EFI/Linux.
	UKI Value
	// Kernel is the section .linux of that UKI, which its stub starts.
	Kernel Value
}

// NextPrograms predicts register 4. before is what this start was made of, noted before
// anything on the ESP was changed; it must explain the log. after is what the next start
// will be made of. Loaders that are not in both are reused. Errors are *Doubt.
func NextPrograms(log []Event, actual Value, before, after Started) (Prediction, error) {
	if err := Check(log, Programs, actual); err != nil {
		return Prediction{}, err
	}
	list, err := entries(log, Programs)
	if err != nil {
		return Prediction{}, err
	}
	p := programs{before: before.normal(), after: after.normal(), seen: map[string]bool{}}
	var next []made
	for _, e := range list {
		m := made{entry: e, object: "an event", digests: []Value{e.SHA256}}
		if e.Type == evApplication {
			if err := p.program(&m); err != nil {
				return Prediction{}, err
			}
		}
		next = append(next, m)
	}
	if err := p.complete(); err != nil {
		return Prediction{}, err
	}
	return Prediction{PCR: Programs, Present: actual, Next: extend(flatten(next)), Changes: compare(next)}, nil
}

// Names of the programs that are not found by their path alone.
const (
	ukiObject    = "/efi/linux/"
	kernelObject = ".linux"
)

// normal puts all programs in one table.
func (s Started) normal() map[string]Value {
	table := map[string]Value{ukiObject: s.UKI, kernelObject: s.Kernel}
	for name, hash := range s.Loaders {
		table[normalPath(name)] = hash
	}
	return table
}

type programs struct {
	before, after map[string]Value
	seen          map[string]bool
}

// program finds out which program an event is about, by its path and else by its digest.
func (p *programs) program(m *made) error {
	e := m.entry
	name, known := p.object(e.Data)
	if !known {
		for object, hash := range p.before {
			if hash != e.SHA256 || hash == (Value{}) {
				continue
			}
			if known && p.after[object] != p.after[name] {
				return &Doubt{PCR: Programs, Event: e.number, Reason: fmt.Sprintf("it has no path, and by its digest it is %s as well as %s, which will differ", name, object)}
			}
			name, known = object, true
		}
	}
	after, wanted := p.after[name]
	if before, has := p.before[name]; !known || !has || !wanted || before == (Value{}) {
		return nil
	} else if before != e.SHA256 {
		return &Doubt{PCR: Programs, Event: e.number, Reason: fmt.Sprintf("%s that was measured is not the one that is known for this start", name)}
	}
	p.seen[name] = true
	m.object, m.digests = name, []Value{after}
	return nil
}

// complete is an error when a program changes that the log does not have.
func (p *programs) complete() error {
	for name, after := range p.after {
		before, has := p.before[name]
		if has && before != after && !p.seen[name] && (name == ukiObject || name == kernelObject) {
			return &Doubt{PCR: Programs, Reason: "the log has no event for " + name}
		}
	}
	return nil
}

// object names the program of an event: UEFI_IMAGE_LOAD_EVENT.
func (p *programs) object(data []byte) (string, bool) {
	file, stub := decodeImage(data)
	switch {
	case stub:
		return kernelObject, true
	case file == "":
		return "", false
	case path.Dir(file) == "/efi/linux" && path.Ext(file) == ".efi":
		return ukiObject, true
	}
	_, known := p.before[file]
	return file, known
}

// stubPayload is the GUID by which systemd-stub names the kernel that it starts.
var stubPayload = [16]byte{0xf8, 0xd1, 0xc5, 0x55, 0xcd, 0x04, 0xb5, 0x46, 0x8a, 0x20, 0xe5, 0x6c, 0xbb, 0x30, 0x52, 0xd0}

// decodeImage gives the file of an image, in normal form, and whether it is what a stub
// started. A device path that cannot be read gives neither.
func decodeImage(data []byte) (file string, stub bool) {
	const header = 4 * 8
	if len(data) < header {
		return "", false
	}
	size := binary.LittleEndian.Uint64(data[24:])
	nodes := data[header:]
	if size > uint64(len(nodes)) {
		return "", false
	}
	const media, vendorNode, fileNode = 4, 3, 4
	for nodes = nodes[:size]; len(nodes) >= 4; {
		length := int(binary.LittleEndian.Uint16(nodes[2:]))
		if length < 4 || length > len(nodes) {
			return "", false
		}
		body := nodes[4:length]
		switch {
		case nodes[0] == media && nodes[1] == fileNode:
			file += "/" + text(body)
		case nodes[0] == media && nodes[1] == vendorNode && len(body) >= 16 && [16]byte(body[:16]) == stubPayload:
			stub = true
		}
		nodes = nodes[length:]
	}
	if file != "" {
		file = normalPath(file)
	}
	return file, stub
}

func text(data []byte) string {
	var units []uint16
	for ; len(data) >= 2; data = data[2:] {
		unit := binary.LittleEndian.Uint16(data)
		if unit == 0 {
			break
		}
		units = append(units, unit)
	}
	return string(utf16.Decode(units))
}

// normalPath is for a file system that does not tell capital letters from small ones.
func normalPath(name string) string {
	return path.Clean("/" + strings.ToLower(strings.ReplaceAll(name, `\`, "/")))
}
