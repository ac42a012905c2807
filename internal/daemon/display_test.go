package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/change"
	"github.com/holdfast-os/holdfast/internal/console"
)

// pseudo makes a terminal and gives the side of the person in front of it.
func pseudo(t *testing.T, device string, columns, rows uint16) *os.File {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Skip("no /dev/ptmx: ", err)
	}
	t.Cleanup(func() { person.Close() })
	if err := person.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	var number int
	err = control(person, func(fd int) (err error) {
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
			return err
		}
		number, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(fmt.Sprintf("/dev/pts/%d", number), device); err != nil {
		t.Fatal(err)
	}
	return person
}

// consoleRoot is a machine with these consoles in the kernel's list.
func consoleRoot(t *testing.T, active string) string {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"dev", "sys/class/tty/console"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "sys/class/tty/console/active"), []byte(active+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return root
}

// until reads what a device shows until it has all of the texts.
func until(t *testing.T, device io.Reader, texts ...string) string {
	t.Helper()
	var seen strings.Builder
	buffer := make([]byte, 4096)
	for {
		missing := false
		for _, text := range texts {
			missing = missing || !strings.Contains(seen.String(), text)
		}
		if !missing {
			return seen.String()
		}
		n, err := device.Read(buffer)
		if err != nil {
			t.Fatalf("%v after %q", err, seen.String())
		}
		seen.Write(buffer[:n])
	}
}

