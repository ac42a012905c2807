package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/term"

	notifier "github.com/coreos/go-systemd/v22/daemon"

	"github.com/holdfast-os/holdfast/internal/console"
)

// product is what the screen calls the system until os-release has been read.
const product = "Holdfast"

// screens is the Display of a machine: the devices that the kernel uses as console.
type screens struct {
	// ctx ends with the daemon; the screens are drawn until then.
	ctx     context.Context
	root    string
	log     *slog.Logger
	console *console.Console
	once    sync.Once
}

func newScreens(ctx context.Context, root string, log *slog.Logger) *screens {
	s := &screens{ctx: ctx, root: root, log: log, console: console.New(log, time.Now, time.After)}
	s.console.Update(func(screen *console.Screen) { screen.Product = product })
	return s
}

// Start opens every console. One that cannot be opened is left out: a node without a
// screen is a node.
func (s *screens) Start(context.Context) error {
	names, err := consoleDevices(s.root)
	if err != nil {
		return err
	}
	s.once.Do(func() {
		for _, name := range names {
			output, err := openConsole(s.root, name)
			if err != nil {
				s.log.Warn("console left out", "device", name, "error", err)
				continue
			}
			go s.console.Run(s.ctx, output)
		}
	})
	return nil
}

func (s *screens) Message(level, text string) { s.console.Message(level, text) }

func (s *screens) Progress(phase string, done, total int64) { s.console.Progress(phase, done, total) }

func (s *screens) Identity(shown Shown) {
	s.console.Update(func(screen *console.Screen) {
		screen.Name, screen.Version = shown.Environment.Hostname, shown.Environment.OSVersion
		if shown.Environment.OSName != "" {
			screen.Product = shown.Environment.OSName
		}
		screen.Addresses, screen.Warnings = shown.Addresses, shown.Warnings
		screen.Applications, screen.Fingerprint = shown.Applications, shown.Fingerprint
	})
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

// openConsole opens a device without waiting for a carrier and without making it the
// daemon's own terminal.
func openConsole(root, name string) (console.Output, error) {
	f, err := os.OpenFile(filepath.Join(root, "dev", name), os.O_WRONLY|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return console.Output{}, err
	}
	digits := strings.TrimPrefix(name, "tty")
	output := console.Output{Name: name, W: f, Serial: digits == "" || strings.Trim(digits, "0123456789") != ""}
	if !output.Serial {
		if output.Width, output.Height, err = term.GetSize(int(f.Fd())); err != nil {
			output.Width, output.Height = 0, 0 // the console has its own default
		}
	}
	return output, nil
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
