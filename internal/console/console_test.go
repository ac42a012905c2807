package console_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/console"
)

// stage is a console with a clock that is turned by hand, and one device.
type stage struct {
	t       *testing.T
	console *console.Console
	wrote   chan string
	// draw lets the next picture be drawn, whole is the minute.
	draw, whole chan time.Time
	now         chan time.Time
	// idle is sent to when everything is written.
	idle   chan struct{}
	cancel context.CancelFunc
	ended  chan struct{}
}

func (s *stage) Write(p []byte) (int, error) {
	s.wrote <- string(p)
	return len(p), nil
}

// newStage starts a console 3 seconds after the kernel.
func newStage(t *testing.T) *stage {
	s := &stage{t: t, wrote: make(chan string), draw: make(chan time.Time), whole: make(chan time.Time), idle: make(chan struct{}), now: make(chan time.Time, 1), ended: make(chan struct{})}
	s.now <- at("01:02:03")
	s.console = console.New(console.Options{
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Start: at("01:02:00"),
		Now: func() time.Time {
			now := <-s.now
			s.now <- now
			return now
		},
		After: func(d time.Duration) <-chan time.Time {
			switch d {
			case 500 * time.Millisecond:
				s.idle <- struct{}{}
				return s.draw
			case time.Minute:
				return s.whole
			}
			t.Errorf("waits for %s", d)
			return nil
		},
	})
	return s
}

// run begins to show, and gives what is written at first.
func (s *stage) run(out console.Output) string {
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	out.W = s
	go func() {
		defer close(s.ended)
		s.console.Run(ctx, out)
	}()
	return s.written()
}

func (s *stage) written() string {
	text := <-s.wrote
	<-s.idle
	return text
}

// leave ends it, and gives what is written at last on a screen.
func (s *stage) leave(screen bool) (last string) {
	s.cancel()
	if screen {
		last = <-s.wrote
	}
	<-s.ended
	return last
}

// later turns the clock.
func (s *stage) later(d time.Duration) { s.now <- (<-s.now).Add(d) }

// silent lets a picture be drawn that has nothing to say.
func (s *stage) silent(change func()) {
	change()
	s.draw <- time.Time{}
	<-s.idle
}

func (s *stage) step(change func()) string {
	change()
	s.draw <- time.Time{}
	return s.written()
}

