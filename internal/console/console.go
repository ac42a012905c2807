package console

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// Levels of a message.
const (
	LevelInfo    = "info"
	LevelWarning = "warning"
	LevelError   = "error"
)

const (
	// maxMessages is how many messages are kept, which is more than a screen shows.
	maxMessages = 200
	// maxText is the longest message, in bytes.
	maxText = 1024
	// drawEvery is the least time between two pictures.
	drawEvery = 500 * time.Millisecond
	// progressEvery is how far, in percent, progress goes on between two serial lines.
	progressEvery = 10
)

// Output is one device.
type Output struct {
	// Name is the device, as "tty1".
	Name string
	// Serial is true for a line that gets plain lines and no pictures.
	Serial bool
	// Width and Height are those of a screen; default 80 and 24.
	Width  int
	Height int
	// W takes what is shown.
	W io.Writer
}

// Console keeps what is shown. Its methods may be called at the same time and never
// wait for a device.
type Console struct {
	log *slog.Logger
	now func() time.Time
	// after gives a channel that gets a value when the time is over.
	after func(time.Duration) <-chan time.Time

	mu      sync.Mutex
	screen  Screen
	written int // messages since the start, also those no longer kept
	change  chan struct{}
}

// New makes a console that shows nothing yet. now and after are the clock: time.Now and
// time.After.
func New(log *slog.Logger, now func() time.Time, after func(time.Duration) <-chan time.Time) *Console {
	return &Console{log: log, now: now, after: after, change: make(chan struct{})}
}

// Update changes what is shown. The function must not keep the Screen, nor touch its
// Messages.
func (c *Console) Update(change func(*Screen)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.screen)
	c.changed()
}

// Message adds a line of news. Level is LevelInfo, LevelWarning or LevelError.
func (c *Console) Message(level, text string) {
	if len(text) > maxText {
		text = text[:maxText]
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	messages := append(slices.Clone(c.screen.Messages), Message{
		Time: c.now().Format(time.TimeOnly), Level: level, Text: strings.ToValidUTF8(text, "?")})
	c.screen.Messages = messages[max(len(messages)-maxMessages, 0):]
	c.written++
	c.changed()
}

// Progress says how far the phase is; total 0 takes the bar away.
func (c *Console) Progress(phase string, done, total int64) {
	c.Update(func(s *Screen) { s.Phase, s.Done, s.Total = phase, done, total })
}

// changed wakes the outputs up. The lock is held.
func (c *Console) changed() {
	close(c.change)
	c.change = make(chan struct{})
}

// snapshot gives what is to be shown, how many messages there were, and a channel that
// is closed at the next change.
func (c *Console) snapshot() (Screen, int, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	screen := c.screen
	screen.Addresses = slices.Clone(screen.Addresses)
	screen.Warnings = slices.Clone(screen.Warnings)
	screen.Applications = slices.Clone(screen.Applications)
	return screen, c.written, c.change
}

// Run shows everything on one output until the context ends. An output that cannot be
// written to is given up, which the log says.
func (c *Console) Run(ctx context.Context, out Output) {
	var shown serialState
	for {
		screen, written, change := c.snapshot()
		var text string
		if out.Serial {
			text = shown.lines(screen, written)
		} else {
			screen.Width, screen.Height, screen.Colour = out.Width, out.Height, true
			text = "\x1b[?25l\x1b[H" + strings.ReplaceAll(Render(screen), "\n", "\r\n") + "\x1b[J"
		}
		if _, err := io.WriteString(out.W, text); err != nil {
			c.log.Warn("console given up", "device", out.Name, "error", err)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-c.after(drawEvery):
		}
		select {
		case <-ctx.Done():
			return
		case <-change:
		}
	}
}

// serialState is what a serial line has said already.
type serialState struct {
	head, status, reach string
	warnings            []string
	written             int
}

// lines gives what is new since the last call, as whole lines.
func (s *serialState) lines(now Screen, written int) string {
	var out strings.Builder
	say := func(format string, args ...any) {
		out.WriteString(clean(fmt.Sprintf(format, args...)) + "\r\n")
	}
	if head := title(now); head != s.head && strings.TrimSpace(head) != "" {
		s.head = head
		say("== %s", head)
	}
	for _, warning := range now.Warnings {
		if !slices.Contains(s.warnings, warning) {
			say("warning: %s", warning)
		}
	}
	s.warnings = now.Warnings
	fresh := min(written-s.written, len(now.Messages))
	s.written = written
	for _, m := range now.Messages[len(now.Messages)-fresh:] {
		say("%s  %s%s", m.Time, levelWord(m.Level), m.Text)
	}
	if status := serialStatus(now); status != s.status && status != "" {
		s.status = status
		say("-- %s", status)
	}
	if reach := serialReach(now); reach != s.reach && reach != "" {
		s.reach = reach
		say("== %s", reach)
	}
	return out.String()
}

func serialStatus(s Screen) string {
	if s.Total <= 0 {
		return s.Phase
	}
	percent := min(max(s.Done, 0), s.Total) * 100 / s.Total
	return fmt.Sprintf("%s %d%%", s.Phase, percent/progressEvery*progressEvery)
}

func serialReach(s Screen) string {
	var parts []string
	if len(s.Addresses) > 0 {
		parts = append(parts, "addresses: "+strings.Join(s.Addresses, ", "))
	}
	if len(s.Applications) > 0 {
		parts = append(parts, "applications: "+strings.Join(s.Applications, ", "))
	}
	if s.Fingerprint != "" {
		parts = append(parts, "certificate: "+s.Fingerprint)
	}
	return strings.Join(parts, "; ")
}
