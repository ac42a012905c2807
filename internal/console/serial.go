package console

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// maxLine is the longest line, in bytes: a list of addresses may be long.
const maxLine = 4096

// progressEvery is how far, in percent, progress goes on between two serial lines.
const progressEvery = 10

// serial is what a serial line has said already.
type serial struct {
	release, status, problem, change, addresses, applications, certificate string

	warnings []string
	written  int
}

// lines gives what is new since the last call, as whole lines: a prefix, as other programs
// write to the same line; the time since the start of the kernel, as the kernel has it;
// and the text. written counts the messages since the start, also those no longer kept.
func (l *serial) lines(now Screen, written int, start time.Time) string {
	var out strings.Builder
	sayAt := func(at time.Time, line string) {
		fmt.Fprintf(&out, "holdfast [%8.3f] %s\r\n", max(at.Sub(start).Seconds(), 0), shorten(line, maxLine))
	}
	once := func(said *string, line string) {
		if line != *said && line != "" {
			sayAt(now.Now, line)
		}
		*said = line
	}
	now = cleaned(now)
	once(&l.release, serialRelease(now))
	for _, text := range now.Warnings {
		if !slices.Contains(l.warnings, text) {
			sayAt(now.Now, "warning: "+text)
		}
	}
	for _, text := range l.warnings {
		if !slices.Contains(now.Warnings, text) {
			sayAt(now.Now, "no longer: "+text)
		}
	}
	l.warnings = now.Warnings
	fresh := written - l.written
	l.written = written
	if left := fresh - len(now.Messages); left > 0 {
		sayAt(now.Now, fmt.Sprintf("%d messages left out: the line was blocked", left))
		fresh = len(now.Messages)
	}
	for _, m := range now.Messages[len(now.Messages)-fresh:] {
		sayAt(m.At, levelWord(m.Level)+m.Text)
	}
	once(&l.status, serialStatus(now))
	once(&l.problem, serialProblem(now))
	once(&l.change, serialChange(now))
	once(&l.addresses, labelled("addresses: ", strings.Join(now.Addresses, ", ")))
	once(&l.applications, labelled("applications: ", strings.Join(now.Applications, ", ")))
	once(&l.certificate, labelled("certificate: ", now.Fingerprint))
	return out.String()
}

func labelled(label, text string) string {
	if text == "" {
		return ""
	}
	return label + text
}

func serialRelease(s Screen) string {
	if s.Name == "" {
		return release(s)
	}
	return strings.TrimSpace(s.Name + ", " + release(s))
}

func serialStatus(s Screen) string {
	line := string(s.State)
	if s.Phase != "" && s.Phase != line {
		line += ": " + s.Phase
	}
	if s.Total > 0 {
		line += fmt.Sprintf(" %d%%", percent(s)/progressEvery*progressEvery)
	}
	return line
}

func serialProblem(s Screen) string {
	if s.Problem == nil {
		return ""
	}
	// Without the text: it has come as a message. The time of the next try is left out
	// too, as every try would be a line.
	return strings.Join(s.Problem.Help, "; ")
}

func serialChange(s Screen) string {
	if s.Pending == nil {
		return ""
	}
	return "change " + waiting(*s.Pending, time.Time{})
}
