package lab

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

// redrawEvery is how often the live line is drawn anew.
const redrawEvery = 200 * time.Millisecond

// timesFile remembers how long phases take, by accelerator and phase, in seconds.
type timesFile struct {
	Version int                `json:"version"`
	Seconds map[string]float64 `json:"seconds"`
}

// progress tells a person what is being done: one line that changes on a terminal,
// else one line for each finished phase.
type progress struct {
	w     io.Writer
	live  bool
	width int
	now   func() time.Time
	// hint gives a few words about what is going on inside the phase.
	hint func() string
	// prefix keeps the times of different accelerators apart.
	prefix string
	path   string
	times  timesFile

	mu    sync.Mutex
	phase string
	since time.Time
	stop  chan struct{}
	ended chan struct{}
}

// newProgress writes to w (nil: nowhere); times are remembered in the file path.
func newProgress(w io.Writer, path string) *progress {
	p := &progress{w: w, now: time.Now, path: path, hint: func() string { return "" }}
	if w == nil {
		p.w = io.Discard
	}
	if file, ok := w.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		p.live, p.width = true, 80
		if width, _, err := term.GetSize(int(file.Fd())); err == nil && width > 20 {
			p.width = width
		}
	}
	raw, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(raw, &p.times) != nil || p.times.Seconds == nil {
		p.times = timesFile{Seconds: map[string]float64{}} // times are a convenience: begin anew
	}
	p.times.Version = 1
	return p
}

// do runs one phase. Its time is remembered when it ended well and meant real work.
func (p *progress) do(phase string, work func() error) error {
	p.begin(phase)
	err := work()
	p.end(err)
	return err
}

func (p *progress) begin(phase string) {
	p.mu.Lock()
	p.phase, p.since = phase, p.now()
	p.stop, p.ended = make(chan struct{}), make(chan struct{})
	p.mu.Unlock()
	go p.redraw(p.stop, p.ended)
}

func (p *progress) redraw(stop, ended chan struct{}) {
	defer close(ended)
	if !p.live {
		return
	}
	ticker := time.NewTicker(redrawEvery)
	defer ticker.Stop()
	for {
		p.mu.Lock()
		line := liveLine(p.phase, p.now().Sub(p.since), p.usually(p.phase), p.hint(), p.width)
		p.mu.Unlock()
		_, _ = io.WriteString(p.w, "\r\x1b[K"+line) // a terminal that is gone stops nothing
		select {
		case <-stop:
			return
		case <-ticker.C:
		}
	}
}

func (p *progress) end(err error) {
	close(p.stop)
	<-p.ended
	took := p.now().Sub(p.since)
	verdict := ""
	if err != nil {
		verdict = "  not done"
	} else {
		p.remember(p.phase, took)
	}
	erase := ""
	if p.live {
		erase = "\r\x1b[K"
	}
	_, _ = fmt.Fprintf(p.w, "%s%s%s\n", erase, doneLine(p.phase, took), verdict)
}

// note writes one line between phases.
func (p *progress) note(format string, args ...any) {
	_, _ = fmt.Fprintf(p.w, format+"\n", args...)
}

func (p *progress) usually(phase string) time.Duration {
	return time.Duration(p.times.Seconds[p.prefix+phase] * float64(time.Second))
}

// remember mixes a new time with what was known, half and half, so that one slow
// day does not rule the next.
func (p *progress) remember(phase string, took time.Duration) {
	key, seconds := p.prefix+phase, took.Seconds()
	p.mu.Lock()
	defer p.mu.Unlock()
	if old := p.times.Seconds[key]; old > 0 {
		seconds = (old + seconds) / 2
	}
	p.times.Seconds[key] = seconds
}

// save keeps the times for the next time.
func (p *progress) save() error {
	raw, err := json.Marshal(p.times)
	if err != nil {
		return fmt.Errorf("remembering the times of the phases: %w", err)
	}
	return writeFile(p.path, raw)
}

// doneLine is "install                82.4 s".
func doneLine(phase string, took time.Duration) string {
	return fmt.Sprintf("%-22s %7.1f s", phase, took.Seconds())
}

// liveLine is "install   0:41 (usually 1:22)  last words of the machine", cut to width.
func liveLine(phase string, so, usually time.Duration, hint string, width int) string {
	line := phase + "  " + minutes(so)
	if usually > 0 {
		line += " (usually " + minutes(usually) + ")"
	}
	if hint != "" {
		line += "  " + hint
	}
	for utf8.RuneCountInString(line) > width-1 {
		_, size := utf8.DecodeLastRuneInString(line)
		line = line[:len(line)-size]
	}
	return strings.TrimRight(line, " ")
}

func minutes(d time.Duration) string {
	seconds := int(d.Round(time.Second) / time.Second)
	return fmt.Sprintf("%d:%02d", seconds/60, seconds%60)
}
