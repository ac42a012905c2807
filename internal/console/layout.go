package console

import (
	"fmt"
	"strings"
	"time"
)

const (
	// wideFrom is the width from which what the node is stands beside the messages.
	wideFrom = 120
	// sideLeast and sideMost are the width of that panel, a third of the screen: it has
	// room for an IPv6 address with its prefix.
	sideLeast = 46
	sideMost  = 72
	// labelWidth is that of "Applications  " and of "01:02:03  ".
	labelWidth = 14
	timeWidth  = 10
	// noticeWidth is that of "WARNING  ".
	noticeWidth = 9
	// noticeLines is how many lines one of them may take.
	noticeLines = 4
	// whoWidth is how much is shown of who has asked for a change: the begin of a
	// fingerprint tells two people apart.
	whoWidth = 24
)

// Render draws the picture: exactly Height lines, separated by line feeds, of at most
// Width columns each. From top to bottom: who this is; the state and how far it is; what
// a person should know or do; the messages; and how to reach the node.
func Render(s Screen) string {
	width, height := size(s)
	s = cleaned(s)
	rows := append([]row{titleRow(s, width)}, statusRows(s, width)...)
	rows = append(rows, rule(width))
	limit := height / 3
	if !showsIdentity(s) {
		limit = height / 2
	}
	if notices := noticeRows(s, width, limit); len(notices) > 0 {
		rows = append(append(rows, notices...), rule(width))
	}
	room, each := height-len(rows), height/8
	if width >= wideFrom && showsIdentity(s) {
		side := min(max(width/3, sideLeast), sideMost)
		left := messageRows(s.Messages, width-side-1, room, each)
		rows = append(rows, beside(left, sideRows(s, side, room), width-side)...)
	} else {
		foot := footRows(s, width, height)
		rows = append(rows, messageRows(s.Messages, width, room-len(foot), each)...)
		rows = append(rows, foot...)
	}
	var out strings.Builder
	for i, r := range rows[:height] {
		if i > 0 {
			out.WriteByte('\n')
		}
		out.WriteString(r.paint(s.Colours))
	}
	return out.String()
}

func rule(width int) row { return row{{strings.Repeat("-", width), faint}} }

// release is what runs, as "Holdfast 202611220104".
func release(s Screen) string { return strings.TrimSpace(s.Product + " " + s.Version) }

// titleRow has the name on the left and the release on the right.
func titleRow(s Screen, width int) row {
	right := fit(release(s), width/2)
	left := fit(" "+s.Name, width-cells(right)-3)
	if s.Name == "" {
		left, right = " "+right, ""
	}
	gap := width - cells(left) - cells(right) - 1
	return row{{left + strings.Repeat(" ", gap) + right + " ", title}}
}

// statusRows are the state with what goes on, the time, and a bar if it is known how far.
func statusRows(s Screen, width int) []row {
	clock := ""
	if !s.Now.IsZero() {
		clock = s.Now.UTC().Format("2006-01-02 15:04 UTC") + " "
	}
	badge := " " + strings.ToUpper(string(s.State)) + " "
	line := row{{" ", normal}, {badge, badgeOf(s.State)}, {"  " + doing(s), strong}}.ends(width-cells(clock)-1, normal)
	rows := []row{append(line, span{" " + clock, faint})}
	if s.Total > 0 {
		rows = append(rows, bar(s, width))
	}
	return rows
}

// doing is what stands behind the state.
func doing(s Screen) string {
	switch {
	case s.Problem != nil:
		var parts []string
		if s.State != InstallFailed {
			parts = append(parts, strings.TrimSpace(s.Phase+" failed"))
		}
		if !s.Problem.Again.IsZero() {
			parts = append(parts, "next try "+clockOf(s.Problem.Again))
		}
		return strings.Join(parts, ", ")
	case s.Phase == string(s.State):
		return ""
	case s.Phase == "" && s.Pending != nil && !s.Pending.Until.IsZero():
		return "a change waits for confirmation"
	}
	return s.Phase
}

func badgeOf(state State) style {
	switch state {
	case Ready:
		return badgeGood
	case Degraded, Rebooting, PoweringOff:
		return badgeWarning
	case InstallFailed:
		return badgeFailure
	}
	return badgeBusy
}

// percent is how far it is, from 0 to 100.
func percent(s Screen) int { return int(share(s) * 100) }

func share(s Screen) float64 {
	if s.Total <= 0 {
		return 0
	}
	return float64(min(max(s.Done, 0), s.Total)) / float64(s.Total)
}

// bar is " [######------]  50%".
func bar(s Screen, width int) row {
	length := width - 9
	full := int(share(s) * float64(length))
	return row{
		{" [", normal}, {strings.Repeat("#", full), busy}, {strings.Repeat("-", length-full), faint},
		{fmt.Sprintf("] %3d%%", percent(s)), normal},
	}
}

// notice is something that a person should know or do.
type notice struct {
	label, text string
	style       style
}

// notices are those of a screen, the most pressing first.
func notices(s Screen) []notice {
	var all []notice
	if s.Problem != nil {
		all = append(all, notice{"ERROR", s.Problem.Text, failure})
		for _, help := range s.Problem.Help {
			all = append(all, notice{"TO DO", help, strong})
		}
	}
	if s.Pending != nil {
		all = append(all, notice{"CHANGE", waiting(*s.Pending, s.Now), warning})
	}
	for _, text := range s.Warnings {
		all = append(all, notice{"WARNING", text, warning})
	}
	return all
}

