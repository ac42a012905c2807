package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
)

// Defaults of Options.
const (
	// DefaultMaxFile is how large a file may grow, in bytes.
	DefaultMaxFile = 4 << 20
	// DefaultKeep is how many files are kept.
	DefaultKeep = 16
	// DefaultRefusals is how many refused requests are kept in a minute.
	DefaultRefusals = 60
)

// Options are what a Log is made of.
type Options struct {
	// Log gets each entry, and what was found damaged; default slog.Default.
	Log *slog.Logger
	// Now is the present; default time.Now.
	Now func() time.Time
	// MaxFile is how large a file may grow, in bytes; default DefaultMaxFile.
	MaxFile int64
	// Keep is how many files are kept; default DefaultKeep.
	Keep int
	// Refusals is how many refused requests are kept in a minute; default
	// DefaultRefusals.
	Refusals int
}

// Record is a request and its outcome.
type Record struct {
	// Who is the caller as the API knows it, From its address as far as that is known.
	Who, From string
	// Method and Path are those of the request.
	Method, Path string
	// Query are its parameters; the values of those with a name that speaks of a secret
	// are left out here.
	Query url.Values
	// Code is the HTTP status of the answer.
	Code int
	// Err is the error that the caller was told; nil on success.
	Err error
	// Duration is how long the request took.
	Duration time.Duration
	// Change is the number of the change of the configuration; 0 when there was none.
	Change uint64
}

// Log is the audit log. Its methods may be called at the same time.
type Log struct {
	files Files
	o     Options
	// readers limits how many callers read the files at a time.
	readers chan struct{}

	mu      sync.Mutex
	parts   []part
	out     Appender // the last part; nil until the first write
	last    uint64   // number of the last entry
	hash    string   // its hash
	damaged bool     // the last part has bytes behind its size that are no entry
	skipped uint64
	minute  time.Time // when the present minute of refusals began
	refused int       // how many it had
}

// maxReaders is how many callers may read the files at a time; others wait.
const maxReaders = 4

// Open opens a log, and cuts off what a power cut has left of a last line. The error is
// that of the files; damage inside the log is none.
func Open(files Files, o Options) (*Log, error) {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.MaxFile <= 0 {
		o.MaxFile = DefaultMaxFile
	}
	if o.Keep <= 0 {
		o.Keep = DefaultKeep
	}
	if o.Refusals <= 0 {
		o.Refusals = DefaultRefusals
	}
	l := &Log{files: files, o: o, readers: make(chan struct{}, maxReaders), hash: noHash}
	var err error
	if l.parts, err = parts(files); err != nil {
		return nil, err
	}
	if err := l.findEnd(); err != nil {
		return nil, err
	}
	return l, nil
}

// findEnd finds the last entry, and mends the end of the last part.
func (l *Log) findEnd() error {
	for i := len(l.parts) - 1; i >= 0; i-- {
		p := &l.parts[i]
		var last *osapi.AuditEntry
		var end line
		torn := false
		err := eachLine(l.files, *p, func(now line) bool {
			e, err := decode(now.text)
			torn = err != nil || !now.whole
			if torn {
				end = line{text: append([]byte(nil), now.text[:min(len(now.text), 256)]...), start: now.start}
			} else {
				last = &e
			}
			return false
		})
		if err != nil {
			return err
		}
		if torn && i == len(l.parts)-1 {
			l.o.Log.Warn("audit log: an entry that was not written to its end is cut off", "file", p.name, "bytes", p.size-end.start, "text", string(end.text))
			if err := l.files.Truncate(p.name, end.start); err != nil {
				return fmt.Errorf("cutting off the unfinished end of audit file %s: %w", p.name, err)
			}
			p.size = end.start
		}
		if last != nil {
			l.last, l.hash = max(l.last, last.Number), last.Hash
			return nil
		}
		// A part without any entry: its name still says what came before.
		l.last = max(l.last, p.first-min(p.first, 1))
	}
	return nil
}

