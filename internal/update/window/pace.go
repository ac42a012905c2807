package window

import (
	"fmt"
	"time"
)

const (
	// DefaultFrequency is how often a node looks for updates when nothing else is said.
	DefaultFrequency = 6 * time.Hour
	// least keeps a frequency of 0 from being a busy loop.
	least = time.Minute
	// maxSpread bounds by how much later than planned a node looks.
	maxSpread = 30 * time.Minute
	// afterOpening is how long after a window opens the node looks at the earliest.
	afterOpening = time.Minute
	// maxAfterOpening bounds the spread after that.
	maxAfterOpening = 10 * time.Minute
)

// Frequency reads check_frequency: "never", or a Go duration that is not negative; the
// empty text is the default, 6 h. Less than a minute counts as a minute.
func Frequency(text string) (every time.Duration, never bool, err error) {
	switch text {
	case "never":
		return 0, true, nil
	case "":
		return DefaultFrequency, false, nil
	}
	every, err = time.ParseDuration(text)
	if err != nil || every < 0 {
		return 0, false, fmt.Errorf("reading check_frequency %q: it is neither \"never\" nor a duration, as \"6h\"", text)
	}
	return max(every, least), false, nil
}

// Pace is when to look next. Lengths of time are measured on a clock that only runs
// forward, so that setting the wall clock neither hurries nor delays a look.
type Pace struct {
	// Every is the time from one look to the next.
	Every time.Duration
	// Spread is a random part from 0 up to but not including 1, drawn anew for each look,
	// so that many nodes that were started together do not ask together.
	Spread float64
	// Shortest is the length of the shortest window, 0 without windows.
	Shortest time.Duration
}

// Due tells whether to look now. since is the time since the last look, or since the
// start when there was none; wasOpen is whether a window was open then; open is whether
// one is now, and openFor how long it has been.
func (p Pace) Due(since time.Duration, wasOpen, open bool, openFor time.Duration) bool {
	if since >= p.Every+part(min(p.Every/10, maxSpread), p.Spread) {
		return true
	}
	return open && !wasOpen && openFor >= p.opening()
}

// opening is how long after a window has opened the node looks: short against the window.
func (p Pace) opening() time.Duration {
	if p.Shortest < 4*afterOpening {
		return 0
	}
	return afterOpening + part(min(p.Shortest/4-afterOpening, maxAfterOpening), p.Spread)
}

func part(whole time.Duration, share float64) time.Duration {
	return time.Duration(float64(whole) * min(max(share, 0), 1))
}