// A log of the serial line is what remains of a machine that went wrong: every message
// once, as plain lines, with the time that the kernel's own messages have.
func TestRun_Serial_PrintsEachNewsOnce(t *testing.T) {
	s := newStage(t)
	c := s.console
	c.Update(func(s *console.Screen) { s.Product, s.Version, s.Phase = "Holdfast", "202611220104", "network" })
	got := []string{s.run(console.Output{Name: "ttyS0", Serial: true, Colours: console.Sixteen})}
	got = append(got, s.step(func() {
		s.later(1500 * time.Millisecond)
		c.Message(console.LevelInfo, "first")
		c.Message(console.LevelError, "second\x1b[2J")
	}))
	got = append(got, s.step(func() {
		c.Update(func(s *console.Screen) { s.State = console.Installing })
		c.Progress("copying esp", 1, 100)
	}))
	s.silent(func() { c.Progress("copying esp", 9, 100) })
	got = append(got, s.step(func() { c.Progress("copying esp", 55, 100) }))
	got = append(got, s.step(func() {
		c.Update(func(s *console.Screen) {
			s.Addresses, s.Warnings = []string{"10.0.2.15"}, []string{"using swtpm"}
			s.Pending = &console.Pending{Sections: []string{"network"}, Who: "admin", Until: at("01:09:00")}
		})
	}))
	got = append(got, s.step(func() {
		c.Update(func(s *console.Screen) {
			s.State, s.Phase, s.Total, s.Warnings, s.Pending = console.Ready, "", 0, nil, nil
			s.Problem = &console.Problem{Text: "again", Again: at("01:09:00"), Help: []string{"do this"}}
		})
	}))
	want := []string{
		"holdfast [   3.000] Holdfast 202611220104\r\nholdfast [   3.000] starting: network\r\n",
		"holdfast [   4.500] first\r\nholdfast [   4.500] error: second[2J\r\n",
		"holdfast [   4.500] installing: copying esp 0%\r\n",
		"holdfast [   4.500] installing: copying esp 50%\r\n",
		"holdfast [   4.500] warning: using swtpm\r\n" +
			"holdfast [   4.500] change of network waits for confirmation until 2026-11-22 01:09:00 UTC: holdfast node config confirm (by admin)\r\n" +
			"holdfast [   4.500] addresses: 10.0.2.15\r\n",
		"holdfast [   4.500] no longer: using swtpm\r\nholdfast [   4.500] ready\r\nholdfast [   4.500] do this\r\n",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	s.leave(false)
}

// A line that was blocked says that its log has a hole.
func TestRun_SerialWasBlocked_SaysHowManyMessagesAreMissing(t *testing.T) {
	s := newStage(t)
	s.run(console.Output{Name: "ttyS0", Serial: true})
	lines := strings.SplitAfter(s.step(func() {
		for n := range 250 {
			s.console.Message(console.LevelInfo, fmt.Sprint("message ", n))
		}
	}), "\r\n")
	want := []string{"holdfast [   3.000] 50 messages left out: the line was blocked\r\n", "holdfast [   3.000] message 50\r\n"}
	if diff := cmp.Diff(want, lines[:2]); diff != "" || len(lines) != 202 {
		t.Errorf("%d lines %s", len(lines), diff)
	}
	s.leave(false)
}

// Only what has changed is written, as a redraw of everything flickers; but once a minute
// everything is, as the kernel may have written over it. Blanking is left alone: the
// terminal of this test knows no sequence for it.
func TestRun_Screen_WritesWhatHasChanged(t *testing.T) {
	s := newStage(t)
	c, v := s.console, newVT(80, 24)
	c.Update(func(screen *console.Screen) { *screen = node() })
	first := s.run(console.Output{Name: "tty1", Colours: console.Sixteen})
	expected := func(now string) string {
		screen := node()
		screen.Now = at(now)
		screen.Messages = append(screen.Messages, message("01:02:03", console.LevelError, "日本語"))
		return console.Render(screen) + "\n"
	}
	var written []int
	feed := func(text string) {
		v.written = 0
		v.feed(text)
		written = append(written, v.written)
	}
	feed(first)
	feed(s.step(func() { c.Message(console.LevelError, "日本語") }))
	if diff := cmp.Diff(expected("01:02:03"), v.text()); diff != "" {
		t.Error(diff)
	}
	s.silent(func() { c.Update(func(*console.Screen) {}) })
	v.feed("\x1b[9;1Hblock device 8:0 is gone\n")
	s.draw <- time.Time{}
	s.later(time.Minute)
	s.whole <- time.Time{}
	feed(s.written())
	if diff := cmp.Diff(expected("01:03:03"), v.text()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]int{24, 1, 24}, written); diff != "" {
		t.Error(diff)
	}
	s.draw <- time.Time{}
	left := s.leave(true)
	if want := "\x1b[24;1H\x1b[0m\x1b[?7h\x1b[?25h\r\n"; left != want || len(v.foreign) > 0 {
		t.Errorf("left with %q, want %q; foreign %q", left, want, v.foreign)
	}
}

// A graphics driver that takes over gives the screen another size.
func TestRun_ScreenGrows_IsDrawnInItsNewSize(t *testing.T) {
	s := newStage(t)
	sizes := [][2]int{{0, 0}, {100, 30}}
	s.console.Update(func(screen *console.Screen) { *screen = node() })
	first := s.run(console.Output{Name: "tty1", Size: func() (int, int) {
		size := sizes[0]
		sizes = sizes[1:]
		return size[0], size[1]
	}})
	v := newVT(80, 24)
	v.feed(first)
	large := newVT(100, 30)
	large.feed(s.step(func() { s.console.Update(func(*console.Screen) {}) }))
	want := node()
	want.Now, want.Width, want.Height = at("01:02:03"), 100, 30
	if diff := cmp.Diff([]any{24, 30, console.Render(want) + "\n"}, []any{v.written, large.written, large.text()}); diff != "" {
		t.Error(diff)
	}
	s.leave(true)
}