// waiting says what a change waits for. The day is left out when it is today.
func waiting(p Pending, now time.Time) string {
	what, who := "of "+strings.Join(p.Sections, ", "), ""
	if p.Who != "" {
		who = " (by " + fit(p.Who, whoWidth) + ")"
	}
	if p.Until.IsZero() {
		return what + " is being applied" + who
	}
	until := p.Until.UTC().Format("2006-01-02 15:04:05 UTC")
	if today := now.UTC().Format(time.DateOnly) + " "; strings.HasPrefix(until, today) {
		until = strings.TrimPrefix(until, today)
	}
	return what + " waits for confirmation until " + until + ": holdfast node config confirm" + who
}

// noticeRows are the notices in at most limit lines; the last one says how many had no
// room.
func noticeRows(s Screen, width, limit int) []row {
	var rows []row
	all := notices(s)
	for i, n := range all {
		reserved := 1
		if i == len(all)-1 {
			reserved = 0
		}
		room := limit - len(rows) - reserved
		lines := wrap(n.text, width-noticeWidth-2, noticeLines)
		if len(lines) > room {
			return append(rows, row{{fmt.Sprintf(" %-*sand %d more", noticeWidth, "", len(all)-i), n.style}})
		}
		for j, line := range lines {
			label := n.label
			if j > 0 {
				label = ""
			}
			rows = append(rows, row{{fmt.Sprintf(" %-*s", noticeWidth, label), n.style}, {line, n.style}})
		}
	}
	return rows
}

// messageRows fill the room with the newest messages, each of at most so many lines, and
// leave the rest blank.
func messageRows(all []Message, width, room, each int) []row {
	rows := make([]row, 0, max(room, 0))
	first := len(all)
	for lines := 0; first > 0 && lines < room; first-- {
		lines += len(messageRow(all[first-1], width, each))
	}
	for _, m := range all[first:] {
		rows = append(rows, messageRow(m, width, each)...)
	}
	rows = rows[max(len(rows)-max(room, 0), 0):]
	for len(rows) < room {
		rows = append(rows, nil)
	}
	return rows
}

func messageRow(m Message, width, each int) []row {
	at, look := clockOf(m.At), styleOf(m.Level)
	var rows []row
	for _, line := range wrap(levelWord(m.Level)+m.Text, width-timeWidth-2, each) {
		rows = append(rows, row{{fmt.Sprintf(" %-*s", timeWidth, at), faint}, {line, look}})
		at = ""
	}
	return rows
}

func clockOf(at time.Time) string { return at.UTC().Format(time.TimeOnly) }

func levelWord(level string) string {
	switch level {
	case LevelError:
		return "error: "
	case LevelWarning:
		return "warning: "
	}
	return ""
}

func styleOf(level string) style {
	switch level {
	case LevelError:
		return failure
	case LevelWarning:
		return warning
	}
	return normal
}

// showsIdentity is false as long as there is no node that could be reached.
func showsIdentity(s Screen) bool { return s.State != Installing && s.State != InstallFailed }

// footRows say how to reach the node, below the messages.
func footRows(s Screen, width, height int) []row {
	if !showsIdentity(s) {
		return nil
	}
	rows := []row{rule(width)}
	add := func(label string, lines []string) {
		for _, line := range lines {
			rows = append(rows, row{{fmt.Sprintf(" %-*s", labelWidth, label), faint}, {line, normal}})
			label = ""
		}
	}
	columns := width - labelWidth - 1
	add("Addresses", list(s.Addresses, columns, height/8))
	if len(s.Applications) > 0 {
		add("Applications", list(s.Applications, columns, height/12))
	}
	if s.Fingerprint != "" {
		add("Certificate", wrap(s.Fingerprint, columns, 2))
	}
	return rows
}

// list puts values behind each other, in at most limit lines; the end says how many had
// no room.
func list(values []string, columns, limit int) []string {
	if len(values) == 0 {
		return []string{"none yet"}
	}
	// A value takes at least three columns: its own, a comma and a blank.
	for n := min(len(values), limit*columns/3+1); n > 0; n-- {
		line := strings.Join(values[:n], ", ")
		if n < len(values) {
			line += fmt.Sprintf(" and %d more", len(values)-n)
		}
		if lines := wrap(line, columns, limit+1); len(lines) <= limit {
			return lines
		}
	}
	return wrap(fmt.Sprintf("%d, too long to be shown", len(values)), columns, limit)
}

// sideRows say the same in a panel beside the messages, with a line for each value.
func sideRows(s Screen, width, room int) []row {
	var rows []row
	add := func(label string, values []string, limit int) {
		if len(values) == 0 {
			return
		}
		if len(rows) > 0 {
			rows = append(rows, nil)
		}
		rows = append(rows, row{{label, faint}})
		for i, value := range values {
			if i == limit-1 && len(values) > limit {
				rows = append(rows, row{{fmt.Sprintf("  and %d more", len(values)-i), normal}})
				return
			}
			rows = append(rows, row{{"  " + fit(value, width-4), normal}})
		}
	}
	addresses := s.Addresses
	if len(addresses) == 0 {
		addresses = []string{"none yet"}
	}
	var certificate []string
	if s.Fingerprint != "" {
		certificate = wrap(s.Fingerprint, 32, 2)
	}
	add("Certificate, SHA-256", certificate, 2)
	add("Applications", s.Applications, max(room/4, 1))
	add("Addresses", addresses, max(room-len(rows)-2, 1))
	return rows
}

// beside puts two blocks next to each other, the right one from a column on.
func beside(left, right []row, from int) []row {
	rows := make([]row, 0, len(left))
	for i, l := range left {
		r := append(l.ends(from-1, normal), span{"|", faint})
		if i < len(right) {
			r = append(append(r, span{" ", normal}), right[i]...)
		}
		rows = append(rows, r)
	}
	return rows
}
