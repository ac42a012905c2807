package simulate

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-os/holdfast/internal/daemon"
)

const (
	// keptLines is how many lines of the log a node remembers.
	keptLines = 256
	// maxLine is the most that is remembered of one, in bytes.
	maxLine = 2 << 10
	unit    = "holdfastd.service"
)

// line is one line of the log. The fields are those of systemd's journal.
type line struct {
	Time     string `json:"__REALTIME_TIMESTAMP"`
	Message  string `json:"MESSAGE"`
	Priority string `json:"PRIORITY"`
	Unit     string `json:"_SYSTEMD_UNIT"`

	at time.Time
}

// journal is daemon.Diagnosis: the last lines of the daemon's own log.
type journal struct {
	mu    sync.Mutex
	lines []line
	next  int
}

func newJournal() *journal { return &journal{} }

func (j *journal) add(l line) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.lines) < keptLines {
		j.lines = append(j.lines, l)
		return
	}
	j.lines[j.next] = l
	j.next = (j.next + 1) % keptLines
}

// Log is part of daemon.Diagnosis. There is one boot, one unit, and times are RFC 3339, as
// "2026-11-22 01:02:03" in UTC, or back from now as "-1h".
func (j *journal) Log(_ context.Context, q daemon.LogQuery) ([]json.RawMessage, error) {
	boot, err := strconv.Atoi(q.Boot)
	if q.Boot != "" && err != nil {
		return nil, fmt.Errorf("%w: boot %q is not of the form \"-1\"", daemon.ErrInvalid, q.Boot)
	}
	since, err := moment("since", q.Since)
	if err != nil {
		return nil, err
	}
	until, err := moment("until", q.Until)
	if err != nil {
		return nil, err
	}
	entries := []json.RawMessage{}
	if boot != 0 || (q.Unit != "" && strings.TrimSuffix(q.Unit, ".service")+".service" != unit) {
		return entries, nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := range j.lines {
		l := j.lines[(j.next+i)%len(j.lines)]
		if (!since.IsZero() && l.at.Before(since)) || (!until.IsZero() && l.at.After(until)) {
			continue
		}
		text, err := json.Marshal(l)
		if err != nil {
			return nil, err
		}
		entries = append(entries, text)
	}
	if q.Entries > 0 && len(entries) > q.Entries {
		entries = entries[len(entries)-q.Entries:]
	}
	return entries, nil
}

func moment(name, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if back, err := time.ParseDuration(strings.Replace(text, "min", "m", 1)); err == nil {
		return time.Now().Add(back), nil
	}
	for _, form := range []string{time.RFC3339, time.DateTime, time.DateOnly} {
		if at, err := time.Parse(form, text); err == nil {
			return at, nil
		}
	}
	return time.Time{}, fmt.Errorf("%w: %s %q is not of the form \"-1h\"", daemon.ErrInvalid, name, text)
}

// Processes is part of daemon.Diagnosis.
func (*journal) Processes(context.Context) (string, error) {
	return "USER  PID COMMAND\nroot    1 holdfastd (simulated)\n", nil
}

// handler remembers what next takes.
func (j *journal) handler(next slog.Handler) slog.Handler { return remembering{j, next, ""} }

type remembering struct {
	journal *journal
	next    slog.Handler
	attrs   string
}

func (r remembering) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo || r.next.Enabled(ctx, level)
}

func (r remembering) Handle(ctx context.Context, record slog.Record) error {
	if record.Level >= slog.LevelInfo {
		var text strings.Builder
		text.WriteString(record.Message + r.attrs)
		record.Attrs(func(a slog.Attr) bool {
			fmt.Fprintf(&text, " %s=%v", a.Key, a.Value.Resolve())
			return text.Len() < maxLine
		})
		message := text.String()
		message = strings.ToValidUTF8(message[:min(len(message), maxLine)], "?")
		r.journal.add(line{
			Time: strconv.FormatInt(record.Time.UnixMicro(), 10), Message: strings.Clone(message), Priority: priority(record.Level), Unit: unit, at: record.Time,
		})
	}
	if !r.next.Enabled(ctx, record.Level) {
		return nil
	}
	return r.next.Handle(ctx, record)
}

func (r remembering) WithAttrs(attrs []slog.Attr) slog.Handler {
	text := r.attrs
	for _, a := range attrs {
		text += fmt.Sprintf(" %s=%v", a.Key, a.Value.Resolve())
	}
	return remembering{r.journal, r.next.WithAttrs(attrs), text}
}

func (r remembering) WithGroup(name string) slog.Handler {
	return remembering{r.journal, r.next.WithGroup(name), r.attrs}
}

// priority is syslog's number for a level.
func priority(level slog.Level) string {
	switch {
	case level >= slog.LevelError:
		return "3"
	case level >= slog.LevelWarn:
		return "4"
	}
	return "6"
}
