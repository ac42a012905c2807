package install

import (
	"encoding/binary"
	"hash/crc32"
)

// The mark of an unfinished installation: 16 bytes of magic, version, the GUID that
// the new ESP gets (36 characters), a CRC-32 of all that, zeros. It lies behind
// every primary table, with small or large sectors, and before the first partition.
const (
	// MarkOffset is where the mark lies, in bytes.
	MarkOffset = 512 << 10
	// MarkSize is its length in bytes: one sector of the largest kind.
	MarkSize = 4096

	markMagic   = "HoldfastInstall\x00"
	markVersion = 1
	markBody    = 16 + 4 + 36
)

func encodeMark(guid string) []byte {
	mark := append(make([]byte, 0, MarkSize), markMagic...)
	mark = binary.LittleEndian.AppendUint32(mark, markVersion)
	mark = append(mark, guid...)
	mark = binary.LittleEndian.AppendUint32(mark, crc32.ChecksumIEEE(mark))
	return mark[:MarkSize]
}

// ParseMark gives the GUID in a mark, and "" for anything that is not one.
func ParseMark(data []byte) string {
	if len(data) < markBody+4 || string(data[:16]) != markMagic || binary.LittleEndian.Uint32(data[16:]) != markVersion ||
		binary.LittleEndian.Uint32(data[markBody:]) != crc32.ChecksumIEEE(data[:markBody]) {
		return ""
	}
	return string(data[20:markBody])
}
