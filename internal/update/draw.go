package update

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// spot is the middle of a state in the picture.
type spot struct{ x, y float64 }

// spots say where each state is drawn. A state that is missing here fails the drawing's
// test, as one that is in no edge does.
func spots() map[State]spot {
	return map[State]spot{
		Idle: {90, 70}, Checking: {290, 70}, Planned: {490, 70}, Fetching: {690, 70}, Staging: {890, 70},
		Failed: {490, 260}, Staged: {890, 260}, Rebooting: {890, 430}, Trial: {700, 430},
		Good: {90, 260}, Returning: {505, 395}, Returned: {200, 430}, Any: {680, 590},
	}
}

const (
	boxWidth  = 110.0
	boxHeight = 44.0
)

// rests tells whether an update may stay in a state.
func (s State) rests() bool {
	return slices.Contains([]State{Idle, Planned, Staged, Good, Returned, Failed}, s)
}

// trouble tells whether an event is one that nobody wished for.
func (e Event) trouble() bool {
	return slices.Contains([]Event{OnFail, OnInterrupted, OnStayed, OnBad, OnGone, OnCameBack}, e)
}

// arrow is all edges between two states.
type arrow struct {
	from, to State
	labels   []string
	trouble  bool
	quiet    bool // labelled in the legend only
}

func arrows() []arrow {
	var all []arrow
	for _, e := range Edges() {
		at := slices.IndexFunc(all, func(a arrow) bool { return a.from == e.From && a.to == e.To })
		if at < 0 {
			all = append(all, arrow{from: e.From, to: e.To, trouble: true, quiet: true})
			at = len(all) - 1
		}
		a := &all[at]
		a.trouble = a.trouble && e.On.trouble()
		common := e.On == OnCheck || e.On == OnFail || e.On == OnInterrupted
		a.quiet = a.quiet && common
		if !common && !slices.Contains(a.labels, string(e.On)) {
			a.labels = append(a.labels, string(e.On))
		}
	}
	return all
}

// SVG draws the states and the ways between them, from Edges.
func SVG() string {
	var out strings.Builder
	fmt.Fprintln(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 980 650" width="980" height="650" role="img" font-family="DejaVu Sans, Liberation Sans, Helvetica, sans-serif" font-size="12">`)
	fmt.Fprintln(&out, `<title>The states of an update, and the ways between them</title>`)
	fmt.Fprintln(&out, `<rect width="980" height="650" rx="6" fill="#ffffff"/>`)
	for _, c := range [][2]string{{"plain", "#1f3a5f"}, {"trouble", "#b3261e"}, {"quiet", "#8a94a3"}} {
		fmt.Fprintf(&out, `<marker id="%s" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="10" markerHeight="10" markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0L8 4L0 8z" fill="%s"/></marker>`+"\n", c[0], c[1])
	}
	var labels strings.Builder
	for _, a := range arrows() {
		if a.from != a.to {
			a.draw(&out, &labels)
		}
	}
	at := spots()
	states := []State{}
	for s := range at {
		states = append(states, s)
	}
	slices.Sort(states)
	for _, s := range states {
		box(&out, s, at[s])
	}
	out.WriteString(labels.String())
	for i, line := range []string{
		"double frame: an update may rest here", "red: something went wrong", "grey: a check, an error or an interruption",
	} {
		fmt.Fprintf(&out, `<text x="30" y="%d" fill="#555">%s</text>`+"\n", 590+18*i, line)
	}
	fmt.Fprintln(&out, "</svg>")
	return out.String()
}

func box(out *strings.Builder, s State, p spot) {
	x, y := p.x-boxWidth/2, p.y-boxHeight/2
	fill, dash, name := "#eef3fa", "", string(s)
	if s == Any {
		fill, dash, name = "#ffffff", ` stroke-dasharray="4 3"`, "any, after a start"
	}
	fmt.Fprintf(out, `<rect x="%.0f" y="%.0f" width="%.0f" height="%.0f" rx="8" fill="%s" stroke="#1f3a5f"%s/>`+"\n", x, y, boxWidth, boxHeight, fill, dash)
	if s.rests() {
		fmt.Fprintf(out, `<rect x="%.0f" y="%.0f" width="%.0f" height="%.0f" rx="6" fill="none" stroke="#1f3a5f"/>`+"\n", x+3, y+3, boxWidth-6, boxHeight-6)
	}
	fmt.Fprintf(out, `<text x="%.0f" y="%.0f" text-anchor="middle" fill="#111">%s</text>`+"\n", p.x, p.y+4, name)
}

// draw puts the arrow on the picture, and its label above everything else. It bends to
// its own right, so that the two ways between two states do not lie on each other.
func (a arrow) draw(out, labels *strings.Builder) {
	at := spots()
	from, to := at[a.from], at[a.to]
	dx, dy := to.x-from.x, to.y-from.y
	length := math.Hypot(dx, dy)
	bend := 14 + length/16
	mid := spot{(from.x+to.x)/2 - dy/length*bend, (from.y+to.y)/2 + dx/length*bend}
	start, end := edgeOf(from, mid), edgeOf(to, mid)
	kind, stroke, width := "plain", "#1f3a5f", "1.8"
	switch {
	case a.quiet:
		kind, stroke, width = "quiet", "#8a94a3", "1"
	case a.trouble:
		kind, stroke, width = "trouble", "#b3261e", "1.5"
	}
	fmt.Fprintf(out, `<path d="M%.1f %.1fQ%.1f %.1f %.1f %.1f" fill="none" stroke="%s" stroke-width="%s" marker-end="url(#%s)"/>`+"\n",
		start.x, start.y, mid.x, mid.y, end.x, end.y, stroke, width, kind)
	if a.quiet {
		return
	}
	x, y := (start.x+2*mid.x+end.x)/4, (start.y+2*mid.y+end.y)/4
	if math.Abs(dx) > 3*math.Abs(dy) { // beside a flat line, not on it
		y += math.Copysign(11, dx)
	}
	if math.Abs(dy) > 3*math.Abs(dx) {
		x -= math.Copysign(18, dy)
	}
	for i, text := range a.labels {
		fmt.Fprintf(labels, `<text x="%.1f" y="%.1f" text-anchor="middle" font-size="11" fill="%s" stroke="#fff" stroke-width="3" paint-order="stroke">%s</text>`+"\n",
			x, y+4+float64(i)*13-float64(len(a.labels)-1)*6.5, stroke, text)
	}
}

// edgeOf gives where the line from the middle of a box to a point leaves the box.
func edgeOf(p, to spot) spot {
	dx, dy := to.x-p.x, to.y-p.y
	scale := math.Min(boxWidth/2/math.Max(math.Abs(dx), 0.001), boxHeight/2/math.Max(math.Abs(dy), 0.001))
	return spot{p.x + dx*scale, p.y + dy*scale}
}

// Table is Edges as a table in Markdown, for the documentation.
func Table() string {
	var out strings.Builder
	out.WriteString("| in the state | when | and | goes to | on the way |\n|---|---|---|---|---|\n")
	for _, e := range Edges() {
		guard := ""
		if e.Guard != nil {
			guard = e.Guard.Text
		}
		fmt.Fprintf(&out, "| `%s` | %s | %s | `%s` | %s |\n", e.From, e.On, guard, e.To, e.Does)
	}
	return out.String()
}
