package delta

import (
	"fmt"
	"strconv"

	"github.com/holdfast-os/holdfast/api/release"
)

// Kind is a way to get a part of a release.
type Kind string

// The ways, the words are those of the API.
const (
	KindDelta  Kind = "delta"
	KindChunks Kind = "chunks"
	KindFull   Kind = "full"
)

// Choice is the way that costs least to fetch.
type Choice struct {
	// Kind is the way.
	Kind Kind
	// Bytes is what will be fetched.
	Bytes int64
	// Delta is the one to take; nil for the other kinds.
	Delta *release.Delta
	// Reason says why in words, as "delta from 202611220104, 12.3 MB instead of 149.2 MB".
	Reason string
}

// UnknownChunks is the plan's size as long as the index was not fetched, or when there
// are no chunks.
const UnknownChunks int64 = -1

// Cheapest chooses for one part. The node has the files bases; chunks is what PlanChunks
// said for it in bytes, with the size of the index added, or UnknownChunks. Of two that cost the
// same the simpler is taken: the whole file, then the delta.
func Cheapest(part release.Part, bases []File, chunks int64) Choice {
	has := make(map[File]bool, len(bases))
	for _, b := range bases {
		has[b] = true
	}
	best := Choice{Kind: KindFull, Bytes: part.Full.Size}
	usable := 0
	for i, d := range part.Deltas {
		sum, err := ParseSum(d.BaseSHA256)
		if err != nil || !has[File{d.BaseSize, sum}] {
			continue
		}
		usable++
		if d.Patch.Size < best.Bytes {
			best = Choice{Kind: KindDelta, Bytes: d.Patch.Size, Delta: &part.Deltas[i]}
		}
	}
	if part.Chunks != nil && chunks >= 0 && chunks < best.Bytes {
		best = Choice{Kind: KindChunks, Bytes: chunks}
	}
	best.Reason = reason(part, best, usable, chunks)
	return best
}

func reason(part release.Part, c Choice, usable int, chunks int64) string {
	instead := fmt.Sprintf("%s instead of %s", megabytes(c.Bytes), megabytes(part.Full.Size))
	switch {
	case c.Kind == KindDelta:
		return fmt.Sprintf("delta from %s, %s", c.Delta.From, instead)
	case c.Kind == KindChunks && usable > 0:
		return "chunks, smaller than any delta, " + instead
	case c.Kind == KindChunks:
		return "chunks, no delta from what is installed, " + instead
	case usable > 0:
		return fmt.Sprintf("full file, %s, a delta would not be smaller", megabytes(c.Bytes))
	case part.Chunks != nil && chunks >= 0:
		return fmt.Sprintf("full file, %s, no delta from what is installed, and chunks would not be smaller", megabytes(c.Bytes))
	}
	return fmt.Sprintf("full file, %s, no delta from what is installed", megabytes(c.Bytes))
}

// megabytes gives a size in units of 10^6 bytes with one decimal; sizes below 0.1 MB
// in kB.
func megabytes(n int64) string {
	if n < 100_000 {
		return strconv.FormatFloat(float64(n)/1e3, 'f', 1, 64) + " kB"
	}
	return strconv.FormatFloat(float64(n)/1e6, 'f', 1, 64) + " MB"
}
