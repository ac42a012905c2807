package prompt

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func talk(t *testing.T, typed string) (*Talk, *bytes.Buffer) {
	t.Helper()
	var shown bytes.Buffer
	p := New(strings.NewReader(typed), &shown)
	t.Cleanup(p.Close)
	return p, &shown
}

// A slip of the finger costs a second answer, and no more.
func TestTalk_WrongAnswers_AreAskedForAgain(t *testing.T) {
	p, shown := talk(t, "\nseven\n4\n2\nperhaps\nY\n"+strings.Repeat("x", 5000)+"\nout.img\n")
	ctx := t.Context()
	disk, err1 := p.Line(ctx, "Disk", "nvme", nil)
	number, err2 := p.Choose(ctx, "Which?", []string{"this", "that"}, 0)
	is, err3 := p.Yes(ctx, "Go on?", false)
	name, err4 := p.Line(ctx, "File", "", func(s string) error {
		if s == "" {
			return errors.New("a name is needed")
		}
		return nil
	})
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	type answers struct {
		Disk   string
		Number int
		Is     bool
		Name   string
	}
	if diff := cmp.Diff(answers{"nvme", 1, true, "out.img"}, answers{disk, number, is, name}); diff != "" {
		t.Error(diff)
	}
	want := "Disk [nvme]: Which?\n  1  this\n  2  that\n" +
		"Number [1]:   \"seven\" is not a number from 1 to 2\nNumber [1]:   \"4\" is not a number from 1 to 2\nNumber [1]: " +
		"Go on? [no]:   \"perhaps\" is neither yes nor no\nGo on? [no]: " +
		"File:   an answer has at most 4095 bytes\nFile: "
	if diff := cmp.Diff(want, shown.String()); diff != "" {
		t.Error(diff)
	}
}

// Who leaves in the middle has agreed to nothing; the last line may lack its end.
func TestTalk_InputEnds_IsErrGone(t *testing.T) {
	p, _ := talk(t, "yes\nno")
	first, err1 := p.Yes(t.Context(), "First?", false)
	second, err2 := p.Yes(t.Context(), "Second?", true)
	_, err3 := p.Yes(t.Context(), "Third?", true)
	if !first || second || err1 != nil || err2 != nil || !errors.Is(err3, ErrGone) {
		t.Errorf("%v %v, %v %v, %v", first, err1, second, err2, err3)
	}
}

// A stream of nonsense is no person.
func TestTalk_EndlessNonsense_ComesToAnEnd(t *testing.T) {
	p, _ := talk(t, strings.Repeat("what\n", 1000))
	if _, err := p.Yes(t.Context(), "Go on?", false); !errors.Is(err, ErrGone) {
		t.Errorf("got %v", err)
	}
}

// Ctrl-C must not wait for a line.
func TestTalk_ContextEnds_WaitsForNoLine(t *testing.T) {
	in, person := io.Pipe()
	defer person.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := New(in, io.Discard)
	defer p.Close()
	if _, err := p.Line(ctx, "Name", "", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
