package delta

import (
	"bytes"
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// sealed adds to a header what the envelope adds: its sum.
func sealed(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return append([]byte(text), sum[:]...)
}

func thirtyTwo(letter byte) Sum { return Sum(bytes.Repeat([]byte{letter}, 32)) }

// Nodes in the field read patches of later publishers: the bytes of format 1 stay as they are.
func TestHeader_FormatOne_KeepsItsBytes(t *testing.T) {
	h := header{
		Base: File{5, thirtyTwo('b')}, Result: File{258, thirtyTwo('r')},
		Segments: []segment{{Length: 258, Packed: 7, Frame: thirtyTwo('f'), Result: thirtyTwo('s'), Pieces: []piece{{1, 4}}}},
	}
	want := sealed("HFDELTA1" + "\xaa\x00\x00\x00" + // 170 bytes follow
		"\x05\x00\x00\x00\x00\x00\x00\x00" + strings.Repeat("b", 32) +
		"\x02\x01\x00\x00\x00\x00\x00\x00" + strings.Repeat("r", 32) +
		"\x01\x00\x00\x00" + // one segment
		"\x02\x01\x00\x00" + "\x07\x00\x00\x00" + strings.Repeat("f", 32) + strings.Repeat("s", 32) +
		"\x01\x00" + // one piece
		"\x01\x00\x00\x00\x00\x00\x00\x00" + "\x04\x00\x00\x00")
	if diff := cmp.Diff(want, h.encode()); diff != "" {
		t.Errorf("written (-want +got):\n%s", diff)
	}
	got, err := readHeader(bytes.NewReader(want))
	if diff := cmp.Diff(h, got); diff != "" || err != nil {
		t.Errorf("%v, read (-want +got):\n%s", err, diff)
	}
}

// The same for indexes.
func TestIndex_FormatOne_KeepsItsBytes(t *testing.T) {
	x := Index{Result: File{20, thirtyTwo('r')}, PackSize: 9, Chunks: []Chunk{{0, 9, 20, thirtyTwo('c')}}}
	want := sealed("HFCHUNK1" + "\x64\x00\x00\x00" + // 100 bytes follow
		"\x14\x00\x00\x00\x00\x00\x00\x00" + strings.Repeat("r", 32) +
		"\x09\x00\x00\x00\x00\x00\x00\x00" +
		"\x01\x00\x00\x00" + // one chunk
		"\x00\x00\x00\x00\x00\x00\x00\x00" + "\x09\x00\x00\x00" + "\x14\x00\x00\x00" + strings.Repeat("c", 32))
	if diff := cmp.Diff(want, x.encode()); diff != "" {
		t.Errorf("written (-want +got):\n%s", diff)
	}
	got, err := ReadIndex(bytes.NewReader(want))
	if diff := cmp.Diff(x, got); diff != "" || err != nil {
		t.Errorf("%v, read (-want +got):\n%s", err, diff)
	}
}
