package delta

import "slices"

const (
	// maxGap is how much of the pack that is not needed is fetched all the same rather
	// than asking a second time, in bytes: a request and its answer have a header each, and
	// cost a round trip.
	maxGap = 16 << 10
	// MaxHeld is how much Assemble keeps of chunks that are needed again, in bytes. What
	// has no room is fetched again.
	MaxHeld = 16 << 20
)

// Range is a part of the pack.
type Range struct {
	// Offset is in bytes.
	Offset int64
	// Length is in bytes, at least 1.
	Length int64
}

// Fetch says what is needed of a pack.
type Fetch struct {
	// Ranges are to be fetched one after the other, in this order. They mostly ascend: a
	// chunk that is needed again much later may be fetched again.
	Ranges []Range
	// Bytes is the sum of their lengths.
	Bytes int64
	// Local is how many bytes of the result come from the old file, unpacked.
	Local int64
}

// PlanChunks says what to fetch for a node that has the chunks for which have is true.
func PlanChunks(x Index, have func(Sum) bool) Fetch {
	var f Fetch
	for i, s := range steps(x, have) {
		c := x.Chunks[i]
		switch s.from {
		case fromLocal:
			f.Local += c.Length
		case fromPack:
			f.add(c.Offset, c.Packed)
		}
	}
	for _, r := range f.Ranges {
		f.Bytes += r.Length
	}
	return f
}

// add extends the last range, or begins a new one.
func (f *Fetch) add(offset, length int64) {
	if last := len(f.Ranges) - 1; last >= 0 {
		r := &f.Ranges[last]
		if gap := offset - (r.Offset + r.Length); gap >= 0 && gap <= maxGap {
			r.Length += gap + length
			return
		}
	}
	f.Ranges = append(f.Ranges, Range{Offset: offset, Length: length})
}

// source is where a chunk comes from.
type source int

const (
	fromLocal source = iota
	fromPack
	fromHeld
)

// action is what is done for one chunk.
type action struct {
	from source
	// hold says that the chunk is needed again and kept, or stays kept, after this.
	hold bool
}

// steps decides for every chunk where it comes from. PlanChunks and Assemble both follow
// it, so that what is fetched is what is used.
func steps(x Index, have func(Sum) bool) []action {
	left := map[Sum]int{}
	for _, c := range x.Chunks {
		left[c.SHA256]++
	}
	held := map[Sum]bool{}
	var size int64
	actions := make([]action, 0, len(x.Chunks))
	for _, c := range x.Chunks {
		left[c.SHA256]--
		again := left[c.SHA256] > 0
		switch {
		case have(c.SHA256):
			actions = append(actions, action{from: fromLocal})
		case held[c.SHA256]:
			if !again {
				delete(held, c.SHA256)
				size -= c.Length
			}
			actions = append(actions, action{from: fromHeld, hold: again})
		default:
			hold := again && size+c.Length <= MaxHeld
			if hold {
				held[c.SHA256] = true
				size += c.Length
			}
			actions = append(actions, action{from: fromPack, hold: hold})
		}
	}
	return slices.Clip(actions)
}
