package browser

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	api "github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/test/browser/drive"
)

// behind is what the test's image has behind the partition of the seed.
var behind = strings.Repeat("the slots of the release ", 1000)

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

// tab is a page with what only these tests need.
type tab struct {
	t *testing.T
	*drive.Tab
}

func openBrowser(t *testing.T, program string) tab {
	t.Helper()
	return tab{t, drive.Open(t, program)}
}

// dark takes a picture of the page as those see it who like it dark.
func (b tab) dark(name string) {
	b.t.Helper()
	feature := func(name string) drive.Step {
		return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
			_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
				Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}},
			})
			return err
		})
	}
	b.Run(feature("dark"))
	b.picture(name)
	b.Run(feature("light"))
}

// download clicks on something, waits for the file, and gives its content.
func (b tab) download(selector, name string) []byte {
	b.t.Helper()
	data, err := os.ReadFile(b.Save(selector, name, drive.Patience))
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
