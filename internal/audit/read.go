package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	osapi "github.com/holdfast-os/holdfast/api/os"
)

const (
	// DefaultLimit is how many entries Read gives where no number is asked for.
	DefaultLimit = 100
	// MaxLimit is how many it gives at most.
	MaxLimit = 1000
)

// Read gives the entries behind number since, in their order: at most limit, where 0 is
// DefaultLimit and more than MaxLimit is MaxLimit. The number of the last one is the
// since of the next call. Lines that are no entries are counted and left out; hashes are
// not looked at.
func (l *Log) Read(ctx context.Context, since uint64, limit int) (osapi.Audit, error) {
	if limit <= 0 {
		limit = DefaultLimit
	}
	limit = min(limit, MaxLimit)
	all, last, release, err := l.reading(ctx)
	if err != nil {
		return osapi.Audit{}, err
	}
	defer release()
	found := osapi.Audit{Entries: []osapi.AuditEntry{}, Last: last}
	if since >= last {
		return found, nil
	}
	for _, p := range from(all, since+1) {
		err := eachLine(l.files, p, func(now line) bool {
			e, err := decode(now.text)
			switch {
			case err != nil:
				found.Damaged++
			case e.Number > since:
				found.Entries = append(found.Entries, e)
			}
			return len(found.Entries) >= limit || ctx.Err() != nil
		})
		if errors.Is(err, fs.ErrNotExist) {
			continue // it became too old in the meantime
		}
		if err != nil {
			return osapi.Audit{}, err
		}
		if err := ctx.Err(); err != nil {
			return osapi.Audit{}, fmt.Errorf("reading the audit log: %w", err)
		}
		if len(found.Entries) >= limit {
			break
		}
	}
	return found, nil
}

// from gives the parts that may have an entry with this number or a later one.
func from(all []part, number uint64) []part {
	i := slices.IndexFunc(all, func(p part) bool { return p.first > number })
	switch {
	case i < 0:
		i = len(all)
	case i == 0:
		return all
	}
	return all[max(i-1, 0):]
}

// Verify looks whether the entries from number first to number last are all there and
// unchanged; 0 stands for the first that is kept and for the newest. The first break
// ends it. The error is that of the disk or of the context.
func (l *Log) Verify(ctx context.Context, first, last uint64) (osapi.AuditVerification, error) {
	all, newest, release, err := l.reading(ctx)
	if err != nil {
		return osapi.AuditVerification{}, err
	}
	defer release()
	if last == 0 || last > newest {
		last = newest
	}
	all = from(all, max(first, 1))
	v := &verifier{ctx: ctx, files: l.files, first: first, last: last}
	for i, p := range all {
		v.part(p, i == 0)
		if v.err != nil || v.done {
			break
		}
	}
	if v.err != nil {
		return osapi.AuditVerification{}, v.err
	}
	if !v.done && v.number < last {
		name := ""
		if len(all) > 0 {
			name = all[len(all)-1].name
		}
		v.broken(name, v.number+1, "the log ends before it")
	}
	v.result.Good = v.result.BrokenAt == 0
	return v.result, nil
}

// verifier goes along the chain.
type verifier struct {
	ctx         context.Context
	files       Files
	first, last uint64

	result osapi.AuditVerification
	done   bool
	err    error
	number uint64 // of the entry before
	hash   string // its hash; empty when it is not known
}

func (v *verifier) broken(file string, number uint64, reason string) {
	v.result.BrokenAt, v.result.File, v.result.Reason = number, file, reason
	v.done = true
}

func (v *verifier) part(p part, isFirst bool) {
	if isFirst {
		v.number = p.first - min(p.first, 1)
		if v.number == 0 {
			v.hash = noHash
		}
	}
	err := eachLine(v.files, p, func(now line) bool {
		if err := v.ctx.Err(); err != nil {
			v.err = fmt.Errorf("verifying the audit log: %w", err)
			return true
		}
		v.line(p, now)
		return v.done
	})
	if errors.Is(err, fs.ErrNotExist) {
		v.broken(p.name, v.number+1, "its file is gone")
		return
	}
	if err != nil {
		v.err = err
	}
}

// line checks one entry against the one before. Those in front of the first that was
// asked for are only followed.
func (v *verifier) line(p part, now line) {
	expected := v.number + 1
	if v.last < expected {
		v.done = true
		return
	}
	e, err := decode(now.text)
	ahead := expected < v.first
	switch {
	case ahead && err != nil:
		v.number, v.hash = expected, ""
		return
	case err != nil:
		v.broken(p.name, expected, err.Error())
		return
	case ahead:
		v.number, v.hash = e.Number, e.Hash
		return
	case !now.whole:
		v.broken(p.name, expected, "its line has no end")
		return
	case e.Number != expected:
		v.broken(p.name, expected, fmt.Sprintf("entry %d is in its place", e.Number))
		return
	case v.hash != "" && e.Prev != v.hash:
		v.broken(p.name, expected, "it does not follow the entry before: that one was changed, or this one")
		return
	case !intact(now.text, e):
		v.broken(p.name, expected, "its hash is not that of its contents")
		return
	}
	if v.result.First == 0 {
		v.result.First = e.Number
	}
	v.number, v.hash = e.Number, e.Hash
	v.result.Last, v.result.LastHash = e.Number, e.Hash
}
