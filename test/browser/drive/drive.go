// Package drive steers a real browser, headless, as a person uses it, for the tests of the
// project's pages: those of the page alone (test/browser), and those that go on with a
// virtual machine (test/vm).
//
// A Tab is one page of a browser of its own, with an empty profile and a folder for what it
// downloads. Whatever cannot be done within its Patience ends the test, with what the browser
// complained about. What a page logs as an error, and exceptions that nobody caught, are kept
// (Troubles): a page that works has none.
//
// What can fail: no Chromium is installed (Chromium skips the test), or it does not start.
package drive

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	cdpbrowser "github.com/chromedp/cdproto/browser"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/holdfast-os/holdfast/test/needs"
)

// Patience is how long a page may take for one step; it ends a test that hangs.
const Patience = time.Minute

// Chromium finds the browser, and skips the test where there is none.
func Chromium(t testing.TB) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	needs.Missing(t, "program: chromium")
	return ""
}

// Tab is one page of a browser. It ends with the test.
type Tab struct {
	t    testing.TB
	ctx  context.Context
	dir  string
	done chan string

	mu    sync.Mutex
	wrong []string
}

// Open starts a browser; what it downloads goes to a folder of the test.
func Open(t testing.TB, program string) *Tab {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program), chromedp.NoSandbox,
		chromedp.WindowSize(1280, 1150), chromedp.UserDataDir(t.TempDir()))
	ctx, stop := chromedp.NewExecAllocator(context.WithoutCancel(t.Context()), options...)
	t.Cleanup(stop)
	ctx, closeTab := chromedp.NewContext(ctx)
	t.Cleanup(closeTab)
	b := &Tab{t: t, ctx: ctx, dir: t.TempDir(), done: make(chan string, 16)}
	// The first call starts the browser, whose life must not end with one step.
	err := errors.Join(chromedp.Listen(ctx, b.listen), chromedp.ListenBrowser(ctx, b.listen))
	if err != nil {
		t.Fatalf("starting %s: %v", program, err)
	}
	enabled := true
	b.Run(chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
		_, err := chromedp.CallBrowser(ctx, cdpbrowser.SetDownloadBehavior, cdpbrowser.SetDownloadBehaviorParams{
			Behavior: cdpbrowser.SetDownloadBehaviorBehaviorAllow, DownloadPath: b.dir, EventsEnabled: &enabled,
		})
		return err
	}))
	return b
}

func (b *Tab) listen(event any) {
	switch e := event.(type) {
	case *cdpbrowser.EventDownloadProgress:
		if e.State != cdpbrowser.DownloadProgressStateInProgress {
			b.done <- string(e.State)
		}
	case *runtime.EventExceptionThrown:
		b.complain((&chromedp.ExceptionError{ExceptionDetails: e.ExceptionDetails}).Error())
	case *cdplog.EventEntryAdded:
		// The answer to a choice with problems has the status 400, which browsers log.
		if e.Entry.Level == cdplog.EntryLevelError && e.Entry.Source != cdplog.EntrySourceNetwork {
			b.complain(e.Entry.Text)
		}
	}
}

func (b *Tab) complain(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wrong = append(b.wrong, text)
}

// Troubles are the complaints of the browser so far.
func (b *Tab) Troubles() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.wrong
}

// Step is something that is done in the page.
type Step = chromedp.Action[chromedp.Void]

// Navigate opens an address.
func Navigate(url string) Step { return chromedp.Navigate(url) }

// Click clicks on what a CSS selector names, once it can be seen.
func Click(selector string) Step { return chromedp.Click(chromedp.CSS(selector)) }

// TypeIn types a text into a field, behind what is there.
func TypeIn(selector, text string) Step { return chromedp.SendKeys(chromedp.CSS(selector), text) }

// Focus puts the keyboard on a field.
func Focus(selector string) Step { return chromedp.Focus(chromedp.CSS(selector)) }

// Key presses a key.
func Key(key string) Step { return chromedp.KeyEvent(key) }

// Present waits until something is in the page, Visible until it can be seen, and Hidden
// until it cannot.
func Present(selector string) Step { return chromedp.WaitReady(chromedp.CSS(selector)) }

// Visible waits until something can be seen.
func Visible(selector string) Step { return chromedp.WaitVisible(chromedp.CSS(selector)) }

// Hidden waits until something cannot be seen.
func Hidden(selector string) Step { return chromedp.WaitNotVisible(chromedp.CSS(selector)) }

// Run does steps, one after the other.
func (b *Tab) Run(steps ...Step) {
	b.t.Helper()
	Value(b, chromedp.Steps(steps...))
}

// Value does something that has a result.
func Value[T any](b *Tab, action chromedp.Action[T]) T {
	b.t.Helper()
	ctx, stop := context.WithTimeout(b.ctx, Patience)
	defer stop()
	v, err := chromedp.Run(ctx, action)
	if err != nil {
		b.t.Fatalf("%v; the browser complains: %q; it shows:\n%s", err, b.Troubles(), b.shown())
	}
	return v
}

// shown is what a person reads in the page, as far as it can be had.
func (b *Tab) shown() string {
	ctx, stop := context.WithTimeout(b.ctx, 5*time.Second)
	defer stop()
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string](`location.href + "\n" + document.body.innerText.slice(0, 4000)`))
	if err != nil {
		return err.Error()
	}
	return text
}

// Text evaluates an expression that is a text.
func (b *Tab) Text(expression string) string {
	b.t.Helper()
	return Value(b, chromedp.Evaluate[string](expression))
}

// Choose sets a field, by its id, to a value, as a person who clicks and types.
func (b *Tab) Choose(id, value string) {
	b.t.Helper()
	b.Text(`(() => { const e = document.getElementById(` + strconv.Quote(id) + `); e.value = ` + strconv.Quote(value) + `;
	  e.dispatchEvent(new Event("input", {bubbles: true})); return e.value; })()`)
}

// Clear empties fields.
func (b *Tab) Clear(ids ...string) {
	b.t.Helper()
	for _, id := range ids {
		b.Choose(id, "")
	}
}

// Save clicks on something, waits at most limit for the file, and gives where it lies.
func (b *Tab) Save(selector, name string, limit time.Duration) string {
	b.t.Helper()
	b.Run(Click(selector))
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case state := <-b.done:
		if state != "completed" {
			b.t.Fatalf("the download of %s is %s; the browser shows:\n%s", name, state, b.shown())
		}
	case <-timer.C:
		b.t.Fatalf("the download of %s does not end within %s; the browser complains: %q; it shows:\n%s", name, limit, b.Troubles(), b.shown())
	}
	path := filepath.Join(b.dir, name)
	if _, err := os.Stat(path); err != nil {
		files, _ := filepath.Glob(filepath.Join(b.dir, "*")) // the pattern is sound
		b.t.Fatalf("the download of %s has ended, and there is %q: %v", name, files, err)
	}
	return path
}
