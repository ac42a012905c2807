package bundle

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

const (
	// maxForms bounds the bytes of all forms of all secrets together.
	maxForms = 8 << 20
	// minLine is the shortest line of a secret of several lines that is removed by itself:
	// logs are split at line breaks. Shorter ones stand in every text.
	minLine = 16
	// minInner is the shortest part of a base64 text that tells which secret is in it.
	minInner = 8
)

// ErrNoMark means that the secrets use every byte there is, so nothing could be put in
// their place.
var ErrNoMark = errors.New("the secrets have every byte in them: nothing could stand for them")

// Scrubber removes secrets from texts. It holds the secrets and must not be printed.
type Scrubber struct {
	// next are the edges of the trie by node and byte, fail the longest other beginning
	// that a node ends with, length the longest form that ends in a node (0: none), and
	// depth how many bytes lead to a node: the automaton of Aho and Corasick.
	next   map[edge]int32
	fail   []int32
	length []int32
	depth  []int32
	// first are the edges of the root, where most bytes of a text lead from.
	first [256]int32
	mark  []byte
}

type edge struct {
	node int32
	b    byte
}

// NewScrubber prepares for secrets; empty ones are left out. Each is removed as it is, and
// as base64, hexadecimal, JSON text and URL text.
func NewScrubber(secrets []string) (*Scrubber, error) {
	var forms []string
	total := 0
	for _, secret := range secrets {
		for _, form := range Forms(secret) {
			total += len(form)
			if total > maxForms {
				return nil, fmt.Errorf("preparing to remove %d secrets: their forms have more than %d bytes", len(secrets), maxForms)
			}
			forms = append(forms, form)
		}
	}
	s := &Scrubber{next: map[edge]int32{}, fail: []int32{0}, length: []int32{0}, depth: []int32{0}}
	used := map[byte]bool{}
	for _, form := range forms {
		s.add(form)
		for i := range len(form) {
			used[form[i]] = true
		}
	}
	s.link()
	mark, found := chooseMark(used)
	if !found {
		return nil, ErrNoMark
	}
	s.mark = mark
	return s, nil
}

// chooseMark gives three of a byte that no form has. So the mark is in no secret, and what
// it joins, to its left and right, is no secret either.
func chooseMark(used map[byte]bool) ([]byte, bool) {
	const first = "*#~?^|_" // what a person takes for "something was here"
	for _, b := range []byte(first) {
		if !used[b] {
			return []byte{b, b, b}, true
		}
	}
	for b := range 256 {
		if !used[byte(b)] {
			return []byte{byte(b), byte(b), byte(b)}, true
		}
	}
	return nil, false
}

// add puts a form into the trie.
func (s *Scrubber) add(form string) {
	node := int32(0)
	for i := range len(form) {
		child, found := s.next[edge{node, form[i]}]
		if !found {
			child = int32(len(s.fail))
			s.next[edge{node, form[i]}] = child
			s.fail, s.length, s.depth = append(s.fail, 0), append(s.length, 0), append(s.depth, s.depth[node]+1)
		}
		node = child
	}
	s.length[node] = int32(len(form))
}

// link finds, for each node, where to go on when the next byte does not fit. Nodes are
// taken by depth, so that shorter ones are done.
func (s *Scrubber) link() {
	edges := make([]edge, 0, len(s.next))
	for e, node := range s.next {
		edges = append(edges, e)
		if e.node == 0 {
			s.first[e.b] = node
		}
	}
	slices.SortFunc(edges, func(a, b edge) int { return int(s.depth[a.node]) - int(s.depth[b.node]) })
	for _, e := range edges {
		node := s.next[e]
		if e.node != 0 {
			s.fail[node] = s.step(s.fail[e.node], e.b)
		}
		// The longest form that ends here covers the shorter ones.
		if s.length[node] == 0 {
			s.length[node] = s.length[s.fail[node]]
		}
	}
}

// step gives the node after a byte.
func (s *Scrubber) step(node int32, b byte) int32 {
	for node != 0 {
		if child, found := s.next[edge{node, b}]; found {
			return child
		}
		node = s.fail[node]
	}
	return s.first[b]
}

// Text gives a text without the secrets, and how many places were removed.
func (s *Scrubber) Text(text string) (string, int) {
	var out stream
	out.scrubber = s
	out.write([]byte(text))
	out.close(false)
	return string(out.done), out.removed
}

// stream scrubs a text that comes in pieces.
type stream struct {
	scrubber *Scrubber
	// done is what can hold no secret any more.
	done    []byte
	removed int

	node int32
	// pending are the bytes that may still be the beginning of a secret; covered says of
	// each whether it belongs to one.
	pending []byte
	covered []bool
	// inside is true while the last byte given out was of a secret, so that secrets that
	// touch get one mark.
	inside bool
}

