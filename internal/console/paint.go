package console

import (
	"fmt"
	"strings"
	"time"
)

// Colours is what a screen can show beside characters.
type Colours int

const (
	// Plain is characters alone; the default.
	Plain Colours = iota
	// Monochrome has bold and reverse.
	Monochrome
	// Sixteen are the colours of a Linux console.
	Sixteen
)

// Terminal says what a terminal can do, by the name that TERM has for it. Pictures is
// false for one that understands no control sequence and gets plain lines. An empty name
// is that of a virtual terminal, which is "linux".
func Terminal(name string) (colours Colours, pictures bool) {
	switch {
	case name == "dumb" || name == "unknown":
		return Plain, false
	case strings.HasPrefix(name, "vt") || strings.HasSuffix(name, "-m") || strings.HasSuffix(name, "-mono"):
		return Monochrome, true
	}
	return Sixteen, true
}

// style is what a part of a line means; colour says it once more, never alone.
type style int

const (
	normal style = iota
	title        // the first line
	faint        // rules, labels
	strong       // names
	busy         // something goes on
	warning
	failure
	badgeGood
	badgeBusy
	badgeWarning
	badgeFailure
)

// sgr are the parameters of "select graphic rendition". The eight colours, and bold for
// the bright ones, are what a Linux console has.
var sgr = map[Colours]map[style]string{
	Monochrome: {
		title: "7", strong: "1", warning: "1", failure: "1",
		badgeGood: "1;7", badgeBusy: "1;7", badgeWarning: "1;7", badgeFailure: "1;7",
	},
	Sixteen: {
		title: "1;37;44", faint: "36", strong: "1;37", busy: "1;36", warning: "1;33", failure: "1;31",
		badgeGood: "1;37;42", badgeBusy: "1;37;46", badgeWarning: "30;43", badgeFailure: "1;37;41",
	},
}

// span is a piece of a line.
type span struct {
	text  string
	style style
}

// row is a line of the picture.
type row []span

// ends gives the row at exactly a width: cut, or with spaces behind in the style.
func (r row) ends(columns int, fill style) row {
	out, left := row{}, columns
	for _, s := range r {
		text := fit(s.text, left)
		if text == "" {
			continue
		}
		out, left = append(out, span{text, s.style}), left-cells(text)
		if text != s.text {
			break
		}
	}
	if left > 0 {
		out = append(out, span{strings.Repeat(" ", left), fill})
	}
	return out
}

// paint gives the row with the colours of a screen, without blanks at the end.
func (r row) paint(colours Colours) string {
	var out strings.Builder
	for _, s := range r {
		if code := sgr[colours][s.style]; code != "" {
			fmt.Fprintf(&out, "\x1b[%sm%s\x1b[0m", code, s.text)
		} else {
			out.WriteString(s.text)
		}
	}
	return strings.TrimRight(out.String(), " ")
}

// The control sequences of a screen. None of them touches blanking or power saving.
const (
	// screenBegin: no colour, no cursor, and a line that is too long does not go on below.
	screenBegin = "\x1b[0m\x1b[?25l\x1b[?7l"
	// screenEnd leaves the screen to whoever comes next, on a line of its own.
	screenEnd = "\x1b[0m\x1b[?7h\x1b[?25h"
)

// painter knows what a screen shows, and writes the difference.
type painter struct {
	shown         []string
	width, height int
	whole         time.Time // when all of it was written last
}

// frame gives what has to be written so that the screen shows the picture. Everything is
// written when the size has changed, and once in wholeEvery: the kernel may have written
// over it. Each line has its own position, so that one which a terminal counts in its own
// way spoils no other.
func (p *painter) frame(s Screen, now time.Time) string {
	s.Width, s.Height = size(s)
	lines := strings.Split(Render(s), "\n")
	var out strings.Builder
	all := p.shown == nil || s.Width != p.width || s.Height != p.height || now.Sub(p.whole) >= wholeEvery
	if all {
		p.whole = now
		out.WriteString(screenBegin)
	}
	for i, line := range lines {
		if all || line != p.shown[i] {
			// The line is emptied first: at the end of a full one, the last column would go.
			fmt.Fprintf(&out, "\x1b[%d;1H\x1b[K%s", i+1, line)
		}
	}
	p.shown, p.width, p.height = lines, s.Width, s.Height
	return out.String()
}

// leave gives what ends the pictures.
func (p *painter) leave() string {
	if p.shown == nil {
		return ""
	}
	return fmt.Sprintf("\x1b[%d;1H%s\r\n", p.height, screenEnd)
}
