package pcr

import (
	"encoding/binary"
	"errors"
	"io"
	"unicode/utf16"
)

// Vendors of the variables of Secure Boot, as the firmware stores them.
var (
	global        = [16]byte{0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c}
	imageSecurity = [16]byte{0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f}
)

// vendors are those of the variables that can be predicted.
var vendors = map[string][16]byte{
	"SecureBoot": global, "PK": global, "KEK": global,
	"db": imageSecurity, "dbx": imageSecurity, "dbt": imageSecurity, "dbr": imageSecurity,
}

// Variable is what the firmware measures of a variable: UEFI_VARIABLE_DATA.
type Variable struct {
	// Vendor is the GUID in the order in which the firmware stores it.
	Vendor [16]byte
	// Name is without its closing NUL.
	Name string
	// Data is the content; empty for a variable that does not exist.
	Data []byte
}

// maxName bounds the name of a variable, in UTF-16 units.
const maxName = 1024

// DecodeVariable reads an event's data. Bytes behind the variable, which some firmware
// logs, are given as rest.
func DecodeVariable(data []byte) (v Variable, rest []byte, err error) {
	const header = 16 + 8 + 8
	if len(data) < header {
		return Variable{}, nil, io.ErrUnexpectedEOF
	}
	name, size := binary.LittleEndian.Uint64(data[16:]), binary.LittleEndian.Uint64(data[24:])
	body := data[header:]
	if name > maxName {
		return Variable{}, nil, errors.New("the name of the variable is too long")
	}
	if uint64(len(body)) < 2*name || uint64(len(body))-2*name < size {
		return Variable{}, nil, io.ErrUnexpectedEOF
	}
	units := make([]uint16, name)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(body[2*i:])
	}
	body = body[2*name:]
	v = Variable{Vendor: [16]byte(data[:16]), Name: string(utf16.Decode(units)), Data: body[:size]}
	return v, body[size:], nil
}

// Encode writes the variable as the firmware measures it.
func (v Variable) Encode() []byte {
	units := utf16.Encode([]rune(v.Name))
	data := append([]byte(nil), v.Vendor[:]...)
	data = binary.LittleEndian.AppendUint64(data, uint64(len(units)))
	data = binary.LittleEndian.AppendUint64(data, uint64(len(v.Data)))
	for _, unit := range units {
		data = binary.LittleEndian.AppendUint16(data, unit)
	}
	return append(data, v.Data...)
}
