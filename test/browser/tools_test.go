package browser

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	cdpbrowser "github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	api "github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/cli"
	"github.com/holdfast-os/holdfast/internal/layout"
)

// patience is how long a page may take for one step; it ends a test that hangs.
const patience = time.Minute

// behind is what the test's image has behind the partition of the seed.
var behind = strings.Repeat("the slots of the release ", 1000)

func needChromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Skip("missing program: chromium")
	return ""
}

// medium is an image with the real partition table's places and hardly any content.
var medium = sync.OnceValues(func() ([]byte, error) {
	var packed bytes.Buffer
	w, err := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	zeros := make([]byte, 1<<20)
	for range (layout.SeedOffset() + layout.Size(layout.Seed)) / int64(len(zeros)) {
		if _, err := w.Write(zeros); err != nil {
			return nil, err
		}
	}
	_, err = io.WriteString(w, behind)
	err = errors.Join(err, w.Close())
	return packed.Bytes(), err
})

// publish makes a release tree with an image for disks, the same for CDs, and Incus.
func publish(t *testing.T) string {
	t.Helper()
	const version = "202611220104"
	image, err := medium()
	if err != nil {
		t.Fatal(err)
	}
	u := api.Update{Format: api.Format, Channels: []string{"stable"}, Severity: api.SeverityNone, Version: version,
		PublishedAt: time.Date(2026, 11, 22, 1, 4, 0, 0, time.UTC), URL: "/" + version}
	dir := t.TempDir()
	for _, f := range []struct {
		name      string
		component api.Component
		kind      api.Type
		content   []byte
	}{
		{"Holdfast_" + version + ".img.gz", api.ComponentOS, api.TypeImageRaw, image},
		{"Holdfast_" + version + ".iso.gz", api.ComponentOS, api.TypeImageISO, image},
		{"incus.raw.gz", api.ComponentIncus, api.TypeApplication, []byte("not unpacked here")},
	} {
		sum := sha256.Sum256(f.content)
		u.Files = append(u.Files, api.File{Architecture: "x86_64", Component: f.component, Filename: "x86_64/" + f.name,
			SHA256: hex.EncodeToString(sum[:]), Size: int64(len(f.content)), Type: f.kind})
		write(t, filepath.Join(dir, version, "x86_64", f.name), f.content)
	}
	text, err := json.Marshal(api.Index{Format: api.Format, Updates: []api.Update{u}})
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "index.json"), text)
	return dir
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o600)); err != nil {
		t.Fatal(err)
	}
}

// serve runs the command as a person does, and gives the address that it prints.
func serve(t *testing.T, tree string) string {
	t.Helper()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	out, printed := io.Pipe()
	var log bytes.Buffer
	ended := make(chan int, 1)
	go func() {
		ended <- cli.Run(ctx, []string{"image", "serve", tree, "--listen", "127.0.0.1:0"},
			cli.Env{Getenv: func(string) string { return "" }, Dir: tree, Stdin: strings.NewReader(""), Stdout: printed, Stderr: &log})
		printed.Close()
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	_, address, found := strings.Cut(strings.TrimSpace(line), " at ")
	t.Cleanup(func() {
		stop()
		if code := <-ended; code != cli.ExitOK || t.Failed() {
			t.Errorf("holdfast image serve ended with %d:\n%s", code, &log)
		}
	})
	if err != nil || !found {
		t.Fatalf("holdfast image serve printed %q: %v", line, err)
	}
	return address
}

// tab is one page of a browser.
type tab struct {
	t    *testing.T
	ctx  context.Context
	dir  string
	done chan string

	mu    sync.Mutex
	wrong []string
}

func openBrowser(t *testing.T, program string) *tab {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program), chromedp.NoSandbox,
		chromedp.WindowSize(1280, 1150), chromedp.UserDataDir(t.TempDir()))
	ctx, stop := chromedp.NewExecAllocator(context.WithoutCancel(t.Context()), options...)
	t.Cleanup(stop)
	ctx, closeTab := chromedp.NewContext(ctx)
	t.Cleanup(closeTab)
	b := &tab{t: t, ctx: ctx, dir: t.TempDir(), done: make(chan string, 16)}
	// The first call starts the browser, whose life must not end with one step.
	err := errors.Join(chromedp.Listen(ctx, b.listen), chromedp.ListenBrowser(ctx, b.listen))
	if err != nil {
		t.Fatalf("starting %s: %v", program, err)
	}
	enabled := true
	b.run(chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
		_, err := chromedp.CallBrowser(ctx, cdpbrowser.SetDownloadBehavior, cdpbrowser.SetDownloadBehaviorParams{
			Behavior: cdpbrowser.SetDownloadBehaviorBehaviorAllow, DownloadPath: b.dir, EventsEnabled: &enabled,
		})
		return err
	}))
	return b
}

