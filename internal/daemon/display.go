package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/term"

	notifier "github.com/coreos/go-systemd/v22/daemon"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/change"
	"github.com/holdfast-os/holdfast/internal/console"
	kerneladapter "github.com/holdfast-os/holdfast/internal/system/kernel"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

// product is what the screen calls the system until os-release has been read.
const product = "Holdfast"

// lastWrite is how long a screen may take to be left when the daemon ends.
const lastWrite = time.Second

// Doing is the part of the screen that says what goes on. Nothing of it waits for a device.
type Doing interface {
	// State shows what the node is doing, and forgets the problem and the progress of before.
	State(state console.State)
	// Failed shows that a phase went wrong, and when it is tried again.
	Failed(phase string, err error, again time.Time)
	// Pending shows the change that waits for its confirmation; nil for none.
	Pending(status *change.Status)
}

var (
	_ Display  = (*screens)(nil)
	_ Doing    = (*screens)(nil)
	_ Keyboard = (*screens)(nil)
)

// screens is Display and Doing of a machine: the devices that the kernel uses as console.
type screens struct {
	// ctx ends with the daemon; the screens are drawn until then.
	ctx     context.Context
	root    string
	log     *slog.Logger
	console *console.Console
	once    sync.Once
	// setSpeed sets the speed of a serial line; 0 leaves it.
	setSpeed func(device string, rate int) error
	// shows are the devices that are drawn on, or listened to.
	shows sync.WaitGroup

	mu sync.Mutex
	// devices are the names of those that are drawn on; askers hear what is typed there.
	devices []string
	askers  []asker
}

func newScreens(ctx context.Context, root string, log *slog.Logger) *screens {
	clock := realClock()
	s := &screens{ctx: ctx, root: root, log: log, setSpeed: kerneladapter.Host{Root: root, Run: run.Host}.SetSpeed, console: console.New(console.Options{
		Log: log, Now: clock.Now, After: clock.After, Start: clock.Now().Add(-clock.SinceBoot()),
	})}
	s.console.Update(func(screen *console.Screen) { screen.Product = product })
	return s
}

