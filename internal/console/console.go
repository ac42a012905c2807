package console

import (
	"context"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"
)

const (
	// drawEvery is the least time between two pictures.
	drawEvery = 500 * time.Millisecond
	// wholeEvery is how often all of a picture is drawn, so that what the kernel has
	// written over it does not stay.
	wholeEvery = time.Minute
)

// Output is one device.
type Output struct {
	// Name is the device, as "tty1".
	Name string
	// Serial is true for a line that gets plain lines and no pictures.
	Serial bool
	// Size asks a screen for its width and height in characters, before each picture: it
	// changes when a graphics driver takes over. Nil, and zeros, stand for 80 and 24.
	Size func() (width, height int)
	// Colours are those of the screen; default Plain.
	Colours Colours
	// W takes what is shown. It may block.
	W io.Writer
}

// Options are what a Console is made of.
type Options struct {
	// Log is told when an output is given up.
	Log *slog.Logger
	// Now is the clock.
	Now func() time.Time
	// After gives a channel that gets a value when the time is over.
	After func(time.Duration) <-chan time.Time
	// Start is when the kernel started, from which serial lines count.
	Start time.Time
}

// Console keeps what is shown. Its methods may be called at the same time and never
// wait for a device.
type Console struct {
	o Options

	mu      sync.Mutex
	screen  Screen
	written int // messages since the start, also those no longer kept
	change  chan struct{}
}

// New makes a console that shows nothing yet.
func New(o Options) *Console { return &Console{o: o, change: make(chan struct{})} }

// Update changes what is shown. The function must not keep the Screen, nor change what
// its Messages, Pending and Problem hold; it may replace the latter two.
func (c *Console) Update(change func(*Screen)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.screen)
	close(c.change) // wakes the outputs up
	c.change = make(chan struct{})
}

// Message adds a line of news. Level is LevelInfo, LevelWarning or LevelError.
func (c *Console) Message(level, text string) {
	m := Message{At: c.o.Now(), Level: level, Text: shorten(text, maxText)}
	c.Update(func(s *Screen) {
		messages := append(slices.Clone(s.Messages), m)
		s.Messages = messages[max(len(messages)-maxMessages, 0):]
		c.written++
	})
}

// Progress says how far the phase is; total 0 takes the bar away.
func (c *Console) Progress(phase string, done, total int64) {
	c.Update(func(s *Screen) { s.Phase, s.Done, s.Total = phase, done, total })
}

// snapshot gives what is to be shown, how many messages there were, and a channel that
// is closed at the next change.
func (c *Console) snapshot() (Screen, int, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	screen := c.screen
	screen.Now = c.o.Now()
	screen.Addresses = slices.Clone(screen.Addresses)
	screen.Warnings = slices.Clone(screen.Warnings)
	screen.Applications = slices.Clone(screen.Applications)
	return screen, c.written, c.change
}

// Run shows everything on one output until the context ends. An output that cannot be
// written to is given up, which the log says.
func (c *Console) Run(ctx context.Context, out Output) {
	var lines serial
	var picture painter
	write := func(text string) bool {
		if text == "" {
			return true
		}
		_, err := io.WriteString(out.W, text)
		if err != nil && ctx.Err() == nil {
			c.o.Log.Warn("console given up", "device", out.Name, "error", err)
		}
		return err == nil
	}
	for {
		screen, written, change := c.snapshot()
		var text string
		if out.Serial {
			text = lines.lines(screen, written, c.o.Start)
		} else {
			if out.Size != nil {
				screen.Width, screen.Height = out.Size()
			}
			screen.Colours = out.Colours
			text = picture.frame(screen, screen.Now)
		}
		if !write(text) {
			return
		}
		if !c.wait(ctx, change) {
			write(picture.leave())
			return
		}
	}
}

// wait ends when it is time for the next picture; it gives false when the context ends
// first.
func (c *Console) wait(ctx context.Context, change <-chan struct{}) bool {
	select {
	case <-ctx.Done():
		return false
	case <-c.o.After(drawEvery):
	}
	select {
	case <-ctx.Done():
		return false
	case <-change:
	case <-c.o.After(wholeEvery):
	}
	return true
}
