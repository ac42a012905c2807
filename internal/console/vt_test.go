package console_test

import (
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/width"

	"github.com/holdfast-os/holdfast/internal/console"
)

// vt is as much of a terminal as the console uses. What else it gets is foreign.
type vt struct {
	width, height int
	cells         [][]cell
	x, y          int
	sgr           string
	foreign       []string
	over          int // characters behind the end of a line
	written       int // lines that were written to
}

// cell is one column; the second one of a wide character is empty.
type cell struct{ text, sgr string }

func newVT(w, h int) *vt {
	v := &vt{width: w, height: h}
	for range h {
		v.cells = append(v.cells, blank(w))
	}
	return v
}

func blank(w int) []cell {
	line := make([]cell, w)
	for i := range line {
		line[i] = cell{" ", ""}
	}
	return line
}

func (v *vt) feed(text string) {
	for text != "" {
		r, size := utf8.DecodeRuneInString(text)
		if r == 0x1b {
			size = v.escape(text)
		} else {
			v.put(r)
		}
		text = text[size:]
	}
}

// escape obeys one control sequence and gives its length.
func (v *vt) escape(text string) int {
	end := strings.IndexFunc(text[min(2, len(text)):], func(r rune) bool { return r >= '@' && r <= '~' })
	if !strings.HasPrefix(text, "\x1b[") || end < 0 {
		v.foreign = append(v.foreign, text[:min(8, len(text))])
		return 1
	}
	end += 2
	arguments, whole := text[2:end], text[:end+1]
	switch {
	case text[end] == 'm':
		v.sgr = strings.TrimPrefix(arguments, "0")
	case text[end] == 'H':
		line, column, _ := strings.Cut(arguments, ";")
		v.y, v.x = number(line)-1, number(column)-1
		v.written++
	case text[end] == 'K' && arguments == "":
		for x := v.x; x < v.width; x++ {
			v.cells[v.y][x] = cell{" ", v.sgr}
		}
	case strings.Contains(" \x1b[?25l \x1b[?25h \x1b[?7l \x1b[?7h ", " "+whole+" "):
	default:
		v.foreign = append(v.foreign, whole)
	}
	return end + 1
}

func number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		return 1
	}
	return n
}

func (v *vt) put(r rune) {
	kind := width.LookupRune(r).Kind()
	switch {
	case r == '\r':
		v.x = 0
	case r == '\n':
		v.x, v.y = 0, min(v.y+1, v.height-1)
	case r == utf8.RuneError || !unicode.IsPrint(r):
		v.foreign = append(v.foreign, strconv.QuoteRune(r))
	case unicode.In(r, unicode.Mn, unicode.Me) || r >= 0x1160 && r <= 0x11ff:
		v.cells[v.y][max(v.x-1, 0)].text += string(r)
	case v.x >= v.width:
		v.over++
	default:
		v.cells[v.y][v.x] = cell{string(r), v.sgr}
		if v.x++; kind == width.EastAsianWide || kind == width.EastAsianFullwidth {
			if v.x >= v.width {
				v.over++
				return
			}
			v.cells[v.y][v.x] = cell{"", v.sgr}
			v.x++
		}
	}
}

// text is what a person reads.
func (v *vt) text() string {
	var out strings.Builder
	for _, line := range v.cells {
		var row strings.Builder
		for _, c := range line {
			row.WriteString(c.text)
		}
		out.WriteString(strings.TrimRight(row.String(), " ") + "\n")
	}
	return out.String()
}

func sizeOf(s console.Screen) (w, h int) {
	return min(max(s.Width, 80), 500), min(max(s.Height, 24), 200)
}

// shown is the text of a picture on a terminal of its size. A picture that does not fit,
// or has what a terminal could obey beside colours, fails the test.
func shown(t *testing.T, picture string, s console.Screen) string {
	t.Helper()
	w, h := sizeOf(s)
	v := newVT(w, h)
	v.feed(picture)
	if len(v.foreign) > 0 || v.over > 0 || v.written > 0 {
		t.Errorf("foreign %q, %d characters too far on the right, %d positions", v.foreign, v.over, v.written)
	}
	if lines := strings.Count(picture, "\n"); lines != h {
		t.Errorf("%d lines, want %d", lines, h)
	}
	return v.text()
}
