package daemon

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/api/seed"
	seeds "github.com/holdfast-os/holdfast/internal/seed"
)

// nobody is a keyboard in front of which is nobody.
type nobody struct{}

func (nobody) Listen(func(string)) (stop func()) { return func() {} }

// A seed that is sealed to a passphrase waits for somebody who types it, on whichever console
// there is. Nothing of it shows, a wrong one is said and may be followed by the right one, and
// the keyboards are left as they were.
func TestNodeSeed_SealedToAPassphrase_IsTypedAtTheMachine(t *testing.T) {
	const passphrase = "correct horse"
	to, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		t.Fatal(err)
	}
	to.SetWorkFactor(10) // it is tried three times
	sealed, err := seeds.Seal("update.yaml", []byte("channel: testing"), to)
	if err != nil {
		t.Fatal(err)
	}
	root := consoleRoot(t, "tty0 ttyS0")
	vga := pseudo(t, filepath.Join(root, "dev/tty1"), 100, 30)
	line := pseudo(t, filepath.Join(root, "dev/ttyS0"), 0, 0)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s := newScreens(ctx, root, slog.New(slog.DiscardHandler))
	node := newNodeSeed(t, t.TempDir(), partitionWith(t, sealed), sticks{})
	node.message, node.typed = s.Message, newTypedKeys(s, s.Message)
	before := []bool{echoes(t, vga), echoes(t, line)}
	if _, err := node.Read(t.Context()); err == nil || !strings.Contains(err.Error(), "type the passphrase here") {
		t.Fatalf("got %v", err)
	}
	if _, err := vga.WriteString(passphrase + "\r"); err != nil { // too early: it is dropped
		t.Fatal(err)
	}
	if err := s.Start(ctx, nil); err != nil { // after the question, since the seed may name consoles
		t.Fatal(err)
	}
	if echoes(t, line) {
		t.Error("what is typed on the serial line shows")
	}
	var shown strings.Builder
	for _, typed := range []struct{ text, want string }{{"\r\x04wrong one\r", "does not open it"}, {"corrupt\x7f\x7f\x7fect horse\r", ""}} {
		came := node.typed.Came()
		if _, err := line.WriteString(typed.text); err != nil {
			t.Fatal(err)
		}
		<-came
		shown.WriteString(until(t, line, "trying what was typed"))
		set, err := node.Read(t.Context())
		switch {
		case typed.want != "" && (err == nil || !strings.Contains(err.Error(), typed.want)):
			t.Fatalf("got %v", err)
		case typed.want == "" && err != nil:
			t.Fatal(err)
		case typed.want == "":
			if diff := cmp.Diff(&seeds.Set{Update: &seed.Update{}}, set, cmp.Transformer("there", func(u seed.Update) bool { return true })); diff != "" {
				t.Error(diff)
			}
		}
	}
	if strings.Contains(shown.String(), "wrong one") || strings.Contains(shown.String(), "horse") {
		t.Errorf("what was typed shows: %q", shown.String())
	}
	if keys := node.typed.Keys(); len(keys) > 0 {
		t.Errorf("%d keys are kept", len(keys))
	}
	cancel()
	s.shows.Wait()
	if diff := cmp.Diff(before, []bool{echoes(t, vga), echoes(t, line)}); diff != "" {
		t.Error("echo of both, wanted and found: ", diff)
	}
}

// What is no key at all is said at once, and does not make the node try anything.
func TestTypedKeys_NoKey_IsSaidAndNotTried(t *testing.T) {
	var said []string
	typed := newTypedKeys(nobody{}, func(level, text string) { said = append(said, level+" "+text) })
	came := typed.Came()
	typed.take("AGE-SECRET-KEY-1MISTYPED")
	select {
	case <-came:
		t.Error("it is tried")
	default:
	}
	if len(said) != 1 || !strings.HasPrefix(said[0], "error the seed: what was typed: a line that should be a private key of age") || strings.Contains(said[0], "MISTYPED") {
		t.Errorf("got %q", said)
	}
	for range 2 * maxTyped {
		typed.take("a passphrase")
	}
	if got := len(typed.Keys()); got != maxTyped {
		t.Errorf("%d keys are tried", got)
	}
}

// A phase that waits for somebody goes on as soon as they have done it, not when the pause of
// up to a minute is over.
func TestRunner_SomebodyHasDoneIt_TriesAtOnce(t *testing.T) {
	done, failed := make(chan struct{}), 0
	r := &runner{
		clock: Clock{Now: time.Now, SinceBoot: func() time.Duration { return 0 }, After: func(time.Duration) <-chan time.Time { return nil }},
		log:   slog.New(slog.DiscardHandler), boot: &bootRecord{}, began: func(string) {},
		failed: func(string, error, time.Duration) { failed++; close(done) },
		sooner: func() <-chan struct{} { return done },
	}
	tries := 0
	err := r.all(t.Context(), []phase{{name: "seed", run: func(context.Context) error {
		if tries++; tries == 1 {
			return errors.New("sealed")
		}
		return nil
	}}})
	if err != nil || tries != 2 || failed != 1 {
		t.Errorf("%d tries, %d failed: %v", tries, failed, err)
	}
}
