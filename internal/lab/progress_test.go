package lab

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// In a log (no terminal) each phase is one line with its time.
func TestProgress_NoTerminal_OneLinePerPhase(t *testing.T) {
	var out bytes.Buffer
	path := filepath.Join(t.TempDir(), "times.json")
	clock := time.Unix(0, 0)
	p := newProgress(&out, path)
	p.now, p.prefix = func() time.Time { return clock }, "tcg "
	refused := errors.New("refused")
	if err := p.do("install", func() error { clock = clock.Add(82440 * time.Millisecond); return nil }); err != nil {
		t.Fatal(err)
	}
	if err := p.do("first boot", func() error { clock = clock.Add(time.Second); return refused }); err != refused {
		t.Errorf("got %v", err)
	}
	p.note("ready at %s", "home")
	want := "install                   82.4 s\nfirst boot                 1.0 s  not done\nready at home\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
	if err := p.save(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// The phase that failed must not teach that it is quick.
	if diff := cmp.Diff(`{"version":1,"seconds":{"tcg install":82.44}}`, string(raw)); diff != "" {
		t.Errorf("times (-want +got):\n%s", diff)
	}
	again := newProgress(&out, path)
	again.prefix = "tcg "
	if got := again.usually("install"); got != 82440*time.Millisecond {
		t.Errorf("the next run believes %v", got)
	}
}

// On a terminal a person sees how far it is and how long it usually takes.
func TestLiveLine_Width_IsKept(t *testing.T) {
	for _, c := range []struct {
		so, usually time.Duration
		hint        string
		width       int
		want        string
	}{
		{41 * time.Second, 82 * time.Second, "", 80, "install  0:41 (usually 1:22)"},
		{61 * time.Second, 0, "", 80, "install  1:01"},
		{41 * time.Second, 82 * time.Second, "Reached target", 80, "install  0:41 (usually 1:22)  Reached target"},
		{41 * time.Second, 82 * time.Second, "Größe", 34, "install  0:41 (usually 1:22)  Grö"},
	} {
		if got := liveLine("install", c.so, c.usually, c.hint, c.width); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}
