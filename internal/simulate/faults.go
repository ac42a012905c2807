package simulate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	faultFile = "faults.json"
	// maxFaultFile is the size of that file, in bytes.
	maxFaultFile = 64 << 10
)

// Fault is one thing that is to go wrong.
type Fault struct {
	// On is the point at which it happens: one of FaultPoints.
	On string `json:"on"`
	// Error is what the machine says; empty for a fault that is only slow.
	Error string `json:"error,omitempty"`
	// Panic has the code of the node make a mistake there; default false.
	Panic bool `json:"panic,omitempty"`
	// Delay is a Go duration, as "2s", by which the work takes longer; default none.
	Delay string `json:"delay,omitempty"`
	// Steps is how many steps of a plan are carried out before it happens, where there is a
	// plan; default 0: it happens before the first.
	Steps int `json:"steps,omitempty"`
	// Times is how often it happens; default 0: each time.
	Times int `json:"times,omitempty"`
}

// FaultPoints are the points at which something can go wrong.
func FaultPoints() []string {
	return []string{
		"apps.add", "apps.check", "apps.configure", "apps.data-start", "apps.data-stop", "apps.initialize", "apps.remove", "apps.restart",
		"apps.start", "backup.cards", "backup.enroll", "backup.free", "console.start",
		"extensions.refresh", "facts.environment", "facts.resources", "facts.storage", "kernel.apply", "kernel.state",
		"logging.apply", "logging.state", "network.apply", "network.flush-dns", "network.online", "network.state",
		"pools.ensure", "power.poweroff", "power.reboot", "power.suspend", "provider.apply", "requirements.check",
		"reset.partitions", "reset.seed", "reset.tpm", "secureboot.append", "secureboot.bind", "secureboot.look", "secureboot.room",
		"security.apply", "security.prepare", "security.rebind", "security.state", "services.apply", "services.state", "state.open", "updates.check", "updates.plan",
	}
}

// ParseFault reads a fault in one word: POINT=ERROR, with "@DELAY" behind the point for one
// that is slow and "#TIMES" for one that passes, as "network.apply@2s#1=no carrier".
func ParseFault(text string) (Fault, error) {
	point, message, _ := strings.Cut(text, "=")
	point, times, counted := strings.Cut(point, "#")
	point, delay, _ := strings.Cut(point, "@")
	f := Fault{On: point, Error: message, Delay: delay}
	if counted {
		n, err := strconv.Atoi(times)
		if err != nil {
			return f, fmt.Errorf("fault %q: %q is not how often it happens", text, times)
		}
		f.Times = n
	}
	return f, f.check()
}

func (f Fault) check() error {
	if !slices.Contains(FaultPoints(), f.On) {
		return fmt.Errorf("fault %q: there is no such point; there are %s", f.On, strings.Join(FaultPoints(), ", "))
	}
	if f.Steps < 0 || f.Times < 0 {
		return fmt.Errorf("fault %q: steps and times are not negative", f.On)
	}
	if delay, err := f.delay(); err != nil || delay < 0 || (delay == 0 && f.Error == "" && !f.Panic) {
		return fmt.Errorf("fault %q: it needs an error, or a delay as \"2s\"", f.On)
	}
	return nil
}

func (f Fault) delay() (time.Duration, error) {
	if f.Delay == "" {
		return 0, nil
	}
	return time.ParseDuration(f.Delay)
}

// faults are what goes wrong: those given, and those of the file.
type faults struct {
	path  string
	given []Fault
	log   *slog.Logger

	mu sync.Mutex
	// text, fromFile and complaint are the file as it was last read.
	text      []byte
	fromFile  []Fault
	complaint string
	happened  map[Fault]int
}

func newFaults(dir string, given []Fault, log *slog.Logger) (*faults, error) {
	for _, f := range given {
		if err := f.check(); err != nil {
			return nil, err
		}
	}
	f := &faults{path: filepath.Join(dir, faultFile), given: given, log: log, happened: map[Fault]int{}}
	if f.read(); f.complaint != "" {
		return nil, errors.New(f.complaint)
	}
	return f, nil
}

// hit lets happen what is to happen at a point.
func (f *faults) hit(ctx context.Context, point string) error {
	for _, fault := range f.due(point, 0, true) {
		if err := fault.happen(ctx); err != nil {
			return err
		}
	}
	return nil
}

// step lets happen what is to happen after some steps of a plan.
func (f *faults) step(ctx context.Context, point string, done int) error {
	for _, fault := range f.due(point, done, false) {
		if err := fault.happen(ctx); err != nil {
			return err
		}
	}
	return nil
}

// due are the faults of a point, and counts them.
func (f *faults) due(point string, done int, any bool) []Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.read()
	var due []Fault
	for _, fault := range slices.Concat(f.given, f.fromFile) {
		if fault.On != point || (!any && fault.Steps != done) || (fault.Times > 0 && f.happened[fault] >= fault.Times) {
			continue
		}
		f.happened[fault]++
		due = append(due, fault)
	}
	return due
}

// read takes the file as it is now. One with a mistake is told once and counts as empty.
func (f *faults) read() {
	text, err := readAtMost(f.path, maxFaultFile)
	if errors.Is(err, fs.ErrNotExist) {
		f.text, f.fromFile, f.complaint = nil, nil, ""
		return
	}
	if err == nil && f.text != nil && bytes.Equal(text, f.text) {
		return
	}
	f.text, f.fromFile = text, nil
	if err == nil {
		f.fromFile, err = parseFaults(text)
	}
	was := f.complaint
	f.complaint = ""
	if err != nil {
		f.complaint = fmt.Sprintf("reading what is to go wrong from %s: %v", faultFile, err)
	}
	if f.complaint != "" && f.complaint != was {
		f.log.Error(f.complaint)
	}
}

func parseFaults(text []byte) ([]Fault, error) {
	var list []Fault
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&list); err != nil {
		return nil, err
	}
	for _, fault := range list {
		if err := fault.check(); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func readAtMost(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("it has more than %d bytes", limit)
	}
	return text, err
}

func (f Fault) happen(ctx context.Context) error {
	delay, err := f.delay()
	if err != nil {
		return err
	}
	if delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if f.Panic {
		panic("simulated fault at " + f.On)
	}
	if f.Error == "" {
		return nil
	}
	return fmt.Errorf("simulated fault at %s: %s", f.On, f.Error)
}
