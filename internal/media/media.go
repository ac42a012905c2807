// Package media knows what is in an install image, and how to change one.
//
// An image is the first part of a node's disk (internal/layout): a table with an ESP, the
// seed's partition and slot A. What a person does to it before a machine starts from it is
// decided here: which seed goes into it, what may be overwritten with it, what is in it and
// whether that is what was released.
//
// Parties: the build and the customizer make images; a person changes them with the
// commands `holdfast image ...`; firmware, early boot and the installer read them. An image
// comes from outside, so no size in it is believed: a table, a file system or an archive
// that says something impossible is an error, never a panic and never much memory.
//
// Invariants:
//
//   - Nothing is written into an image without a table that has our partition at the place
//     where nodes look for the seed.
//   - A seed is checked as a node does before its first byte is written. One that was
//     written by half is no archive that a node follows: its first block comes last.
//   - What an earlier seed left behind the new one is wiped: it may have held secrets.
//   - The same input gives the same bytes.
//
// The package is pure: callers open files and devices, and start programs.
package media

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// MaxImage is the largest image that is read, in bytes.
const MaxImage = 64 << 30

// ErrNotImage means that there is no image of ours in a file or on a device.
var ErrNotImage = errors.New("this is no image of Holdfast")

// ErrCut means that an image ends before its end: a download that broke off, for example.
var ErrCut = errors.New("the image is cut off")

// wholeReader reads an image to its end, and tells it from the place where a file was cut:
// packed data that stop in the middle, or fewer bytes than the table says. Of both
// io.ReadFull would make the same as of a proper end.
type wholeReader struct {
	in io.Reader
	at int64
	// table says how long the image is; until it is read, any length will do.
	table Table
}

func (w *wholeReader) Read(p []byte) (int, error) {
	n, err := w.in.Read(p)
	w.at += int64(n)
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = fmt.Errorf("%w: the file ends in the middle of its packed data, after %d bytes of the image", ErrCut, w.at)
	case errors.Is(err, io.EOF):
		if short := w.table.CheckWhole(w.at); short != nil {
			err = short
		}
	}
	return n, err
}

// begin reads the first mebibyte, or what there is of it, and the table in it.
func (w *wholeReader) begin() (head []byte, err error) {
	head = make([]byte, grain)
	n, err := io.ReadFull(w, head)
	over := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
	if err != nil && !over {
		return nil, fmt.Errorf("reading the image: %w", err)
	}
	if w.table, err = ReadTable(&headReader{head[:n]}, MaxImage); err != nil {
		return nil, err
	}
	if over {
		return head[:n], w.table.CheckWhole(w.at)
	}
	return head[:n], nil
}

// Problem is one thing wrong with what a person wrote.
type Problem struct {
	// File is the name of the file, as "network.yaml"; empty for the whole.
	File string
	// Line is from 1; 0 when it is not known.
	Line int
	// Path is the place in the document, as "interfaces[0].name"; empty for the whole.
	Path string
	// Rule names what was broken, as "unknown-field".
	Rule string
	// Text says it in words.
	Text string
}

func (p Problem) String() string {
	var place []string
	if p.File != "" {
		at := p.File
		if p.Line > 0 {
			at = fmt.Sprintf("%s:%d", p.File, p.Line)
		}
		place = append(place, at)
	}
	if p.Path != "" {
		place = append(place, p.Path)
	}
	return strings.Join(append(place, p.Text), ": ")
}

// Problems are all that is wrong, an error when there are any.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, problem := range p {
		lines[i] = problem.String()
	}
	return strings.Join(lines, "\n")
}

// Err is nil when there is no problem.
func (p Problems) Err() error {
	if len(p) == 0 {
		return nil
	}
	return p
}

// readAt fills data, or says how an image ends too early.
func readAt(r io.ReaderAt, data []byte, offset int64) error {
	n, err := r.ReadAt(data, offset)
	if n == len(data) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("reading %d bytes at %d: %w", len(data), offset, err)
}