func echoes(t *testing.T, device *os.File) bool {
	t.Helper()
	var flags uint32
	err := control(device, func(fd int) error {
		settings, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err == nil {
			flags = settings.Lflag
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return flags&unix.ECHO != 0
}

// A screen gets a picture of its own size, in colour, and what is typed in front of it
// does not show; a serial line gets lines. When the daemon ends, both are left as they
// were.
func TestScreens_VirtualTerminalAndSerialLine_ShowTheNode(t *testing.T) {
	t.Setenv("TERM", "")
	root := consoleRoot(t, "tty0 ttyS0")
	vga := pseudo(t, filepath.Join(root, "dev/tty1"), 100, 30)
	line := pseudo(t, filepath.Join(root, "dev/ttyS0"), 0, 0)
	wanted := pseudo(t, filepath.Join(root, "dev/ttyS1"), 0, 0)
	ctx, cancel := context.WithCancel(context.Background())
	s := newScreens(ctx, root, slog.New(slog.DiscardHandler))
	speeds := map[string]int{}
	s.setSpeed = func(device string, rate int) error { speeds[device] = rate; return nil }
	s.Identity(Shown{Environment: osapi.Environment{Hostname: "node1", OSName: "Holdfast", OSVersion: "202611220104"}, Addresses: []string{"10.0.2.15"}})
	before := echoes(t, vga)
	more := []osapi.KernelConsole{{Device: "/dev/ttyS1", BaudRate: 9600}, {Device: "ttyS0"}}
	if err := s.Start(ctx, more); err != nil {
		t.Fatal(err)
	}
	until(t, wanted, "addresses: 10.0.2.15\r")
	if diff := cmp.Diff(map[string]int{"ttyS1": 9600, "ttyS0": 0}, speeds); diff != "" {
		t.Error(diff)
	}
	picture := until(t, vga, "node1", "\x1b[30;1H", "10.0.2.15")
	lines := until(t, line, "addresses: 10.0.2.15\r")
	during := echoes(t, vga)
	cancel()
	until(t, vga, "\x1b[?25h")
	s.shows.Wait()
	if diff := cmp.Diff([]bool{true, false, true}, []bool{before, during, echoes(t, vga)}); diff != "" {
		t.Error("echo before, during and after: ", diff)
	}
	if !strings.Contains(picture, "\x1b[1;37;44m") || strings.Contains(picture, "\x1b[31;1H") {
		t.Errorf("%q", picture)
	}
	if strings.Contains(lines, "\x1b") || !strings.HasPrefix(lines, "holdfast [") {
		t.Errorf("%q", lines)
	}
}

// A serial line whose other end takes nothing must not keep the daemon from ending.
func TestScreens_LineBlocks_EndsAllTheSame(t *testing.T) {
	root := consoleRoot(t, "ttyS0")
	pseudo(t, filepath.Join(root, "dev/ttyS0"), 0, 0)
	ctx, cancel := context.WithCancel(context.Background())
	s := newScreens(ctx, root, slog.New(slog.DiscardHandler))
	for range 200 {
		s.Message(console.LevelInfo, strings.Repeat("more than the line takes ", 40))
	}
	if err := s.Start(ctx, nil); err != nil {
		t.Fatal(err)
	}
	cancel()
	ended := make(chan struct{})
	go func() {
		s.shows.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Error("the daemon would wait for its serial line")
	}
}

// What the daemon says about itself becomes a state on the screen.
func TestScreens_WhatGoesOn_BecomesAState(t *testing.T) {
	again := time.Date(2026, 11, 22, 1, 2, 3, 0, time.UTC)
	type step func(*console.Screen)
	phase := func(name string, done, total int64) step {
		return func(s *console.Screen) { progress(s, name, done, total) }
	}
	fails := func(name string) step {
		return func(s *console.Screen) { failed(s, name, errors.New("no cable"), again) }
	}
	giveUp := []string{"put right what stands above; the installation begins anew by itself", "to give up, switch the machine off and remove the medium"}
	ask := []string{"ask the node, from where its API can be reached: holdfast node debug boot"}
	for name, c := range map[string]struct {
		steps []step
		want  console.Screen
	}{
		"start":            {[]step{phase("network", 0, 0)}, console.Screen{Phase: "network"}},
		"failed":           {[]step{phase("network", 0, 0), fails("network")}, console.Screen{Phase: "network", Problem: &console.Problem{Text: "no cable", Again: again, Help: ask}}},
		"over it":          {[]step{fails("network"), phase("logging", 0, 0)}, console.Screen{Phase: "logging"}},
		"ready":            {[]step{phase("network", 0, 0), phase("ready", 0, 0)}, console.Screen{State: console.Ready}},
		"first download":   {[]step{phase("downloading incus", 5, 100)}, console.Screen{Phase: "downloading incus", Done: 5, Total: 100}},
		"update":           {[]step{phase("ready", 0, 0), phase("downloading incus", 5, 100)}, console.Screen{State: console.Updating, Phase: "downloading incus", Done: 5, Total: 100}},
		"updated":          {[]step{phase("ready", 0, 0), phase("downloading incus", 5, 100), phase("downloading incus", 100, 100)}, console.Screen{State: console.Ready}},
		"install":          {[]step{phase("console", 0, 0), phase("install", 0, 0), phase("copy esp", 1, 9)}, console.Screen{State: console.Installing, Phase: "copy esp", Done: 1, Total: 9}},
		"install failed":   {[]step{phase("install", 0, 0), fails("install")}, console.Screen{State: console.InstallFailed, Phase: "install", Problem: &console.Problem{Text: "no cable", Again: again, Help: giveUp}}},
		"failed again":     {[]step{phase("install", 0, 0), fails("install"), fails("install")}, console.Screen{State: console.InstallFailed, Phase: "install", Problem: &console.Problem{Text: "no cable", Again: again, Help: giveUp}}},
		"installing again": {[]step{phase("install", 0, 0), fails("install"), phase("copy esp", 1, 9)}, console.Screen{State: console.Installing, Phase: "copy esp", Done: 1, Total: 9}},
	} {
		var got console.Screen
		for _, step := range c.steps {
			step(&got)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// The rest of what is said about the node reaches the screen.
func TestScreens_Doing_ReachesTheScreen(t *testing.T) {
	s := newScreens(context.Background(), t.TempDir(), slog.New(slog.DiscardHandler))
	until := time.Date(2026, 11, 22, 1, 9, 0, 0, time.UTC)
	shown := func() (now console.Screen) {
		s.console.Update(func(screen *console.Screen) { now = *screen })
		return now
	}
	s.Failed("network", errors.New("no cable"), until)
	s.State(console.Rebooting)
	s.Pending(&change.Status{Origin: change.Origin{Who: "admin"}, Sections: []string{"network"}, Deadline: until})
	first := shown()
	s.Pending(nil)
	want := []console.Screen{
		{Product: "Holdfast", State: console.Rebooting, Pending: &console.Pending{Sections: []string{"network"}, Who: "admin", Until: until}},
		{Product: "Holdfast", State: console.Rebooting},
	}
	if diff := cmp.Diff(want, []console.Screen{first, shown()}); diff != "" {
		t.Error(diff)
	}
}

// A screen may have no room for all: what a person would type comes first.
func TestBestFirst_Addresses_AreInTheOrderOfTheirUse(t *testing.T) {
	got := bestFirst([]string{"::1/128", "fe80::1/64", "2001:db8::1/64", "169.254.1.1/16", "10.0.2.15/24", "not an address", "192.0.2.1"})
	want := []string{"10.0.2.15/24", "192.0.2.1", "2001:db8::1/64", "fe80::1/64", "169.254.1.1/16", "::1/128", "not an address"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A serial line must never get a control sequence, whatever it is called.
func TestVirtual_NamesOfConsoles_TellScreensFromLines(t *testing.T) {
	got := map[string]bool{}
	for _, name := range []string{"tty1", "tty63", "tty", "ttyS0", "ttyAMA0", "ttyUSB0", "hvc0", "xvc0", "1"} {
		got[name] = virtual(name)
	}
	want := map[string]bool{"tty1": true, "tty63": true, "tty": false, "ttyS0": false, "ttyAMA0": false, "ttyUSB0": false, "hvc0": false, "xvc0": false, "1": false}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