// A screen that does not take what it gets must not keep the node, nor the other screen.
func TestRun_DeviceBlocks_HoldsUpNobody(t *testing.T) {
	s := newStage(t)
	stuck := make(chan struct{})
	blocked, entered := make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(stuck)
		s.console.Run(ctx, console.Output{Name: "ttyS1", Serial: true, W: writer(func(p []byte) (int, error) {
			close(entered)
			<-blocked
			return 0, errors.New("gone")
		})})
	}()
	<-entered
	for range 1000 {
		s.console.Message(console.LevelInfo, "news")
	}
	v := newVT(80, 24)
	v.feed(s.run(console.Output{Name: "tty1"}))
	if !strings.Contains(v.text(), "01:02:03  news") {
		t.Error(v.text())
	}
	cancel()
	close(blocked)
	<-stuck
	s.leave(true)
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// A screen that was unplugged is given up: Run ends.
func TestRun_DeviceIsGone_GivesItUp(t *testing.T) {
	s := newStage(t)
	tries := 0
	s.console.Run(context.Background(), console.Output{Name: "tty1", W: writer(func([]byte) (int, error) {
		tries++
		return 0, errors.New("gone")
	})})
	if tries != 1 {
		t.Errorf("%d tries", tries)
	}
}

// A name in TERM says whether pictures and colours make sense.
func TestTerminal_Names_SayWhatItCanDo(t *testing.T) {
	type can struct {
		Colours  console.Colours
		Pictures bool
	}
	got := map[string]can{}
	for _, name := range []string{"", "linux", "xterm-256color", "vt100", "vt220", "linux-m", "dumb", "unknown"} {
		colours, pictures := console.Terminal(name)
		got[name] = can{colours, pictures}
	}
	want := map[string]can{
		"": {console.Sixteen, true}, "linux": {console.Sixteen, true}, "xterm-256color": {console.Sixteen, true},
		"vt100": {console.Monochrome, true}, "vt220": {console.Monochrome, true}, "linux-m": {console.Monochrome, true},
		"dumb": {console.Plain, false}, "unknown": {console.Plain, false},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Whatever a serial line carries, it is lines of printable characters.
func FuzzSerial(f *testing.F) {
	f.Add("\x1b[2J\x07red\nalert\u202e", "ready", 3, int64(1))
	f.Add("\x9b\xff日本語", "installing", 6, int64(50))
	f.Fuzz(func(t *testing.T, text, state string, many int, seconds int64) {
		s := foreign(text, state, 0, 0, many, seconds)
		var got strings.Builder
		c := console.New(console.Options{
			Now: func() time.Time { return at("01:02:03") }, Start: at("01:02:00"), Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
			After: func(time.Duration) <-chan time.Time { return nil },
		})
		c.Update(func(screen *console.Screen) { *screen = s })
		ctx, cancel := context.WithCancel(context.Background())
		c.Run(ctx, console.Output{Serial: true, W: writer(func(p []byte) (int, error) {
			cancel()
			return got.Write(p)
		})})
		for line := range strings.SplitSeq(strings.TrimSuffix(got.String(), "\r\n"), "\r\n") {
			unseen := strings.IndexFunc(line, func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError })
			if !strings.HasPrefix(line, "holdfast [") || unseen >= 0 {
				t.Errorf("%q, at %d", line, unseen)
			}
		}
	})
}

// What is shown can be changed by many at the same time.
func TestConsole_ManyAtOnce_LoseNothing(t *testing.T) {
	s := newStage(t)
	done := make(chan struct{})
	for n := range 10 {
		go func() {
			s.console.Message(console.LevelInfo, fmt.Sprint("from ", n))
			s.console.Progress("phase", int64(n), 10)
			done <- struct{}{}
		}()
	}
	for range 10 {
		<-done
	}
	var got []string
	s.console.Update(func(screen *console.Screen) {
		for _, m := range screen.Messages {
			got = append(got, m.Text)
		}
	})
	slices.Sort(got)
	want := []string{"from 0", "from 1", "from 2", "from 3", "from 4", "from 5", "from 6", "from 7", "from 8", "from 9"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
