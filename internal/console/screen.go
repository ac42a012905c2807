// Package console shows on the machine's own screens what the node is and does. It reads
// nothing: a node is managed through its API alone.
//
// There are two kinds of output. A screen (VGA) gets a picture of its whole size: drawn
// when something has changed, at most twice a second, only the lines that changed, and
// all of it once a minute. A serial line gets plain lines, each once, without any control
// sequence: nobody can tell whether a person, a program or a file is at its other end, and
// a log of it stays readable. An output that blocks or is gone holds up nobody but itself.
//
// What is shown comes from outside: names, addresses, errors of programs. Nothing of it
// reaches an output before clean has taken away what a terminal could obey.
//
// Render, the painter and the serial lines are pure functions of a Screen; Console keeps
// the Screen and the outputs. A picture says everything with characters; colours only say
// it again.
package console

import (
	"slices"
	"time"
)

// State is what a node is doing, in a word.
type State string

// The states of a node. The empty one is Starting.
const (
	Starting State = "starting"
	Ready    State = "ready"
	// Degraded is a node that serves its API, but not all that it is for.
	Degraded      State = "degraded"
	Installing    State = "installing"
	InstallFailed State = "installation failed"
	Updating      State = "updating"
	Rebooting     State = "rebooting"
	PoweringOff   State = "powering off"
)

// Levels of a message.
const (
	LevelInfo    = "info"
	LevelWarning = "warning"
	LevelError   = "error"
)

// The size of a screen that does not say its own, which is also the least.
const (
	leastWidth  = 80
	leastHeight = 24
	// mostWidth and mostHeight are more than a screen has: a size comes from a device.
	mostWidth  = 500
	mostHeight = 200
)

// Limits on what comes from outside, before any of it is drawn.
const (
	// maxMessages is how many messages are kept, which is more than a screen shows.
	maxMessages = 200
	// maxText is the longest text, in bytes.
	maxText = 1024
	// maxList is how many addresses, applications or warnings are looked at.
	maxList = 200
)

// Screen is what there is to show. The zero value shows an empty screen of 80x24.
type Screen struct {
	// Name is the host name, empty until it is known.
	Name string
	// Product is what runs, as "Holdfast".
	Product string
	// Version is the release that runs, as "202611220104".
	Version string
	// State is what the node is doing; default Starting.
	State State
	// Addresses are what the node can be reached at, the best first.
	Addresses []string
	// Fingerprint is the SHA-256 of the certificate that a client will see: 64
	// hexadecimal digits; empty while there is none.
	Fingerprint string
	// Applications are what runs on the node, with version.
	Applications []string
	// Warnings are shown until they are gone, as an untrusted state.
	Warnings []string
	// Pending is the change that waits for its confirmation; nil for none.
	Pending *Pending
	// Problem is what went wrong and is tried again; nil for nothing.
	Problem *Problem
	// Phase is what goes on, in a few words.
	Phase string
	// Done and Total are its progress in any unit; Total 0 shows none.
	Done  int64
	Total int64
	// Messages are the newest last.
	Messages []Message
	// Now is the time of day that is shown; zero shows none.
	Now time.Time
	// Width and Height are in characters; default and least 80 and 24.
	Width  int
	Height int
	// Colours are those of the screen; default Plain.
	Colours Colours
}

// Pending is a change of the configuration that is taken back unless it is confirmed.
type Pending struct {
	// Sections are those that it changes, as "network".
	Sections []string
	// Who has asked for it.
	Who string
	// Until is when it is taken back; zero while it is being applied.
	Until time.Time
}

// Problem is a failure that is not the end.
type Problem struct {
	// Text says what went wrong.
	Text string
	// Again is when it is tried again; zero for never.
	Again time.Time
	// Help are steps that a person can take.
	Help []string
}

// Message is one line of news.
type Message struct {
	// At is when it came.
	At time.Time
	// Level is LevelInfo, LevelWarning or LevelError.
	Level string
	Text  string
}

// size gives the size to draw in.
func size(s Screen) (width, height int) {
	return min(max(s.Width, leastWidth), mostWidth), min(max(s.Height, leastHeight), mostHeight)
}

// cleaned gives the screen without anything that a terminal could obey, and with texts
// and lists of limited length. The original stays as it is.
func cleaned(s Screen) Screen {
	s.Name, s.Product, s.Version = text(s.Name), text(s.Product), text(s.Version)
	s.State, s.Phase, s.Fingerprint = State(text(string(s.State))), text(s.Phase), text(s.Fingerprint)
	s.Addresses, s.Applications, s.Warnings = texts(s.Addresses), texts(s.Applications), texts(s.Warnings)
	if s.State == "" {
		s.State = Starting
	}
	if s.Pending != nil {
		s.Pending = &Pending{Sections: texts(s.Pending.Sections), Who: text(s.Pending.Who), Until: s.Pending.Until}
	}
	if s.Problem != nil {
		s.Problem = &Problem{Text: text(s.Problem.Text), Again: s.Problem.Again, Help: texts(s.Problem.Help)}
	}
	s.Messages = slices.Clone(s.Messages[max(len(s.Messages)-maxMessages, 0):])
	for i, m := range s.Messages {
		s.Messages[i].Text = text(m.Text)
	}
	return s
}

func text(foreign string) string { return clean(shorten(foreign, maxText)) }

func texts(foreign []string) []string {
	out := make([]string, 0, min(len(foreign), maxList))
	for _, one := range foreign[:min(len(foreign), maxList)] {
		out = append(out, text(one))
	}
	return out
}
