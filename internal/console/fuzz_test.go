package console_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/console"
)

// foreign is a screen all of whose texts are foreign.
func foreign(text, state string, width, height, many int, seconds int64) console.Screen {
	lists := make([]string, max(many, 0)%300)
	for i := range lists {
		lists[i] = text[min(i, len(text)):]
	}
	s := console.Screen{
		Name: text, Product: text, Version: text, State: console.State(state), Fingerprint: text, Phase: text,
		Addresses: lists, Applications: lists, Warnings: lists, Done: seconds, Total: int64(many), Width: width, Height: height,
		Now: time.Unix(seconds%1e10, 0),
	}
	for i, text := range lists {
		s.Messages = append(s.Messages, console.Message{At: time.Unix(int64(i), 0), Level: state, Text: text})
	}
	if many%2 == 0 {
		s.Pending = &console.Pending{Sections: lists, Who: text, Until: time.Unix(seconds%1e10, 0)}
	}
	if many%3 == 0 {
		s.Problem = &console.Problem{Text: text, Again: time.Unix(seconds%1e10, 0), Help: lists}
	}
	return s
}

// Host names, addresses and errors of other programs must not be able to steer the
// screen: whatever they are, a picture has its size, and no control sequence but colours.
func FuzzRender(f *testing.F) {
	f.Add("\x1b[2J\x07red\nalert\u202e", "ready", 80, 24, 3, int64(1))
	f.Add("日本語 e\u0301\x9b\xff", "installing", 160, 50, 6, int64(50))
	f.Add(strings.Repeat("long ", 500), "installation failed", 1<<30, -5, 299, int64(-1))
	f.Fuzz(func(t *testing.T, text, state string, width, height, many int, seconds int64) {
		s := foreign(text, state, width, height, many, seconds)
		plain := shown(t, console.Render(s)+"\n", s)
		s.Colours = console.Sixteen
		if diff := cmp.Diff(plain, shown(t, console.Render(s)+"\n", s)); diff != "" {
			t.Error(diff)
		}
	})
}
