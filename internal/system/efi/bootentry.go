package efi

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
)

// BootEntry is a loader on a partition, as the firmware's boot menu shows it.
type BootEntry struct {
	// Label is the name in the menu. An entry with the same label is replaced.
	Label string
	// Partition is the number of the ESP in its table, from 1.
	Partition uint32
	// Start and Size are the ESP's place, in logical sectors of the disk.
	Start, Size uint64
	// GUID is the ESP's unique GUID.
	GUID string
	// Loader is the program, with backslashes, as `\EFI\systemd\systemd-bootx64.efi`.
	Loader string
}

const (
	loadOptionActive = 1
	maxLoaderPath    = 512
)

// SetBootEntry makes the entry and puts it first in the boot order. An entry with the
// same label is replaced in its place; further ones with that label are removed.
func (v Vars) SetBootEntry(entry BootEntry) error {
	data, err := entry.encode()
	if err != nil {
		return err
	}
	used, same, err := v.bootNumbers(entry.Label)
	if err != nil {
		return err
	}
	number, err := pickNumber(used, same)
	if err != nil {
		return err
	}
	if err := v.Write(bootName(number), Global, Variable{Attributes: Persistent, Data: data}); err != nil {
		return err
	}
	old, err := v.bootOrder()
	if err != nil {
		return err
	}
	order := binary.LittleEndian.AppendUint16(nil, number)
	for _, other := range old {
		if other != number && !slices.Contains(same, other) {
			order = binary.LittleEndian.AppendUint16(order, other)
		}
	}
	if err := v.Write("BootOrder", Global, Variable{Attributes: Persistent, Data: order}); err != nil {
		return err
	}
	for _, extra := range same {
		if extra != number {
			if err := v.Delete(bootName(extra), Global); err != nil {
				return err
			}
		}
	}
	return nil
}

func pickNumber(used, same []uint16) (uint16, error) {
	if len(same) > 0 {
		return same[0], nil
	}
	for number := range uint16(0xffff) {
		if !slices.Contains(used, number) {
			return number, nil
		}
	}
	return 0, errors.New("making a boot entry: the firmware has no free number")
}

func bootName(number uint16) string { return fmt.Sprintf("Boot%04X", number) }

// bootNumbers gives the numbers of all boot entries and of those with a label, sorted.
func (v Vars) bootNumbers(label string) (used, same []uint16, err error) {
	entries, err := os.ReadDir(v.dir())
	if err != nil {
		return nil, nil, fmt.Errorf("listing boot entries: %w", err)
	}
	for _, file := range entries {
		digits, ok := strings.CutSuffix(file.Name(), "-"+Global)
		digits, isBoot := strings.CutPrefix(digits, "Boot")
		number, err := strconv.ParseUint(digits, 16, 16)
		if !ok || !isBoot || len(digits) != 4 || err != nil {
			continue
		}
		used = append(used, uint16(number))
		value, err := v.Read("Boot"+digits, Global)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if len(value.Data) > 6 && decodeUTF16(value.Data[6:]) == label {
			same = append(same, uint16(number))
		}
	}
	slices.Sort(used)
	slices.Sort(same)
	return used, same, nil
}

func (v Vars) bootOrder() ([]uint16, error) {
	value, err := v.Read("BootOrder", Global)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var order []uint16
	for data := value.Data; len(data) >= 2; data = data[2:] {
		order = append(order, binary.LittleEndian.Uint16(data))
	}
	return order, nil
}

// encode writes the entry as an EFI_LOAD_OPTION: a hard drive node, a file node, an end node.
func (e BootEntry) encode() ([]byte, error) {
	guid, err := parseGUID(e.GUID)
	if err != nil {
		return nil, fmt.Errorf("making boot entry %s: %w", e.Label, err)
	}
	if e.Loader == "" || len(e.Loader) > maxLoaderPath {
		return nil, fmt.Errorf("making boot entry %s: the path of the loader has %d bytes, want 1 to %d", e.Label, len(e.Loader), maxLoaderPath)
	}
	le := binary.LittleEndian
	path := []byte{4, 1, 42, 0}
	path = le.AppendUint32(path, e.Partition)
	path = le.AppendUint64(path, e.Start)
	path = le.AppendUint64(path, e.Size)
	path = append(path, guid...)
	path = append(path, 2, 2) // GPT, identified by GUID
	file := encodeUTF16(e.Loader)
	path = append(path, 4, 4)
	path = le.AppendUint16(path, uint16(4+len(file)))
	path = append(path, file...)
	path = append(path, 0x7f, 0xff, 4, 0)

	data := le.AppendUint32(nil, loadOptionActive)
	data = le.AppendUint16(data, uint16(len(path)))
	data = append(data, encodeUTF16(e.Label)...)
	return append(data, path...), nil
}

// parseGUID gives the 16 bytes of a GUID in the order in which the firmware stores them.
func parseGUID(text string) ([]byte, error) {
	raw, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil || len(raw) != 16 {
		return nil, fmt.Errorf("%q is not a GUID", text)
	}
	slices.Reverse(raw[:4])
	slices.Reverse(raw[4:6])
	slices.Reverse(raw[6:8])
	return raw, nil
}
