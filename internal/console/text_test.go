package console

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// A name or an error of another program may have anything in it; a terminal must see
// nothing that it obeys.
func TestClean_WhatATerminalObeys_IsTakenAway(t *testing.T) {
	for text, want := range map[string]string{
		"plain, grün, 日本":        "plain, grün, 日本",
		"\x1b[2Jgone":            "[2Jgone",
		"bell\x07 back\x08":      "bell back",
		"c1 \u009b31m \u0085end": "c1 31m  end",
		"raw c1 \x9b31m":         "raw c1 ?31m",
		"turned \u202edne":       "turned dne",
		"two\r\nlines\tand tab":  "two  lines and tab",
		"half \xe6\x97":          "half ??",
		"hidden \u200b\ufeff!":   "hidden !",
	} {
		if diff := cmp.Diff(want, clean(text)); diff != "" {
			t.Errorf("%q: %s", text, diff)
		}
	}
}

func TestCells_WideAndCombining_CountAsATerminalDoes(t *testing.T) {
	for text, want := range map[string]int{
		"": 0, "abc": 3, "grün": 4, "日本語": 6, "한국어": 6, "ｆｕｌｌ": 8, "ﾊﾝｶｸ": 4, "e\u0301": 1, "🚀": 2, "ᄒ\u1161\u11ab": 2, "…": 1,
	} {
		if got := cells(text); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}

func TestWrap_Texts_BreakAtSpaces(t *testing.T) {
	for _, c := range []struct {
		text           string
		columns, limit int
		want           []string
	}{
		{"", 10, 3, []string{""}},
		{"one two three", 10, 3, []string{"one two", "three"}},
		{"  one   two  ", 10, 3, []string{"one two"}},
		{"abcdefghijklmnopqrstuvwxyz", 10, 3, []string{"abcdefghij", "klmnopqrst", "uvwxyz"}},
		{"abcdefghijklmnopqrstuvwxyz", 10, 2, []string{"abcdefghij", "klmnopq..."}},
		{"one two three four five", 9, 2, []string{"one two", "three..."}},
		{"日本語日本語", 5, 3, []string{"日本", "語日", "本語"}},
		{"日本語日本語", 5, 2, []string{"日本", "語..."}},
		{"ends here", 9, 1, []string{"ends here"}},
	} {
		if diff := cmp.Diff(c.want, wrap(c.text, c.columns, c.limit)); diff != "" {
			t.Errorf("%q in %d columns, %d lines: %s", c.text, c.columns, c.limit, diff)
		}
	}
}

func TestFit_TooLong_EndsInAnEllipsis(t *testing.T) {
	for _, c := range []struct {
		text    string
		columns int
		want    string
	}{
		{"abcdef", 6, "abcdef"}, {"abcdefg", 6, "abc..."}, {"日本語日", 7, "日本..."}, {"abc", 2, ".."}, {"abc", 0, ""},
	} {
		if got := fit(c.text, c.columns); got != c.want {
			t.Errorf("%q in %d: %q, want %q", c.text, c.columns, got, c.want)
		}
	}
}

// A list says how many of it had no room.
func TestList_TooMany_SaysHowManyAreLeft(t *testing.T) {
	for _, c := range []struct {
		values         []string
		columns, limit int
		want           []string
	}{
		{nil, 20, 2, []string{"none yet"}},
		{[]string{"10.0.0.1", "10.0.0.2"}, 20, 1, []string{"10.0.0.1, 10.0.0.2"}},
		{[]string{"10.0.0.1", "10.0.0.2", "10.0.0.3"}, 20, 1, []string{"10.0.0.1 and 2 more"}},
		{[]string{strings.Repeat("x", 99)}, 20, 1, []string{"1, too long to be..."}},
	} {
		if diff := cmp.Diff(c.want, list(c.values, c.columns, c.limit)); diff != "" {
			t.Errorf("%q: %s", c.values, diff)
		}
	}
}

func TestShorten_LongText_IsCutAtACharacter(t *testing.T) {
	if diff := cmp.Diff([]string{"abc", "日...", "abcde..."}, []string{shorten("abc", 8), shorten("日本語", 8), shorten("abcdefghi", 8)}); diff != "" {
		t.Error(diff)
	}
}

// Whatever the words are, they fit, and nothing but the end is lost.
func FuzzWrap(f *testing.F) {
	f.Add("one two three", 10, 3)
	f.Add("日本語 e\u0301 \x1b[2J", 5, 2)
	f.Fuzz(func(t *testing.T, foreign string, columns, limit int) {
		columns, limit = 4+abs(columns)%200, 1+abs(limit)%20
		lines := wrap(text(foreign), columns, limit)
		if len(lines) < 1 || len(lines) > limit {
			t.Errorf("%d lines, want 1 to %d", len(lines), limit)
		}
		for _, line := range lines {
			if cells(line) > columns || !utf8.ValidString(line) {
				t.Errorf("%q takes %d columns of %d", line, cells(line), columns)
			}
		}
	})
}

func abs(n int) int { return max(n, -(n + 1)) }