func (b *tab) listen(event any) {
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

func (b *tab) complain(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wrong = append(b.wrong, text)
}

func (b *tab) troubles() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.wrong
}

// step is something that is done in the page.
type step = chromedp.Action[chromedp.Void]

func click(selector string) step        { return chromedp.Click(chromedp.CSS(selector)) }
func typeIn(selector, text string) step { return chromedp.SendKeys(chromedp.CSS(selector), text) }
func focus(selector string) step        { return chromedp.Focus(chromedp.CSS(selector)) }
func present(selector string) step      { return chromedp.WaitReady(chromedp.CSS(selector)) }
func visible(selector string) step      { return chromedp.WaitVisible(chromedp.CSS(selector)) }
func hidden(selector string) step       { return chromedp.WaitNotVisible(chromedp.CSS(selector)) }

func (b *tab) run(steps ...step) {
	b.t.Helper()
	value(b, chromedp.Steps(steps...))
}

// value does something that has a result.
func value[T any](b *tab, action chromedp.Action[T]) T {
	b.t.Helper()
	ctx, stop := context.WithTimeout(b.ctx, patience)
	defer stop()
	v, err := chromedp.Run(ctx, action)
	if err != nil {
		b.t.Fatalf("%v; the browser complains: %q", err, b.troubles())
	}
	return v
}

// text evaluates an expression that is a text.
func (b *tab) text(expression string) string {
	b.t.Helper()
	return value(b, chromedp.Evaluate[string](expression))
}

// choose sets a field to a value, as a person who clicks and types.
func (b *tab) choose(id, value string) {
	b.t.Helper()
	b.text(`(() => { const e = document.getElementById("` + id + `"); e.value = "` + value + `";
	  e.dispatchEvent(new Event("input", {bubbles: true})); return e.value; })()`)
}

// clear empties fields.
func (b *tab) clear(ids ...string) {
	b.t.Helper()
	for _, id := range ids {
		b.choose(id, "")
	}
}

// dark takes a picture of the page as those see it who like it dark.
func (b *tab) dark(name string) {
	b.t.Helper()
	feature := func(name string) step {
		return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
			_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
				Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}},
			})
			return err
		})
	}
	b.run(feature("dark"))
	b.picture(name)
	b.run(feature("light"))
}

// download clicks on something, waits for the file, and gives its content.
func (b *tab) download(selector, name string) []byte {
	b.t.Helper()
	b.run(click(selector))
	select {
	case state := <-b.done:
		if state != "completed" {
			b.t.Fatalf("the download of %s is %s", name, state)
		}
	case <-time.After(patience):
		b.t.Fatalf("the download of %s does not end; the page says %q", name, b.text(`document.getElementById("state").textContent`))
	}
	data, err := os.ReadFile(filepath.Join(b.dir, name))
	if err != nil {
		b.t.Fatal(err)
	}
	return data
}

// tarMembers are names and contents, in order.
func tarMembers(t *testing.T, archive []byte) (all [][2]string) {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, [2]string{h.Name, string(text)})
	}
}