// Add puts a request into the log, if it belongs there, and gives its entry: the zero
// value when it does not, or when there were too many refusals. The error is that of
// the disk; the log of the node has the entry then all the same.
func (l *Log) Add(r Record) (osapi.AuditEntry, error) {
	if !kept(r.Method, r.Code) {
		return osapi.AuditEntry{}, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.o.Now().UTC()
	if refused(r.Code) && !l.allow(now) {
		l.skipped++
		return osapi.AuditEntry{}, nil
	}
	e := osapi.AuditEntry{
		Number: l.last + 1, Time: now, Who: cut(r.Who, maxName), From: cut(r.From, maxName),
		Method: cut(r.Method, 32), Path: cut(r.Path, maxField), Query: query(r.Query), Code: r.Code,
		DurationMS: r.Duration.Milliseconds(), Change: r.Change, Skipped: l.skipped, Prev: l.hash,
	}
	if r.Err != nil {
		e.Error = cut(r.Err.Error(), maxField)
	}
	text, err := encode(&e)
	if err == nil {
		err = l.write(text, e.Number)
	}
	l.tell(e, err)
	if err != nil {
		return osapi.AuditEntry{}, err
	}
	l.last, l.hash, l.skipped = e.Number, e.Hash, 0
	return e, nil
}

// allow counts a refusal.
func (l *Log) allow(now time.Time) bool {
	// A clock that was set back begins a new minute too.
	if age := now.Sub(l.minute); age < 0 || age >= time.Minute {
		l.minute, l.refused = now, 0
	}
	l.refused++
	return l.refused <= l.o.Refusals
}

// tell hands an entry to the log of the node.
func (l *Log) tell(e osapi.AuditEntry, err error) {
	attrs := []any{
		"number", e.Number, "who", e.Who, "from", e.From, "method", e.Method, "path", e.Path, "query", e.Query,
		"code", e.Code, "failure", e.Error, "duration_ms", e.DurationMS, "change", e.Change, "hash", e.Hash,
	}
	if err != nil {
		l.o.Log.Error("audit entry is not on the disk", append(attrs, "error", err)...)
		return
	}
	l.o.Log.Info("audit", attrs...)
}

// write puts a line behind the last one, in a new part when the last one is full.
func (l *Log) write(text []byte, number uint64) error {
	if err := l.mend(); err != nil {
		return err
	}
	if err := l.openOut(int64(len(text)), number); err != nil {
		return err
	}
	p := l.current()
	_, err := l.out.Write(text)
	if err == nil {
		err = l.out.Sync()
	}
	if err != nil {
		l.damaged = true
		return errors.Join(fmt.Errorf("writing audit entry %d to %s: %w", number, p.name, err), l.mend())
	}
	p.size += int64(len(text))
	l.forget()
	return nil
}

// openOut has the part open into which the next entry goes.
func (l *Log) openOut(size int64, number uint64) error {
	next := newPart(number)
	begin := len(l.parts) == 0 || l.current().size > 0 && l.current().size+size > l.o.MaxFile
	if !begin {
		next = *l.current()
	}
	if begin {
		if err := l.closeOut(); err != nil {
			return err
		}
	}
	if l.out != nil {
		return nil
	}
	out, err := l.files.Append(next.name)
	if err != nil {
		return fmt.Errorf("opening audit file %s: %w", next.name, err)
	}
	l.out = out
	if begin {
		l.parts = append(l.parts, next)
	}
	return nil
}

func (l *Log) current() *part { return &l.parts[len(l.parts)-1] }

// mend takes away what a failed write has left.
func (l *Log) mend() error {
	if !l.damaged {
		return nil
	}
	p := l.current()
	if err := l.files.Truncate(p.name, p.size); err != nil {
		return fmt.Errorf("cutting off the unfinished end of audit file %s: %w", p.name, err)
	}
	l.damaged = false
	return nil
}

func (l *Log) closeOut() error {
	if l.out == nil {
		return nil
	}
	out := l.out
	l.out = nil
	if err := out.Close(); err != nil {
		return fmt.Errorf("closing an audit file: %w", err)
	}
	return nil
}

// forget removes the oldest parts. An old part too many harms nobody, so what cannot be
// removed is told and tried again with the next entry.
func (l *Log) forget() {
	for len(l.parts) > l.o.Keep {
		if err := l.files.Remove(l.parts[0].name); err != nil {
			l.o.Log.Warn("removing an old audit file", "file", l.parts[0].name, "error", err)
			return
		}
		l.parts = l.parts[1:]
	}
}

// Last gives the number of the newest entry; 0 when there is none.
func (l *Log) Last() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// Close gives the file back. Nothing may be added after.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closeOut()
}

// reading waits for its turn to read files, and gives the parts as they are then.
func (l *Log) reading(ctx context.Context) (all []part, last uint64, release func(), err error) {
	select {
	case l.readers <- struct{}{}:
	case <-ctx.Done():
		return nil, 0, nil, fmt.Errorf("reading the audit log: %w", ctx.Err())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]part(nil), l.parts...), l.last, func() { <-l.readers }, nil
}
