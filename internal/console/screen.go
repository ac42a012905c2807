// Package console shows on the machine's own screens what the node is and does. It reads
// nothing: a node is managed through its API alone.
//
// There are two kinds of output. A screen (VGA) gets a full picture, redrawn when
// something has changed, at most twice a second. A serial line gets plain lines, each
// once, without any control sequence, so that a log of it stays readable. An output
// that blocks or is gone holds up nobody but itself.
//
// Render and the lines are pure functions of a Screen; Console keeps the Screen and the
// outputs.
package console

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Screen is what there is to show.
type Screen struct {
	// Name is the host name, empty until it is known.
	Name string
	// Product is what runs, as "Holdfast".
	Product string
	// Version is the release that runs.
	Version string
	// Addresses are what the node can be reached at.
	Addresses []string
	// Fingerprint is the SHA-256 of the certificate that a client will see.
	Fingerprint string
	// Applications are what runs on the node, with version.
	Applications []string
	// Warnings are shown until they are gone, as an untrusted state.
	Warnings []string
	// Phase is what the node is doing.
	Phase string
	// Done and Total are its progress in bytes or steps; Total 0 shows none.
	Done  int64
	Total int64
	// Messages are the newest last.
	Messages []Message
	// Width and Height are in characters; default 80 and 24, which is also the least.
	Width  int
	Height int
	// Colour marks warnings and errors with ANSI colours.
	Colour bool
}

// Message is one line of news.
type Message struct {
	// Time is shown in front, as "12:34:56".
	Time string
	// Level is "info", "warning" or "error".
	Level string
	Text  string
}

const (
	colourBold  = "1"
	colourRed   = "31"
	colourAmber = "33"
)

// Render draws the picture: exactly Height lines of exactly Width characters, separated
// by line feeds.
func Render(s Screen) string {
	p := &picture{width: max(s.Width, 80), height: max(s.Height, 24), colour: s.Colour}
	p.rule()
	p.line(title(s), colourBold)
	p.rule()
	for _, warning := range s.Warnings {
		p.wrapped("WARNING: ", warning, colourRed)
	}
	if len(s.Warnings) > 0 {
		p.rule()
	}
	foot := p.footer(s)
	room := p.height - len(p.lines) - len(foot) - 1
	p.messages(s.Messages, room)
	p.lines = append(p.lines, foot...)
	p.rule()
	if len(p.lines) > p.height {
		p.lines = append(p.lines[:p.height-1], p.lines[len(p.lines)-1])
	}
	return strings.Join(p.lines, "\n")
}

func title(s Screen) string {
	text := s.Product
	if s.Version != "" {
		text += " " + s.Version
	}
	if s.Name != "" {
		text = s.Name + "  |  " + text
	}
	return text
}

type picture struct {
	lines         []string
	width, height int
	colour        bool
}

func (p *picture) rule() {
	p.lines = append(p.lines, "+"+strings.Repeat("-", p.width-2)+"+")
}

func (p *picture) line(text, colour string) {
	inner := p.width - 4
	text = fit(clean(text), inner)
	text += strings.Repeat(" ", inner-utf8.RuneCountInString(text))
	if p.colour && colour != "" {
		text = "\x1b[" + colour + "m" + text + "\x1b[0m"
	}
	p.lines = append(p.lines, "| "+text+" |")
}

// wrapped writes a text over as many lines as it needs; the lead stands on the first.
func (p *picture) wrapped(lead, text, colour string) {
	for i, part := range wrap(clean(text), p.width-4-len(lead)) {
		if i > 0 {
			lead = strings.Repeat(" ", len(lead))
		}
		p.line(lead+part, colour)
	}
}

// footer is what stands below the messages: what the node does and how to reach it.
func (p *picture) footer(s Screen) []string {
	f := &picture{width: p.width, height: p.height, colour: p.colour}
	f.rule()
	for _, row := range []struct {
		name   string
		values []string
	}{
		{"Status", []string{status(s, p.width)}},
		{"Addresses", s.Addresses},
		{"Applications", s.Applications},
		{"Certificate", []string{s.Fingerprint}},
	} {
		text := strings.Join(row.values, ", ")
		if text != "" {
			f.wrapped(fmt.Sprintf("%-13s ", row.name+":"), text, "")
		}
	}
	return f.lines
}

// status is the phase with a bar, as "installing [#####-----]  50%".
func status(s Screen, width int) string {
	if s.Total <= 0 {
		return s.Phase
	}
	done := min(max(s.Done, 0), s.Total)
	length := int64(max(min(width-60, 40), 10))
	full := int(float64(done) / float64(s.Total) * float64(length))
	return fmt.Sprintf("%s [%s%s] %3d%%", s.Phase, strings.Repeat("#", full),
		strings.Repeat("-", int(length)-full), int(float64(done)/float64(s.Total)*100))
}

// messages fills the room with the newest messages and leaves the rest blank.
func (p *picture) messages(all []Message, room int) {
	m := &picture{width: p.width, colour: p.colour}
	for _, message := range all {
		m.wrapped(message.Time+"  ", levelWord(message.Level)+message.Text, levelColour(message.Level))
	}
	lines := m.lines
	if len(lines) > room {
		lines = lines[len(lines)-max(room, 0):]
	}
	p.lines = append(p.lines, lines...)
	for range room - len(lines) {
		p.line("", "")
	}
}

func levelWord(level string) string {
	switch level {
	case LevelError:
		return "error: "
	case LevelWarning:
		return "warning: "
	}
	return ""
}

func levelColour(level string) string {
	switch level {
	case LevelError:
		return colourRed
	case LevelWarning:
		return colourAmber
	}
	return ""
}

// clean takes control characters away, so that no text can steer a terminal.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, text)
}

func fit(text string, width int) string {
	if runes := []rune(text); len(runes) > width {
		return string(runes[:width-3]) + "..."
	}
	return text
}

// wrap breaks at spaces, and in a word only when it is longer than a line. It gives at
// least one line.
func wrap(text string, width int) []string {
	var lines []string
	line := []rune{}
	for word := range strings.FieldsSeq(text) {
		runes := []rune(word)
		if len(line) > 0 && len(line)+1+len(runes) > width {
			lines, line = append(lines, string(line)), nil
		}
		if len(line) > 0 {
			line = append(line, ' ')
		}
		line = append(line, runes...)
		for len(line) > width {
			lines, line = append(lines, string(line[:width])), line[width:]
		}
	}
	return append(lines, string(line))
}
