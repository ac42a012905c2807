package delta

import (
	"errors"
	"fmt"
	"io"
)

// Where files are cut (Wen Xia et al., "FastCDC: a fast and efficient content-defined
// chunking approach for data deduplication", USENIX ATC 2016): a gear hash of the last 64
// bytes runs along, and a cut is where some of its bits are zero; more bits before the
// wished length and fewer behind it, so that most chunks come near to it ("normalized
// chunking", level 2). These numbers decide where files are cut: they never change.
const (
	// ChunkMin, ChunkAverage and ChunkMax are in bytes. 64 KiB on average is what casync
	// uses; smaller chunks find more and cost more index, 48 bytes each.
	ChunkMin     = 16 << 10
	ChunkAverage = 64 << 10
	ChunkMax     = 256 << 10

	// The upper bits of a gear hash depend on most bytes, so they are the ones looked at:
	// 2^16 is the average, two bits more before it and two fewer behind.
	cutHard = uint64(1<<18-1) << (64 - 18)
	cutEasy = uint64(1<<14-1) << (64 - 14)
)

// cut gives the length of the first chunk of data. When there is no more to come, the end
// of data is a cut as well; else data has at least ChunkMax bytes.
func cut(data []byte) int {
	if len(data) <= ChunkMin {
		return len(data)
	}
	data = data[:min(len(data), ChunkMax)]
	var h uint64
	i := ChunkMin
	for ; i < min(ChunkAverage, len(data)); i++ {
		h = h<<1 + gear[data[i]]
		if h&cutHard == 0 {
			return i + 1
		}
	}
	for ; i < len(data); i++ {
		h = h<<1 + gear[data[i]]
		if h&cutEasy == 0 {
			return i + 1
		}
	}
	return len(data)
}

// eachChunk calls do with each chunk of the stream, in order. The chunk is valid until do
// returns.
func eachChunk(r io.Reader, do func(chunk []byte) error) error {
	buffer := make([]byte, 8*ChunkMax)
	have, ended := 0, false
	for {
		for !ended && have < len(buffer) {
			n, err := r.Read(buffer[have:])
			have += n
			if errors.Is(err, io.EOF) {
				ended = true
			} else if err != nil {
				return fmt.Errorf("reading the file to cut: %w", err)
			}
		}
		from := 0
		for have-from >= ChunkMax || (ended && from < have) {
			n := cut(buffer[from:have])
			if err := do(buffer[from : from+n]); err != nil {
				return err
			}
			from += n
		}
		if ended {
			return nil
		}
		have = copy(buffer, buffer[from:have])
	}
}
