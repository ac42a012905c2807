package block

import (
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
)

// entry is a partition entry as bytes: an ESP at LBA 64 to 127, read-only.
func entry(label string) []byte {
	data, err := hex.DecodeString("28732ac11ff8d211ba4b00a0c93ec93b" + "101112131415161718191a1b1c1d1e1f" +
		"4000000000000000" + "7f00000000000000" + "0000000000000010")
	if err != nil {
		panic(err)
	}
	for _, c := range label {
		data = append(data, byte(c), 0)
	}
	return data
}

func putHeader(header, entries []byte, at, other, start int) {
	le := binary.LittleEndian
	copy(header, "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")
	le.PutUint64(header[24:], uint64(at))
	le.PutUint64(header[32:], uint64(other))
	le.PutUint64(header[40:], 40)
	le.PutUint64(header[48:], 200)
	for i := range 16 {
		header[56+i] = byte(i)
	}
	le.PutUint64(header[72:], uint64(start))
	le.PutUint32(header[80:], 128)
	le.PutUint32(header[84:], 128)
	le.PutUint32(header[88:], crc32.ChecksumIEEE(entries))
	fixHeader(header)
}

// fixHeader makes the checksum of a changed header good again.
func fixHeader(header []byte) {
	clear(header[16:20])
	binary.LittleEndian.PutUint32(header[16:], crc32.ChecksumIEEE(header[:92]))
}
