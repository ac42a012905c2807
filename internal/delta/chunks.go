package delta

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// Earlier is the pack of another file, of which the chunks that both have are taken as they
// are: packing them anew takes most of the time.
type Earlier struct {
	Index Index
	Pack  io.ReaderAt
}

// find gives a chunk as it was packed before; nil when there is none, or when it is not what
// the index says.
func (e Earlier) find(unpack *zstd.Decoder, known map[Sum]Chunk, sum Sum, data []byte) []byte {
	chunk, ok := known[sum]
	if !ok || chunk.Packed > maxFrame(chunk.Length) || chunk.Length != int64(len(data)) {
		return nil
	}
	packed := make([]byte, chunk.Packed)
	if _, err := e.Pack.ReadAt(packed, chunk.Offset); err != nil && !errors.Is(err, io.EOF) {
		return nil
	}
	if got, err := unpack.DecodeAll(packed, make([]byte, 0, len(data))); err != nil || !bytes.Equal(got, data) {
		return nil
	}
	return packed
}

// MakeChunks cuts the file r, and writes its pack and then its index. It reads r once, to
// its end. Chunks that are in an earlier pack are copied; a pack that is damaged costs time
// and nothing else.
func MakeChunks(ctx context.Context, r io.Reader, index, pack io.Writer, earlier ...Earlier) (Index, error) {
	unpack, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(2*ChunkMax))
	if err != nil {
		return Index{}, fmt.Errorf("preparing the reading of packed chunks: %w", err)
	}
	defer unpack.Close()
	before := make([]map[Sum]Chunk, len(earlier))
	for i, e := range earlier {
		before[i] = map[Sum]Chunk{}
		for _, c := range e.Index.Chunks {
			before[i][c.SHA256] = c
		}
	}
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(ChunkMax))
	if err != nil {
		return Index{}, fmt.Errorf("preparing the packing of chunks: %w", err)
	}
	defer func() { _ = encoder.Close() }() // it has written nothing
	var x Index
	places := map[Sum]Chunk{}
	whole := sha256.New()
	var packed []byte
	err = eachChunk(checkedReader{ctx, r}, func(data []byte) error {
		if len(x.Chunks) == maxChunks {
			return fmt.Errorf("the file has more than %d chunks", maxChunks)
		}
		whole.Write(data)
		sum := Sum(sha256.Sum256(data))
		x.Result.Size += int64(len(data))
		place, again := places[sum]
		if !again {
			packed = packed[:0]
			for i, e := range earlier {
				if len(packed) == 0 {
					packed = append(packed, e.find(unpack, before[i], sum, data)...)
				}
			}
			if len(packed) == 0 {
				packed = encoder.EncodeAll(data, packed)
			}
			place = Chunk{Offset: x.PackSize, Packed: int64(len(packed)), Length: int64(len(data)), SHA256: sum}
			places[sum] = place
			x.PackSize += place.Packed
			if _, err := pack.Write(packed); err != nil {
				return fmt.Errorf("writing the pack: %w", err)
			}
		}
		x.Chunks = append(x.Chunks, place)
		return nil
	})
	if err != nil {
		return Index{}, fmt.Errorf("making chunks: %w", err)
	}
	x.Result.SHA256 = Sum(whole.Sum(nil))
	if err := writeAll(ctx, index, x.encode()); err != nil {
		return Index{}, fmt.Errorf("making chunks: writing the index: %w", err)
	}
	return x, nil
}

// Place is where a chunk begins in an old file, in bytes.
type Place int64

// Scan cuts an old file, which it reads to its end, and gives the places of its chunks.
// It looks only at the first 16 GiB or so: what lies behind counts as not there.
func Scan(ctx context.Context, r io.Reader) (map[Sum]Place, error) {
	found := map[Sum]Place{}
	var at int64
	enough := errors.New("enough")
	err := eachChunk(checkedReader{ctx, r}, func(data []byte) error {
		if len(found) == maxChunks {
			return enough
		}
		sum := Sum(sha256.Sum256(data))
		if _, again := found[sum]; !again {
			found[sum] = Place(at)
		}
		at += int64(len(data))
		return nil
	})
	if err != nil && !errors.Is(err, enough) {
		return nil, fmt.Errorf("scanning the old file: %w", err)
	}
	return found, nil
}