func (w *stream) write(piece []byte) {
	s := w.scrubber
	for _, b := range piece {
		w.node = s.step(w.node, b)
		if w.node == 0 && len(w.pending) == 0 {
			w.done, w.inside = append(w.done, b), false
			continue
		}
		w.pending, w.covered = append(w.pending, b), append(w.covered, false)
		for i := len(w.pending) - int(s.length[w.node]); i < len(w.pending); i++ {
			w.covered[i] = true
		}
		// What lies before the present beginning of a form can be in no later form.
		w.release(len(w.pending) - int(s.depth[w.node]))
	}
}

// release gives out the first n pending bytes.
func (w *stream) release(n int) {
	for i := range n {
		switch {
		case !w.covered[i]:
			w.done = append(w.done, w.pending[i])
		case !w.inside:
			w.done = append(w.done, w.scrubber.mark...)
			w.removed++
		}
		w.inside = w.covered[i]
	}
	w.pending, w.covered = w.pending[n:], w.covered[n:]
}

// close gives out the rest. When the text was cut off, what may be the beginning of a
// secret is left out.
func (w *stream) close(cut bool) {
	if cut {
		for i := range w.pending {
			w.covered[i] = true
		}
	}
	w.release(len(w.pending))
}

// Forms are the texts that a secret is looked for as.
func Forms(secret string) []string {
	if secret == "" {
		return nil
	}
	var forms []string
	add := func(more ...string) { forms = append(forms, more...) }
	for _, part := range parts(secret) {
		add(part)
		add(base64Forms(part)...)
		code := hex.EncodeToString([]byte(part))
		add(code, strings.ToUpper(code))
		for _, text := range jsonForms(part) {
			add(text)
			// A document that is a text in another one, as in a log of JSON.
			add(jsonForms(text)...)
		}
		add(urlForms(part)...)
	}
	slices.Sort(forms)
	return slices.DeleteFunc(slices.Compact(forms), func(form string) bool { return form == "" })
}

// parts are a secret and, when it has several lines, each long line by itself.
func parts(secret string) []string {
	all := []string{secret}
	if trimmed := strings.TrimRight(secret, "\r\n"); trimmed != secret && trimmed != "" {
		all = append(all, trimmed)
	}
	if !strings.Contains(secret, "\n") {
		return all
	}
	for line := range strings.Lines(secret) {
		line = strings.TrimRight(line, "\r\n")
		// The first and last line of PEM are no secret.
		if len(line) >= minLine && !strings.HasPrefix(line, "-----") {
			all = append(all, line)
		}
	}
	return all
}

// base64Forms are the whole encodings, and what each place in a longer text that is
// encoded as a whole makes of the secret: the digits that depend on it alone.
func base64Forms(part string) []string {
	var forms []string
	for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
		bare := encoding.WithPadding(base64.NoPadding)
		forms = append(forms, encoding.EncodeToString([]byte(part)), bare.EncodeToString([]byte(part)))
		for before := range 3 {
			digits := bare.EncodeToString(append(make([]byte, before), part...))
			from := (before*8 + 5) / 6
			to := (before + len(part)) * 8 / 6
			if to-from >= minInner {
				forms = append(forms, digits[from:to])
			}
		}
	}
	return forms
}

// jsonForms are the texts between the quotes: as Go writes them with and without the
// escapes for HTML, and with every letter beyond ASCII escaped; and as Go quotes a text.
func jsonForms(part string) []string {
	var forms []string
	for _, html := range []bool{true, false} {
		var text strings.Builder
		encoder := json.NewEncoder(&text)
		encoder.SetEscapeHTML(html)
		if encoder.Encode(part) != nil {
			continue // strings always encode
		}
		form := strings.TrimSuffix(text.String(), "\n")
		form = form[1 : len(form)-1]
		forms = append(forms, form, strings.ReplaceAll(form, "/", `\/`), escapeUnicode(form))
	}
	// What %q and a log of Go write.
	for _, form := range []string{strconv.Quote(part), strconv.QuoteToASCII(part)} {
		forms = append(forms, form[1:len(form)-1])
	}
	return forms
}

func escapeUnicode(text string) string {
	var out strings.Builder
	for _, r := range text {
		switch {
		case r < 0x80:
			out.WriteRune(r)
		case r < 0x10000:
			fmt.Fprintf(&out, `\u%04x`, r)
		default:
			r -= 0x10000
			fmt.Fprintf(&out, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		}
	}
	return out.String()
}

// urlForms are the escapes of a query and of a path, and of every byte, with both cases of
// the digits.
func urlForms(part string) []string {
	var every strings.Builder
	for i := range len(part) {
		fmt.Fprintf(&every, "%%%02X", part[i])
	}
	var forms []string
	for _, form := range []string{url.QueryEscape(part), url.PathEscape(part), strings.ReplaceAll(url.QueryEscape(part), "+", "%20"), every.String()} {
		forms = append(forms, form, lowerEscapes(form))
	}
	return forms
}

// lowerEscapes writes the digits behind "%" in lower case.
func lowerEscapes(form string) string {
	out := []byte(form)
	for i := 0; i+2 < len(out); i++ {
		if out[i] == '%' {
			copy(out[i+1:], strings.ToLower(string(out[i+1:i+3])))
			i += 2
		}
	}
	return string(out)
}
