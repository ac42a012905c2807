package daemon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"filippo.io/age"
	"golang.org/x/sys/unix"

	"github.com/holdfast-os/holdfast/internal/seed"
)

// Keyboard is how a person in front of the machine can type something that the node waits
// for. Nobody reads what is typed at any other time.
type Keyboard interface {
	// Listen gives each line that is typed on one of the consoles to a function, which may be
	// called at the same time from several of them, until the daemon ends or stop is called.
	// None of them shows what is typed.
	Listen(line func(text string)) (stop func())
}

// maxTyped is how many keys are tried that a person has typed: the newest.
const maxTyped = 4

// typedKeys are the keys for a sealed seed that a person types. Nobody is asked for one before
// there is a seed that nothing else opens, and no longer than that.
type typedKeys struct {
	keyboard Keyboard
	message  func(level, text string)

	mu   sync.Mutex
	keys []age.Identity
	// stop ends the question; nil when there is none.
	stop func()
	// came is closed when a key has been typed.
	came chan struct{}
}

func newTypedKeys(keyboard Keyboard, message func(level, text string)) *typedKeys {
	return &typedKeys{keyboard: keyboard, message: message, came: make(chan struct{})}
}

// Ask begins to listen. Called again it goes on.
func (t *typedKeys) Ask() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stop == nil {
		t.stop = t.keyboard.Listen(t.take)
	}
}

// Forget ends the question, and drops what was typed.
func (t *typedKeys) Forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stop != nil {
		t.stop()
	}
	t.stop, t.keys = nil, nil
}

// Keys are those that were typed.
func (t *typedKeys) Keys() []age.Identity {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.keys
}

// Came gives a channel that is closed when another key is typed.
func (t *typedKeys) Came() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.came
}

func (t *typedKeys) take(text string) {
	found, err := seed.ParseKeys(text)
	if err != nil { // the text is in no error of ParseKeys
		t.message("error", "the seed: what was typed: "+err.Error())
		return
	}
	t.mu.Lock()
	all := append(found, t.keys...)
	t.keys = all[:min(len(all), maxTyped)]
	close(t.came)
	t.came = make(chan struct{})
	t.mu.Unlock()
	t.message("info", "the seed: trying what was typed")
}

// asker is somebody who wants to hear what is typed, until the context ends.
type asker struct {
	ctx  context.Context
	line func(text string)
}

// Listen is part of Keyboard. Consoles that are opened later are heard as well: which ones there
// are may stand in the seed that the node asks a key for.
func (s *screens) Listen(line func(text string)) (stop func()) {
	ctx, stop := context.WithCancel(s.ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	a := asker{ctx, line}
	s.askers = append(slices.DeleteFunc(s.askers, func(old asker) bool { return old.ctx.Err() != nil }), a)
	for _, name := range s.devices {
		s.hear(a, name)
	}
	return stop
}

// hear reads from one console for an asker.
func (s *screens) hear(a asker, name string) {
	deaf := func(err error) {
		s.log.Warn("what is typed on a console is not read", "device", name, "error", err)
	}
	file, restore, err := openKeyboard(s.root, name)
	if err != nil {
		deaf(err)
		return
	}
	s.shows.Go(func() {
		if err := errors.Join(readLines(a.ctx, file, a.line), restore(), file.Close()); err != nil {
			deaf(err)
		}
	})
}

// openKeyboard opens a terminal to read what is typed there and shows nothing of it. It gives
// what undoes the latter.
func openKeyboard(root, name string) (f *os.File, restore func() error, err error) {
	f, err = os.OpenFile(filepath.Join(root, "dev", name), os.O_RDONLY|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("opening a console: %w", err)
	}
	if restore, err = hidden(f); err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, restore, nil
}

// readLines gives each line of a terminal that is not empty to a function, until the context
// ends.
func readLines(ctx context.Context, f *os.File, line func(text string)) error {
	cannot := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() { cannot <- f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, seed.MaxKey+1)
	for lines.Scan() {
		if text := strings.TrimSuffix(lines.Text(), "\r"); text != "" {
			line(text)
		}
	}
	if ctx.Err() != nil {
		return <-cannot
	}
	return fmt.Errorf("reading a console: %w", errors.Join(lines.Err(), errors.New("nothing more can be typed there")))
}

// hidden makes a terminal give whole lines, which the backspace key corrects, and show nothing
// of them. What was typed before is dropped. It gives what undoes that.
func hidden(f *os.File) (restore func() error, err error) {
	var before *unix.Termios
	err = control(f, func(fd int) (err error) {
		if before, err = unix.IoctlGetTermios(fd, unix.TCGETS); err != nil {
			return err
		}
		settings := *before
		settings.Iflag = settings.Iflag&^(unix.IGNCR|unix.INLCR|unix.ISTRIP|unix.IXON) | unix.ICRNL
		settings.Lflag = settings.Lflag&^(unix.ECHO|unix.ECHOE|unix.ECHOK|unix.ECHONL|unix.ISIG|unix.IEXTEN) | unix.ICANON
		settings.Cc[unix.VEOF], settings.Cc[unix.VEOL], settings.Cc[unix.VEOL2] = 0, 0, 0
		// Not TCSETSF, which first waits until a line that may be blocked has taken all output.
		if err := unix.IoctlSetTermios(fd, unix.TCSETS, &settings); err != nil {
			return err
		}
		return unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIFLUSH)
	})
	if err != nil {
		return nil, fmt.Errorf("turning the echo off: %w", err)
	}
	return func() error {
		return control(f, func(fd int) error { return unix.IoctlSetTermios(fd, unix.TCSETS, before) })
	}, nil
}