// Start opens every console. One that cannot be opened is left out: a node without a
// screen is a node.
func (s *screens) Start(_ context.Context, more []osapi.KernelConsole) error {
	names, err := consoleDevices(s.root)
	if err != nil {
		return err
	}
	for _, wanted := range more {
		name := filepath.Base(wanted.Device)
		if err := s.setSpeed(name, wanted.BaudRate); err != nil {
			s.log.Warn("console keeps its speed", "device", name, "error", err)
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	s.once.Do(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, name := range names {
			file, output, err := openConsole(s.root, name)
			if err != nil {
				s.log.Warn("console left out", "device", name, "error", err)
				continue
			}
			restore := func() error { return nil }
			if !output.Serial {
				if restore, err = quiet(file); err != nil {
					s.log.Warn("what is typed will show on the screen", "device", name, "error", err)
				}
			}
			s.devices = append(s.devices, name)
			for _, a := range s.askers {
				if a.ctx.Err() == nil {
					s.hear(a, name)
				}
			}
			s.shows.Go(func() { s.show(file, output, restore) })
		}
	})
	return nil
}

// show draws on a device until the daemon ends, and leaves it as it was.
func (s *screens) show(file *os.File, output console.Output, restore func() error) {
	// A device that blocks must not be waited for.
	stop := context.AfterFunc(s.ctx, func() {
		if err := file.SetWriteDeadline(time.Now().Add(lastWrite)); err != nil {
			s.log.Warn("console cannot be left in time", "device", output.Name, "error", err)
		}
	})
	defer stop()
	s.console.Run(s.ctx, output)
	if err := errors.Join(restore(), file.Close()); err != nil {
		s.log.Warn("leaving a console", "device", output.Name, "error", err)
	}
}

func (s *screens) Message(level, text string) { s.console.Message(level, text) }

// Progress also moves the state, as far as a phase tells it.
func (s *screens) Progress(phase string, done, total int64) {
	s.console.Update(func(screen *console.Screen) { progress(screen, phase, done, total) })
}

// State is part of Doing.
func (s *screens) State(state console.State) {
	s.console.Update(func(screen *console.Screen) {
		screen.State, screen.Problem = state, nil
		screen.Phase, screen.Done, screen.Total = "", 0, 0
	})
}

// Failed is part of Doing.
func (s *screens) Failed(phase string, err error, again time.Time) {
	s.console.Update(func(screen *console.Screen) { failed(screen, phase, err, again) })
}

// Pending is part of Doing.
func (s *screens) Pending(status *change.Status) {
	s.console.Update(func(screen *console.Screen) {
		screen.Pending = nil
		if status != nil {
			screen.Pending = &console.Pending{Sections: status.Sections, Who: status.Who, Until: status.Deadline}
		}
	})
}

func (s *screens) Identity(shown Shown) {
	s.console.Update(func(screen *console.Screen) { identity(screen, shown) })
}

// progress notes how far a phase is. A phase that goes on has got over its problem; once
// the node is ready, a download is an update, until it is complete.
func progress(screen *console.Screen, phase string, done, total int64) {
	screen.Phase, screen.Done, screen.Total = phase, done, total
	screen.Problem = nil
	download := strings.HasPrefix(phase, "downloading ")
	switch {
	case phase == "ready":
		screen.State, screen.Phase = console.Ready, ""
	case phase == "install" || screen.State == console.InstallFailed:
		screen.State = console.Installing
	case download && screen.State == console.Ready && done < total:
		screen.State = console.Updating
	case download && screen.State == console.Updating && done >= total:
		screen.State, screen.Phase, screen.Done, screen.Total = console.Ready, "", 0, 0
	}
}

// failed notes that a phase went wrong.
func failed(screen *console.Screen, phase string, err error, again time.Time) {
	screen.Problem = &console.Problem{Text: err.Error(), Again: again}
	screen.Phase, screen.Done, screen.Total = phase, 0, 0
	if screen.State == console.Installing || screen.State == console.InstallFailed {
		screen.State = console.InstallFailed
		screen.Problem.Help = []string{
			"put right what stands above; the installation begins anew by itself",
			"to give up, switch the machine off and remove the medium",
		}
		return
	}
	screen.Problem.Help = []string{"ask the node, from where its API can be reached: holdfast node debug boot"}
}

// identity notes what the node is.
func identity(screen *console.Screen, shown Shown) {
	screen.Name, screen.Version = shown.Environment.Hostname, shown.Environment.OSVersion
	if shown.Environment.OSName != "" {
		screen.Product = shown.Environment.OSName
	}
	screen.Addresses, screen.Warnings = bestFirst(shown.Addresses), shown.Warnings
	screen.Applications, screen.Fingerprint = shown.Applications, shown.Fingerprint
}

// bestFirst orders addresses so that the ones that a person would type come first: IPv4,
// then IPv6, and last those that hold on one link alone. A screen may have no room for
// all.
func bestFirst(addresses []string) []string {
	rank := func(text string) int {
		host, _, _ := strings.Cut(text, "/")
		address, err := netip.ParseAddr(host)
		switch {
		case err != nil:
			return 4
		case address.IsLoopback():
			return 3
		case address.IsLinkLocalUnicast():
			return 2
		case address.Is6():
			return 1
		}
		return 0
	}
	sorted := slices.Clone(addresses)
	slices.SortStableFunc(sorted, func(a, b string) int { return rank(a) - rank(b) })
	return sorted
}

// consoleDevices gives the kernel's consoles; the virtual terminal in front, "tty0",
// stands for the first one.
func consoleDevices(root string) ([]string, error) {
	text, err := os.ReadFile(filepath.Join(root, "sys/class/tty/console/active"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading which consoles there are: %w", err)
	}
	names := []string{}
	for _, name := range append(strings.Fields(string(text)), "tty0") {
		if name == "tty0" {
			name = "tty1"
		}
		if !strings.ContainsAny(name, "/.") && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// openConsole opens a device without waiting for a carrier, without making it the
// daemon's own terminal, and so that a write that blocks can be broken off.
func openConsole(root, name string) (*os.File, console.Output, error) {
	f, err := os.OpenFile(filepath.Join(root, "dev", name), os.O_WRONLY|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, console.Output{}, fmt.Errorf("opening a console: %w", err)
	}
	colours, pictures := console.Terminal(os.Getenv("TERM"))
	output := console.Output{Name: name, W: f, Serial: !pictures || !virtual(name)}
	if !output.Serial {
		output.Colours = colours
		output.Size = func() (int, int) { return sizeOf(f) }
	}
	return f, output, nil
}

// virtual tells a virtual terminal, as "tty1", from a serial line, as "ttyS0" and "hvc0".
func virtual(name string) bool {
	number, found := strings.CutPrefix(name, "tty")
	return found && number != "" && strings.Trim(number, "0123456789") == ""
}

// sizeOf asks a terminal for its size; zeros when it does not know.
func sizeOf(f *os.File) (width, height int) {
	err := control(f, func(fd int) (err error) {
		width, height, err = term.GetSize(fd)
		return err
	})
	if err != nil {
		return 0, 0 // the console has its own default
	}
	return width, height
}

// quiet makes a terminal ignore its keyboard: what is typed neither shows nor stops the
// output. It gives what undoes that.
func quiet(f *os.File) (restore func() error, err error) {
	var before *term.State
	err = control(f, func(fd int) (err error) {
		before, err = term.MakeRaw(fd)
		return err
	})
	if err != nil {
		return func() error { return nil }, fmt.Errorf("turning the echo off: %w", err)
	}
	return func() error {
		return control(f, func(fd int) error { return term.Restore(fd, before) })
	}, nil
}

// control does something with the descriptor of a file. File.Fd is not for that: writes
// would wait, and could not be broken off.
func control(f *os.File, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = do(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// serviceManager is the Notify of a machine: systemd's notification socket.
type serviceManager struct{}

func (serviceManager) Ready() error { return notify(notifier.SdNotifyReady) }

func (serviceManager) Status(text string) error { return notify("STATUS=" + text) }

func (serviceManager) Stopping() error { return notify(notifier.SdNotifyStopping) }

func (serviceManager) Alive() error { return notify(notifier.SdNotifyWatchdog) }

func (serviceManager) Watchdog() (time.Duration, error) { return notifier.SdWatchdogEnabled(false) }

// notify speaks to systemd; run by hand there is nobody to speak to, which is fine.
func notify(text string) error {
	_, err := notifier.SdNotify(false, text)
	return err
}
