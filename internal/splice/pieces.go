package splice

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"github.com/holdfast-os/holdfast/internal/media"
)

// piece is a run of the unpacked image in both forms. Its packed form refers to nothing
// outside of it, so that another one can take its place.
type piece struct {
	start, size int64
	// sum is the CRC-32 of the unpacked form.
	sum         uint32
	packed, raw Part
}

func (p piece) end() int64 { return p.start + p.size }

// half is what lies before or behind the region.
type half struct {
	packed, raw []Part
	size        int64
	sum         uint32
}

func (h *half) add(p piece) {
	h.packed, h.raw = append(h.packed, p.packed), append(h.raw, p.raw)
	h.size, h.sum = h.size+p.size, joinSums(h.sum, p.sum, p.size)
}

// join makes an image of size bytes out of pieces that ascend. The error is a place that no
// piece covers, or two do.
func (m *Image) join(pieces []piece, size int64) error {
	m.pieces, m.size, m.head, m.tail = pieces, size, half{}, half{}
	behind, at := m.region.Offset+m.region.Size, int64(0)
	for _, p := range pieces {
		if at == m.region.Offset {
			at = behind
		}
		if p.start != at || p.start < behind && p.end() > m.region.Offset {
			return fmt.Errorf("the image has no piece that begins at byte %d and ends before the next", at)
		}
		if at = p.end(); at <= m.region.Offset {
			m.head.add(p)
		} else {
			m.tail.add(p)
		}
	}
	if at == m.region.Offset {
		at = behind
	}
	if at != size {
		return fmt.Errorf("the pieces of the image end at byte %d, and it has %d", at, size)
	}
	return nil
}

// With is the image as a plan changes it, as media.ISO makes a CD of it. The rest is neither
// unpacked nor packed for that: a rewrite that changes something has to begin and end where
// the image was cut (Source.Cuts), and leaves the region alone; so does the plan's size.
// Errors of the plan come as they are.
func (m *Image) With(plan media.Plan) (*Image, error) {
	fresh, err := m.rewritten(plan)
	if err != nil {
		return nil, err
	}
	changed, size := *m, cmp.Or(plan.Size, m.size)
	if len(fresh) == 0 && size == m.size {
		return m, nil
	}
	content := sha256.New()
	fmt.Fprintf(content, "%s %d ", m.content, size)
	var pieces []piece
	for _, old := range m.pieces {
		replaced := slices.ContainsFunc(fresh, func(p piece) bool { return p.start < old.end() && old.start < p.end() })
		if !replaced && old.end() <= size {
			pieces = append(pieces, old)
		}
	}
	for _, p := range fresh {
		fmt.Fprintf(content, "%d %d ", p.start, p.size)
		content.Write(p.raw.Data)
		pieces = append(pieces, p)
	}
	slices.SortFunc(pieces, func(a, b piece) int { return cmp.Compare(a.start, b.start) })
	if err := changed.join(pieces, size); err != nil {
		return nil, fmt.Errorf("changing a prepared image: %w", err)
	}
	changed.content = hex.EncodeToString(content.Sum(nil))
	return &changed, nil
}

// rewritten are the pieces that a plan changes.
func (m *Image) rewritten(plan media.Plan) (fresh []piece, err error) {
	reader, err := m.Open()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, reader.Close()) }()
	for _, r := range plan.Rewrites {
		old := make([]byte, r.Size)
		if _, err := reader.Seek(r.Offset, io.SeekStart); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(reader, old); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, fmt.Errorf("reading the image at byte %d: %w", r.Offset, err)
		}
		data, err := r.New(slices.Clone(old))
		if err != nil {
			return nil, err
		}
		if int64(len(data)) > r.Size {
			return nil, fmt.Errorf("writing %d bytes at %d: there is room for %d", len(data), r.Offset, r.Size)
		}
		data = append(slices.Clone(data), make([]byte, r.Size-int64(len(data)))...)
		if bytes.Equal(data, old) && r.Offset+r.Size <= m.size {
			continue
		}
		packed, err := deflate(data)
		if err != nil {
			return nil, fmt.Errorf("packing what changes: %w", err)
		}
		fresh = append(fresh, piece{r.Offset, r.Size, crc32.ChecksumIEEE(data), Part{Data: packed}, Part{Data: data}})
	}
	return fresh, nil
}

// Open opens the unpacked image, with zeros instead of a seed.
func (m *Image) Open() (*Reader, error) {
	content, err := m.Raw(nil)
	if err != nil {
		return nil, err
	}
	return content.Open()
}

// Ready tells whether the files of the image are still there, whole.
func (m *Image) Ready() bool {
	return hasSize(m.packed, m.packedSize) && hasSize(m.raw, m.rawSize)
}
