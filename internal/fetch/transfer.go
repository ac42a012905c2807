package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/holdfast-os/holdfast/api/release"
)

// Faults of a transfer that it deals with by itself.
var (
	// errRange: the answer is not the range that was asked for.
	errRange = errors.New("another range than asked for")
	// errChanged: what a server sends now does not go with the bytes that are there.
	errChanged = errors.New("the content does not go with what is there already")
	// errEnds: the server says that the file is over where it cannot be.
	errEnds = errors.New("the file ends early")
	// errCut: the connection ended, or brought less than asked for.
	errCut = errors.New("the connection was cut")
)

// transfer is bytes pos to end of a blob, read from whatever mirror gives them. Its Read
// deals with all that can go wrong, and gives io.EOF when all is there and right.
type transfer struct {
	*call
	ctx  context.Context
	blob release.Blob
	// start is where the interest in the file begins.
	start, pos, end int64
	// done is pos plus doneBase, of total.
	meter           *meter
	doneBase, total int64
	fetched         int64
	// sum is of the bytes before pos; nil when only the length counts.
	sum hash.Hash
	// rewind takes back what was handed out behind a position; nil when that is not
	// possible.
	rewind func(to int64) error
	// ranges: only a server with ranges will do.
	ranges bool

	m       *mirror
	body    *body
	pending error
	err     error
	// began and beganSum are where the answer under way began.
	began    int64
	beganSum hash.Hash
	// skip is how many bytes are still compared with those that are there.
	skip    int64
	skipSum hash.Hash
	// sources are the mirrors of the bytes before pos; pieces is set when ranges or an
	// earlier run had a part in them.
	sources  map[*mirror]bool
	pieces   bool
	restarts int
}

func checkBlob(blob release.Blob, limits Limits) error {
	sum, err := hex.DecodeString(blob.SHA256)
	switch {
	case blob.Size < 0 || blob.Size > limits.MaxSize:
		return fmt.Errorf("fetching %q: %w: a size of %d bytes, at most %d are accepted", clip(blob.Path), ErrBlob, blob.Size, limits.MaxSize)
	case err != nil || len(sum) != sha256.Size || hex.EncodeToString(sum) != blob.SHA256:
		return fmt.Errorf("fetching %q: %w: its SHA-256 is not 64 small hexadecimal digits", clip(blob.Path), ErrBlob)
	}
	return checkPath(blob.Path)
}

// Read hands out the next bytes. Errors stay.
func (t *transfer) Read(p []byte) (int, error) {
	for len(p) > 0 {
		switch {
		case t.err != nil:
			return 0, t.err
		case t.pending != nil:
			t.err = t.lost(t.pending)
		case t.pos == t.end:
			t.err = t.finish()
		case t.body == nil:
			t.err = t.connect()
		default:
			// A failure waits until the bytes before it are with the reader: it may take
			// them back.
			n, err := t.take(p)
			t.pending = err
			if n > 0 {
				return n, nil
			}
		}
	}
	return 0, nil
}

// connect asks the next mirror for what is missing.
func (t *transfer) connect() error {
	if most := t.d.limits.MaxRepeat*(t.end-t.start) + t.d.limits.Checkpoint; t.fetched > most {
		return t.giveUp(fmt.Errorf("%w: %d bytes were fetched for %d: the servers cut connections and serve no ranges, or the wrong file",
			ErrLimit, t.fetched, t.end-t.start))
	}
	m, err := t.next(t.ctx)
	if err != nil {
		return err
	}
	t.m, t.began, t.beganSum, t.skip = m, t.pos, nil, 0
	if t.sum != nil {
		if t.beganSum, err = clone(t.sum); err != nil {
			return err
		}
	}
	w := want{path: t.blob.Path, from: t.pos, to: t.end, size: t.blob.Size}
	w.ranged = t.ranges || (t.pos > 0 && !t.noRanges[m])
	if !t.ranges {
		w.etag = t.etags[m]
	}
	t.body, err = t.d.open(t.ctx, m, w)
	if err == nil {
		err = t.accept()
	}
	t.pending = err
	return nil
}

// count tells of bytes from the network.
func (t *transfer) count(n int) {
	t.fetched += int64(n)
	t.meter.add(n, t.pos+t.doneBase, t.total)
}

// accept decides what to do with an answer.
func (t *transfer) accept() error {
	a := t.body.answer
	known := t.etags[t.m]
	if a.etag != "" {
		t.etags[t.m] = a.etag
	}
	if a.ranged {
		if known != "" && a.etag != "" && a.etag != known {
			return fmt.Errorf("%w: of another version of the file", errRange)
		}
		t.pieces = true
		return nil
	}
	if t.ranges {
		return fmt.Errorf("%w: it answers with the whole file", ErrNoRanges)
	}
	t.skip, t.skipSum = t.pos, sha256.New()
	return nil
}

