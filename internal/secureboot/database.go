package secureboot

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
)

// Kind is what an entry of a signature database is, as the GUID that the firmware stores.
type Kind [16]byte

// The kinds that are understood. A database may have others; they are kept as they are.
var (
	// X509 is a DER certificate.
	X509 = Kind{0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72}
	// SHA256 is the Authenticode hash of a program.
	SHA256 = Kind{0x26, 0x16, 0xc4, 0xc1, 0x4c, 0x50, 0x92, 0x40, 0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28}
	// X509SHA256 is the hash of the signed part of a certificate, and a time.
	X509SHA256 = Kind{0x92, 0xa4, 0xd2, 0x3b, 0xc0, 0x96, 0x79, 0x40, 0xb4, 0x20, 0xfc, 0xf9, 0x8e, 0xf1, 0x03, 0xed}
	// X509SHA384 and X509SHA512 are the same with longer hashes.
	X509SHA384 = Kind{0x6e, 0x87, 0x76, 0x70, 0xc2, 0x80, 0xe6, 0x4e, 0xaa, 0xd2, 0x28, 0xb3, 0x49, 0xa6, 0x86, 0x5b}
	X509SHA512 = Kind{0x63, 0xbf, 0x6d, 0x44, 0x02, 0x25, 0xda, 0x4c, 0xbc, 0xfa, 0x24, 0x65, 0xd2, 0xb0, 0xfe, 0x9d}
)

// Entry is one signature of a database.
type Entry struct {
	Kind Kind
	// Owner is a GUID that says who brought the entry in.
	Owner [16]byte
	// Data is a certificate or a hash, by kind.
	Data []byte
}

// Signature is the entry as the firmware measures it when it lets in a program:
// EFI_SIGNATURE_DATA.
func (e Entry) Signature() []byte { return slices.Concat(e.Owner[:], e.Data) }

// Database is the content of PK, KEK, db or dbx, in order.
type Database []Entry

// Limits of a database. The largest dbx that is known has some hundred entries.
const (
	maxDatabase = 1 << 20
	maxEntries  = 8192
	listHeader  = 28
	ownerSize   = 16
)

// ParseDatabase reads a chain of EFI_SIGNATURE_LIST, which is what a variable has. An empty
// one is a variable that does not exist.
func ParseDatabase(data []byte) (Database, error) {
	if len(data) > maxDatabase {
		return nil, fmt.Errorf("reading a signature database: it has %d bytes, at most %d are read", len(data), maxDatabase)
	}
	var all Database
	le := binary.LittleEndian
	for number := 1; len(data) > 0; number++ {
		if len(data) < listHeader {
			return nil, fmt.Errorf("reading a signature database: list %d is cut off after %d bytes", number, len(data))
		}
		size, header, each := uint64(le.Uint32(data[16:])), uint64(le.Uint32(data[20:])), uint64(le.Uint32(data[24:]))
		if size > uint64(len(data)) || size < listHeader+header || each <= ownerSize || (size-listHeader-header)%each != 0 {
			return nil, fmt.Errorf("reading a signature database: list %d has sizes that do not add up: %d bytes, header %d, signatures of %d",
				number, size, header, each)
		}
		for body := data[listHeader+header : size]; len(body) > 0; body = body[each:] {
			if len(all) == maxEntries {
				return nil, fmt.Errorf("reading a signature database: it has more than %d entries", maxEntries)
			}
			all = append(all, Entry{Kind: Kind(data[:16]), Owner: [16]byte(body[:ownerSize]), Data: bytes.Clone(body[ownerSize:each])})
		}
		data = data[size:]
	}
	return all, nil
}

// Encode writes the entries as lists, one for each entry.
func (d Database) Encode() []byte {
	var data []byte
	for _, e := range d {
		each := uint32(ownerSize + len(e.Data))
		data = append(data, e.Kind[:]...)
		data = binary.LittleEndian.AppendUint32(data, listHeader+each)
		data = binary.LittleEndian.AppendUint32(data, 0)
		data = binary.LittleEndian.AppendUint32(data, each)
		data = append(data, e.Signature()...)
	}
	return data
}

// Certificates gives the DER certificates.
func (d Database) Certificates() [][]byte {
	var list [][]byte
	for _, e := range d {
		if e.Kind == X509 {
			list = append(list, e.Data)
		}
	}
	return list
}

// Has is true when the database has an entry of that kind and content, whoever owns it.
func (d Database) Has(kind Kind, data []byte) bool {
	return slices.ContainsFunc(d, func(e Entry) bool { return e.Kind == kind && bytes.Equal(e.Data, data) })
}
