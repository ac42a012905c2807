// Package smbios reads what a machine's firmware says about it in the SMBIOS table: so
// far the OEM strings (type 11), by which hypervisors and vendors hand a text over.
//
// The table is foreign: a hypervisor writes it, and neither Secure Boot nor a signature
// covers it. Who uses a text of it must be ready for any. The size is bounded, and a
// table that breaks off has the strings before the break.
package smbios

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Table is where the kernel shows the table, below the root directory; root alone may
// read it.
const Table = "sys/firmware/dmi/tables/DMI"

// maxTable bounds the table, in bytes: its length has 16 bits up to SMBIOS 2, and no real
// one of SMBIOS 3 comes near this.
const maxTable = 1 << 20

const (
	typeOEMStrings = 11
	typeEnd        = 127
)

// OEMStrings gives the OEM strings of the machine below root ("/"), in their order. A
// machine without a table has none.
func OEMStrings(root string) ([]string, error) {
	f, err := os.Open(filepath.Join(root, Table))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the SMBIOS table: %w", err)
	}
	table, err := io.ReadAll(io.LimitReader(f, maxTable))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("reading the SMBIOS table: %w", err)
	}
	return Parse(table), nil
}

// Parse gives the OEM strings of a table. (DSP0134, 6.1.2 and 7.12: a structure is a type,
// a length of its formatted area, a handle of two bytes, the area, and texts that end in a
// NUL each and in one more.)
func Parse(table []byte) []string {
	var found []string
	for len(table) >= 4 {
		kind, length := table[0], int(table[1])
		if kind == typeEnd || length < 4 || length > len(table) {
			break
		}
		texts, rest, whole := cutTexts(table[length:])
		if kind == typeOEMStrings {
			found = append(found, texts...)
		}
		if !whole {
			break
		}
		table = rest
	}
	return found
}

// cutTexts takes the texts behind a formatted area; whole is false when they break off.
func cutTexts(data []byte) (texts []string, rest []byte, whole bool) {
	if len(data) >= 2 && data[0] == 0 && data[1] == 0 {
		return nil, data[2:], true // no texts at all: two NULs
	}
	start := 0
	for i, b := range data {
		if b != 0 {
			continue
		}
		if i == start {
			return texts, data[i+1:], true
		}
		texts = append(texts, string(data[start:i]))
		start = i + 1
	}
	return texts, nil, false
}
