package fetch

import (
	"context"
	"fmt"
	"io"
)

// Small reads a file of at most limit bytes, of which nothing is promised, as metadata. It
// tries again and elsewhere like the others, for Limits.SmallTotal in all. ErrNotFound
// means that a mirror has said so and no other that answers has it.
func (d *Downloader) Small(ctx context.Context, path string, limit int64) ([]byte, error) {
	return d.Checked(ctx, path, limit, nil)
}

// Checked is Small with a check of the content. What the check refuses counts as
// ErrMismatch of that mirror, and the next is asked: a check that verifies a signature
// makes one stale or captured mirror harmless.
func (d *Downloader) Checked(ctx context.Context, path string, limit int64, check func([]byte) error) ([]byte, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	ctx, cancel := d.clock.within(ctx, d.limits.SmallTotal)
	defer cancel()
	c := d.newCall("fetching "+path, d.limits.SmallTotal)
	c.mayMiss = true
	for {
		m, err := c.next(ctx)
		if err != nil {
			return nil, err
		}
		data, err := d.readSmall(ctx, m, path, limit)
		if err == nil && check != nil {
			if wrong := check(data); wrong != nil {
				err = fmt.Errorf("%w: %w", ErrMismatch, wrong)
			}
		}
		if err == nil {
			d.succeeded(m)
			return data, nil
		}
		if err := c.failed(ctx, m, err); err != nil {
			return nil, err
		}
	}
}

func (d *Downloader) readSmall(ctx context.Context, m *mirror, path string, limit int64) ([]byte, error) {
	b, err := d.open(ctx, m, want{path: path, size: unknown})
	if err != nil {
		return nil, err
	}
	defer b.Close()
	if length := b.response.ContentLength; length > limit {
		return nil, fmt.Errorf("%w: %d bytes are offered, %d are accepted", ErrLimit, length, limit)
	}
	data, err := io.ReadAll(io.LimitReader(b, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrLimit, limit)
	}
	return data, nil
}
