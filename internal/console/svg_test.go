package console_test

import (
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The pictures of docs/explanation/console.md are made from the goldens by this file:
//
//	go test ./internal/console -update

const (
	pictures   = "../../docs/images"
	cellWidth  = 8
	cellHeight = 17
)

// vga are the sixteen colours of a Linux console.
var vga = [16]string{
	"#000000", "#aa0000", "#00aa00", "#aa5500", "#0000aa", "#aa00aa", "#00aaaa", "#aaaaaa",
	"#555555", "#ff5555", "#55ff55", "#ffff55", "#5555ff", "#ff55ff", "#55ffff", "#ffffff",
}

// colours gives those of a piece of text.
func colours(sgr string) (front, back string) {
	f, b, bold, reverse := 7, 0, 0, false
	for part := range strings.SplitSeq(sgr, ";") {
		switch n := number(part); {
		case part == "":
		case n == 1:
			bold = 8
		case n == 7:
			reverse = true
		case n >= 30 && n <= 37:
			f = n - 30
		case n >= 40 && n <= 47:
			b = n - 40
		}
	}
	if reverse {
		return vga[b], vga[f]
	}
	return vga[f+bold], vga[b]
}

// svg draws a painted golden. Each piece of text has its own length, so that it looks the
// same with every font.
func svg(title, golden string) string {
	lines := strings.Split(strings.TrimSuffix(golden, "\n"), "\n")
	v := newVT(500, len(lines))
	v.feed(strings.TrimSuffix(golden, "\n"))
	// The title goes from one side to the other.
	columns := slices.IndexFunc(v.cells[0], func(c cell) bool { return c.sgr == "" })
	w, h := (columns+2)*cellWidth, (len(lines)+1)*cellHeight
	var out strings.Builder
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img">`+"\n", w, h, w, h)
	fmt.Fprintf(&out, "<title>The console of a node: %s</title>\n", title)
	fmt.Fprintf(&out, `<rect width="%d" height="%d" rx="6" fill="#000000"/>`+"\n", w, h)
	fmt.Fprintln(&out, `<g font-family="DejaVu Sans Mono, Liberation Mono, Menlo, Consolas, monospace" font-size="13" xml:space="preserve">`)
	for y, line := range v.cells {
		line = line[:columns]
		for from := 0; from < len(line); {
			to := from + 1
			for to < len(line) && line[to].sgr == line[from].sgr {
				to++
			}
			piece(&out, line[from:to], from, y)
			from = to
		}
	}
	out.WriteString("</g>\n</svg>\n")
	return out.String()
}

func piece(out *strings.Builder, cells []cell, x, y int) {
	front, back := colours(cells[0].sgr)
	if back != vga[0] {
		fmt.Fprintf(out, `<rect x="%d" y="%d" width="%d" height="%d" fill="%s"/>`+"\n",
			(x+1)*cellWidth, y*cellHeight+cellHeight/2, len(cells)*cellWidth, cellHeight, back)
	}
	// Blanks at the begin and the end are not drawn: readers of SVG treat them differently.
	blank := func(c cell) bool { return c.text == " " }
	for len(cells) > 0 && blank(cells[0]) {
		cells, x = cells[1:], x+1
	}
	for len(cells) > 0 && blank(cells[len(cells)-1]) {
		cells = cells[:len(cells)-1]
	}
	if len(cells) == 0 {
		return
	}
	var text strings.Builder
	for _, c := range cells {
		text.WriteString(strings.ReplaceAll(c.text, " ", "\u00a0"))
	}
	var escaped strings.Builder
	if err := xml.EscapeText(&escaped, []byte(text.String())); err != nil {
		panic(err) // a strings.Builder takes everything
	}
	fmt.Fprintf(out, `<text x="%d" y="%d" textLength="%d" fill="%s">%s</text>`+"\n",
		(x+1)*cellWidth, y*cellHeight+cellHeight/2+13, len(cells)*cellWidth, front, escaped.String())
}

// The pictures of the documentation are those of the goldens, each is shown on the page,
// and there is none of a state that is gone.
func TestPictures_OfTheDocumentation_AreFresh(t *testing.T) {
	goldens, err := filepath.Glob("testdata/*.ansi")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/explanation/console.md")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, path := range goldens {
		name := strings.TrimSuffix(filepath.Base(path), ".ansi")
		file := filepath.Join(pictures, "console-"+name+".svg")
		want = append(want, file)
		painted, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		drawn := svg(name, string(painted))
		if *update {
			if err := os.WriteFile(file, []byte(drawn), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		kept, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if string(kept) != drawn {
			t.Errorf("%s is not that of %s: go test ./internal/console -update", file, path)
		}
		if link := "](../images/console-" + name + ".svg)"; !strings.Contains(string(page), link) {
			t.Errorf("the page does not show %s", link)
		}
	}
	got, err := filepath.Glob(filepath.Join(pictures, "console-*.svg"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
