package console_test

import (
	"context"
	"errors"
	"flag"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/console"
)

var update = flag.Bool("update", false, "write the goldens anew")

func node() console.Screen {
	return console.Screen{
		Name: "node1", Product: "Holdfast", Version: "202611220104",
		Addresses:    []string{"10.0.2.15", "fec0::5054:ff:fe12:3456"},
		Fingerprint:  "3b8a6a0f5c1d2e3f405162738495a6b7c8d9eafb0c1d2e3f405162738495a6b7",
		Applications: []string{"incus 7.0.2 [202611220104]"},
		Phase:        "ready",
		Messages: []console.Message{
			{Time: "01:02:03", Level: console.LevelInfo, Text: "system is ready"},
			{Time: "01:02:04", Level: console.LevelWarning, Text: "state document update.json is empty"},
			{Time: "01:02:05", Level: console.LevelError, Text: "network: the network is not online; look at the cable, at the DHCP server, and at the addresses configured"},
		},
	}
}

// What stands on the screen of a machine, as its owner sees it.
func TestRender_Screens_AreAsDrawn(t *testing.T) {
	degraded := node()
	degraded.Warnings = []string{"using swtpm, Secure Boot is disabled", "the recovery keys have not been retrieved"}
	colour := degraded
	colour.Colour = true
	wide := node()
	wide.Width, wide.Height = 128, 30
	installing := console.Screen{Product: "Holdfast", Version: "202611220104", Phase: "writing /dev/vda", Done: 1, Total: 3}
	hostile := console.Screen{Product: "Holdfast", Messages: []console.Message{
		{Time: "01:02:03", Level: console.LevelInfo, Text: "\x1b[2J\x07red\nalert\u202e"}}}
	crowded := node()
	for range 100 {
		crowded.Messages = append(crowded.Messages, console.Message{Time: "09:09:09", Level: console.LevelInfo, Text: "again"})
	}
	for name, screen := range map[string]console.Screen{
		"node": node(), "degraded": degraded, "colour": colour, "wide": wide,
		"installing": installing, "hostile": hostile, "crowded": crowded, "empty": {},
	} {
		t.Run(name, func(t *testing.T) {
			got := console.Render(screen)
			golden := filepath.Join("testdata", name+".txt")
			if *update {
				if err := os.WriteFile(golden, []byte(got+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got+"\n"); diff != "" {
				t.Error(diff)
			}
			lines := strings.Split(got, "\n")
			if want := max(screen.Height, 24); len(lines) != want {
				t.Errorf("%d lines, want %d", len(lines), want)
			}
			for i, line := range lines {
				if !screen.Colour && utf8.RuneCountInString(line) != max(screen.Width, 80) {
					t.Errorf("line %d has %d characters", i+1, utf8.RuneCountInString(line))
				}
			}
		})
	}
}

// device notes what it gets and tells the test.
type device struct {
	wrote chan string
}

func (d *device) Write(p []byte) (int, error) {
	d.wrote <- string(p)
	return len(p), nil
}

func fixed() time.Time { return time.Date(2026, 11, 22, 1, 2, 3, 0, time.UTC) }

// A log of the serial line is what remains of a machine that went wrong: every message
// once, as plain lines.
func TestRun_Serial_PrintsEachNewsOnce(t *testing.T) {
	tick := make(chan time.Time)
	c := console.New(slog.New(slog.NewTextHandler(io.Discard, nil)), fixed, func(time.Duration) <-chan time.Time { return tick })
	out := &device{wrote: make(chan string)}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	c.Update(func(s *console.Screen) { s.Product, s.Version, s.Phase = "Holdfast", "202611220104", "network" })
	go func() {
		defer close(ended)
		c.Run(ctx, console.Output{Name: "ttyS0", Serial: true, W: out})
	}()
	got := []string{<-out.wrote}
	step := func(change func()) {
		change()
		tick <- time.Time{}
		got = append(got, <-out.wrote)
	}
	step(func() { c.Message(console.LevelInfo, "first"); c.Message(console.LevelError, "second\x1b[2J") })
	step(func() { c.Progress("installing", 1, 100) })
	step(func() { c.Progress("installing", 9, 100) })
	step(func() { c.Progress("installing", 55, 100) })
	step(func() {
		c.Update(func(s *console.Screen) { s.Addresses = []string{"10.0.2.15"}; s.Warnings = []string{"using swtpm"} })
	})
	want := []string{
		"== Holdfast 202611220104\r\n-- network\r\n",
		"01:02:03  first\r\n01:02:03  error: second[2J\r\n",
		"-- installing 0%\r\n",
		"",
		"-- installing 50%\r\n",
		"warning: using swtpm\r\n== addresses: 10.0.2.15\r\n",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	cancel()
	<-ended
}

type brokenDevice struct{}

func (brokenDevice) Write([]byte) (int, error) { return 0, errors.New("gone") }

// A screen that was unplugged must not keep the node busy.
func TestRun_DeviceIsGone_GivesItUp(t *testing.T) {
	c := console.New(slog.New(slog.NewTextHandler(io.Discard, nil)), fixed, time.After)
	c.Run(context.Background(), console.Output{Name: "tty1", W: brokenDevice{}})
}