// take reads from the answer under way.
func (t *transfer) take(p []byte) (int, error) {
	if t.skip > 0 {
		p = p[:min(int64(len(p)), t.skip)]
		n, err := t.body.Read(p)
		t.count(n)
		t.skipSum.Write(p[:n])
		t.skip -= int64(n)
		if t.skip == 0 && !equal(t.skipSum, t.sum) {
			return 0, errChanged
		}
		return 0, t.short(err)
	}
	p = p[:min(int64(len(p)), min(t.body.to, t.end)-t.pos)]
	n, err := t.body.Read(p)
	if t.sum != nil {
		t.sum.Write(p[:n])
	}
	t.pos += int64(n)
	if n > 0 {
		t.sources[t.m] = true
	}
	t.count(n)
	switch {
	case t.pos == t.end:
		t.close()
		return n, nil
	case t.pos == t.body.to:
		return n, errCut
	}
	return n, t.short(err)
}

// short says what the end of an answer means before all its bytes have come.
func (t *transfer) short(err error) error {
	if err != io.EOF {
		return err
	}
	if t.body.ambiguous {
		return errCut
	}
	return fmt.Errorf("%w: after %d of %d bytes", errEnds, t.pos, t.blob.Size)
}

// lost deals with a failed answer: it takes back what is in doubt, and notes the mirror's
// failure. An error of its own ends the transfer.
func (t *transfer) lost(err error) error {
	t.pending = nil
	t.close()
	if gained := t.pos - t.began; gained >= max(1, min(64<<10, t.blob.Size/128)) {
		t.failures = 0
	}
	switch {
	case errors.Is(err, errRange):
		t.noRanges[t.m] = true
		if t.ranges {
			err = fmt.Errorf("%w: %w", ErrNoRanges, err)
		}
	case errors.Is(err, errEnds):
		err = fmt.Errorf("%w: %w", ErrMismatch, err)
		if t.pos > t.began && t.sum != nil {
			if t.rewind == nil {
				return t.condemn(err)
			}
			if back := t.back(t.began, t.beganSum); back != nil {
				return back
			}
		}
	case errors.Is(err, errChanged) && t.rewind == nil:
		err = fmt.Errorf("%w: %w", ErrMismatch, err)
	case errors.Is(err, errChanged):
		t.noRanges[t.m] = true
		if again := t.restart(fmt.Errorf("%w: %w", ErrMismatch, err)); again != nil {
			return again
		}
	}
	return t.failed(t.ctx, t.m, err)
}

// finish checks the sum of all bytes.
func (t *transfer) finish() error {
	t.close()
	if t.sum == nil || hex.EncodeToString(t.sum.Sum(nil)) == t.blob.SHA256 {
		for m := range t.sources {
			t.d.succeeded(m)
		}
		return io.EOF
	}
	err := fmt.Errorf("%w: its sum is another", ErrMismatch)
	if t.rewind == nil {
		return t.condemn(err)
	}
	if t.pieces || len(t.sources) != 1 {
		return t.restart(err)
	}
	only := t.m
	for m := range t.sources {
		only = m
	}
	if back := t.back(0, sha256.New()); back != nil {
		return back
	}
	return t.failed(t.ctx, only, err)
}

// condemn ends a transfer that cannot take back what it has handed out. All that had a part
// in it are put behind, so that the next call asks others first.
func (t *transfer) condemn(err error) error {
	for m := range t.sources {
		t.d.punish(m, err)
		t.last[m] = fmt.Errorf("%s: %w", m.base, err)
	}
	return t.giveUp(nil)
}

// restart begins anew after bytes were put together that do not belong together. Nobody
// knows whose fault it was, so ranges of these mirrors are used no more in this call.
func (t *transfer) restart(why error) error {
	for m := range t.sources {
		t.noRanges[m] = true
	}
	if err := t.back(0, sha256.New()); err != nil {
		return err
	}
	if t.restarts++; t.restarts > 2*len(t.d.mirrors) {
		return t.giveUp(why)
	}
	return nil
}

// back takes bytes back.
func (t *transfer) back(to int64, sum hash.Hash) error {
	if err := t.rewind(to); err != nil {
		return err
	}
	t.pos, t.sum = to, sum
	if to == 0 {
		t.pieces, t.sources = false, map[*mirror]bool{}
	}
	return nil
}

func (t *transfer) close() {
	if t.body != nil {
		t.body.Close()
		t.body = nil
	}
}

func equal(a, b hash.Hash) bool { return string(a.Sum(nil)) == string(b.Sum(nil)) }

func clone(h hash.Hash) (hash.Hash, error) {
	cloner, ok := h.(hash.Cloner)
	if !ok {
		return nil, errors.New("the hash cannot be copied")
	}
	return cloner.Clone()
}
