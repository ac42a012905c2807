// Package prompt asks a person at a terminal, in plain lines.
//
// Parties: who asks, with questions and rules for the answers; and a person, who types lines
// and may leave at any time. Every question shows its default, which an empty line takes. An
// answer that breaks a rule is told, and asked for again.
//
// Invariants: nothing but lines is needed of the terminal, so that it works over a serial
// port and in a test; a line has a limit; no answer is remembered or logged.
//
// What can fail: the end of the input (ErrGone), the end of the context, a terminal that
// cannot be written to.
package prompt

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

const (
	// maxLine is the longest answer, in bytes.
	maxLine = 4096
	// maxTries is how often one question is asked: input that is no person must come to an end.
	maxTries = 100
)

// ErrGone means that nobody answers any more.
var ErrGone = errors.New("the answers have ended")

// Talk is a conversation. One question is asked at a time.
type Talk struct {
	out   io.Writer
	lines chan line
	stop  chan struct{}
}

type line struct {
	text string
	err  error
}

// New begins a conversation. The input is read ahead by one line; Close ends that.
func New(in io.Reader, out io.Writer) *Talk {
	t := &Talk{out: out, lines: make(chan line), stop: make(chan struct{})}
	go t.read(bufio.NewReaderSize(in, maxLine))
	return t
}

// Close lets go of the input once its present line has ended.
func (t *Talk) Close() { close(t.stop) }

func (t *Talk) read(in *bufio.Reader) {
	for {
		text, err := in.ReadSlice('\n')
		one := line{text: strings.TrimSpace(string(text))}
		long := errors.Is(err, bufio.ErrBufferFull)
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = in.ReadSlice('\n')
		}
		switch {
		case long:
			one = line{err: errLong}
		case errors.Is(err, io.EOF) && one.text == "":
			one.err = ErrGone
		case err != nil && !errors.Is(err, io.EOF):
			one.err = fmt.Errorf("reading the answer: %w", err)
		}
		select {
		case t.lines <- one:
		case <-t.stop:
			return
		}
		if err != nil {
			close(t.lines)
			return
		}
	}
}

var errLong = fmt.Errorf("an answer has at most %d bytes", maxLine-1)

// Say tells something, on a line of its own.
func (t *Talk) Say(format string, args ...any) error {
	_, err := fmt.Fprintf(t.out, format+"\n", args...)
	return err
}

// Line asks for a line; an empty one is the default. check says what is wrong with an
// answer; nil takes all.
func (t *Talk) Line(ctx context.Context, question, otherwise string, check func(string) error) (string, error) {
	if otherwise != "" {
		question += " [" + otherwise + "]"
	}
	for range maxTries {
		if _, err := fmt.Fprint(t.out, question+": "); err != nil {
			return "", err
		}
		answer, err := t.next(ctx)
		if err == nil && answer == "" {
			answer = otherwise
		}
		if err == nil && check != nil {
			err = wrong{check(answer)}.orNil()
		}
		var told wrong
		switch {
		case err == nil:
			return answer, nil
		case errors.As(err, &told) || errors.Is(err, errLong):
			if err := t.Say("  %v", err); err != nil {
				return "", err
			}
		default:
			return "", err
		}
	}
	return "", fmt.Errorf("%w: %d answers to one question were none", ErrGone, maxTries)
}

// wrong is an answer that breaks a rule.
type wrong struct{ error }

func (w wrong) orNil() error {
	if w.error == nil {
		return nil
	}
	return w
}

func (t *Talk) next(ctx context.Context) (string, error) {
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case one, more := <-t.lines:
		if !more {
			return "", ErrGone
		}
		return one.text, one.err
	}
}

// Choose asks for one of some options by its number, the first being 1, and gives its index.
// otherwise is the index of the default.
func (t *Talk) Choose(ctx context.Context, question string, options []string, otherwise int) (int, error) {
	if err := t.Say("%s", question); err != nil {
		return 0, err
	}
	for i, option := range options {
		if err := t.Say("  %d  %s", i+1, option); err != nil {
			return 0, err
		}
	}
	chosen := 0
	_, err := t.Line(ctx, "Number", strconv.Itoa(otherwise+1), func(answer string) error {
		n, err := strconv.Atoi(answer)
		if err != nil || n < 1 || n > len(options) {
			return fmt.Errorf("%q is not a number from 1 to %d", answer, len(options))
		}
		chosen = n - 1
		return nil
	})
	return chosen, err
}

// Yes asks whether something is so.
func (t *Talk) Yes(ctx context.Context, question string, otherwise bool) (bool, error) {
	usual := map[bool]string{true: "yes", false: "no"}
	is := false
	_, err := t.Line(ctx, question, usual[otherwise], func(answer string) error {
		switch strings.ToLower(answer) {
		case "y", "yes":
			is = true
		case "n", "no":
			is = false
		default:
			return fmt.Errorf("%q is neither yes nor no", answer)
		}
		return nil
	})
	return is, err
}
