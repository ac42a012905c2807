package customizer_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-os/holdfast/internal/customizer"
	"github.com/holdfast-os/holdfast/internal/media"
	"github.com/holdfast-os/holdfast/internal/release"
	"github.com/holdfast-os/holdfast/internal/seed"
	"github.com/holdfast-os/holdfast/internal/smime/smimetest"
	"github.com/holdfast-os/holdfast/internal/splice"
	"github.com/holdfast-os/holdfast/test/needs"
)

// mediumRegion is the seed's partition of medium.
var mediumRegion = splice.Region{Offset: 2 * mib, Size: 4 * mib}

func inMedium(o *customizer.Options) { o.Region = mediumRegion }

// medium is a small disk image with a partition table: an ESP with sectors of so many bytes,
// the seed, and a slot.
func medium(t *testing.T, sector int) []byte {
	t.Helper()
	needs.Programs(t, "sfdisk")
	const size = 8*mib + 4096
	path := filepath.Join(t.TempDir(), "medium.raw")
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), "sfdisk", "--quiet", "--no-tell-kernel", path)
	c.Stdin = strings.NewReader("label: gpt\nunit: sectors\nstart=2048, size=2048, type=U\nstart=4096, size=8192\nstart=12288, size=2048\n")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	image[mib+11], image[mib+12] = byte(sector), byte(sector>>8)
	copy(image[mediumRegion.Offset:], "an earlier seed")
	copy(image[6*mib:], bytes.Repeat([]byte("the slot "), 10_000))
	return image
}

// signer signs without openssl.
type signer struct {
	t   *testing.T
	key smimetest.Signer
}

func (s signer) SignSMIME(_ context.Context, data []byte) ([]byte, error) {
	return s.key.Sign(s.t, string(data)), nil
}

// released is a service over a tree that our own program has published, with one medium.
func released(t *testing.T, image []byte, change ...func(*customizer.Options)) *world {
	t.Helper()
	const version, uuid = "202611220104", "11111111-2222-3333-4444-555555555555"
	prefix, build := "Holdfast_"+version, t.TempDir()
	for name, data := range map[string][]byte{
		"version":                               []byte(version),
		prefix + ".efi":                         []byte("the UKI"),
		prefix + ".raw":                         image,
		prefix + ".usr-x86-64." + uuid + ".raw": []byte("usr"),
		prefix + ".usr-x86-64-verity." + uuid + ".raw":     []byte("tree"),
		prefix + ".usr-x86-64-verity-sig." + uuid + ".raw": []byte("signature"),
		"operations-center.raw":                            []byte("the application"),
	} {
		if err := os.WriteFile(filepath.Join(build, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w := &world{t: t, tree: filepath.Join(t.TempDir(), "tree"), clock: &clock{now: time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)}}
	now := time.Date(2026, 11, 22, 1, 4, 0, 0, time.UTC)
	_, err := release.Publish(t.Context(), release.PublishOptions{Tree: w.tree, BuildDir: build, Now: now, IncludeMedium: true,
		Signer: signer{t, smimetest.New(t, "publisher", now)}})
	if err != nil {
		t.Fatal(err)
	}
	w.serve(append(change, inMedium)...)
	return w
}

// cdOf is what `holdfast image iso` makes of an image.
func cdOf(t *testing.T, image []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if _, err := media.Stream(t.Context(), bytes.NewReader(image), &out, media.ISO); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// A release of ours has a disk image alone, and the guides of others ask for a CD.
func TestImages_RequestOfTheGuideToOurRelease_GivesACDOfItsImage(t *testing.T) {
	w := released(t, medium(t, 4096))
	made := metadata[map[string]string](t, w.do("POST", "/1.0/images", guide))
	got := w.do("GET", made["image"], "", "Accept-Encoding", "gzip")
	equal(t, "status", got.status, 200)
	equal(t, "encoding", got.header.Get("Content-Encoding"), "gzip")
	equal(t, "name", got.header.Get("Content-Disposition"), "attachment; filename=Holdfast_202611220104.iso")
	cd := unpack(t, got.body)

	disk := metadata[map[string]string](t, w.do("POST", "/1.0/images", strings.Replace(guide, `"iso"`, `"raw"`, 1)))
	want := cdOf(t, w.do("GET", disk["image"]+".img", "").body)
	if !bytes.Equal(cd, want) {
		t.Errorf("the CD of %d bytes is not what `image iso` makes of the disk image, of %d bytes", len(cd), len(want))
	}
	set, err := seed.Parse(bytes.NewReader(cd[mediumRegion.Offset : mediumRegion.Offset+mediumRegion.Size]))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "application", set.Applications.Applications[0].Name, "operations-center")
}

// A CD has all that a disk image has: a lasting link, both forms, its length and entity tag
// before the first byte, and a download that goes on where it was cut.
func TestLinks_CDOfADiskImage_HaveFormsLengthTagAndRanges(t *testing.T) {
	w := released(t, medium(t, 4096))
	asked := metadata[shown](t, w.do("POST", "/1.0/choices", guide))
	equal(t, "file", asked.File, "Holdfast_202611220104.iso")
	link := func(ending string) string { return strings.Replace(asked.Link, "?", ending+"?", 1) }
	plain := w.do("GET", link(".iso"), "")
	packed := w.do("GET", link(".iso.gz"), "")
	if !bytes.Equal(unpack(t, packed.body), plain.body) {
		t.Error("the packed form is another CD")
	}
	for form, whole := range map[string]response{".iso": plain, ".iso.gz": packed} {
		head := w.do("HEAD", link(form), "")
		equal(t, form+" length", head.header.Get("Content-Length"), whole.header.Get("Content-Length"))
		equal(t, form+" tag", head.header.Get("ETag"), whole.header.Get("ETag"))
		begin := w.do("GET", link(form), "", "Range", "bytes=0-999")
		rest := w.do("GET", link(form), "", "Range", "bytes=1000-", "If-Range", begin.header.Get("ETag"))
		equal(t, form+" status", rest.status, 206)
		if !bytes.Equal(append(begin.body, rest.body...), whole.body) {
			t.Errorf("%s: cut and resumed it is another file", form)
		}
	}
	equal(t, "as a disk image", w.do("GET", link(".img"), "").status, 404)
	disk := metadata[shown](t, w.do("POST", "/1.0/choices", strings.Replace(guide, `"iso"`, `"raw"`, 1)))
	if tag := w.do("HEAD", strings.Replace(disk.Link, "?", ".img?", 1), "").header.Get("ETag"); tag == plain.header.Get("ETag") {
		t.Error("the disk image has the entity tag of the CD")
	}
	used := metadata[map[string]string](t, w.do("POST", "/1.0/images", guide))["image"]
	equal(t, "once", w.do("GET", used, "").status, 200)
	equal(t, "twice", w.do("GET", used, "").status, 404)
	w.serve(inMedium) // it finds the prepared image
	equal(t, "after a restart", w.do("HEAD", link(".iso"), "").header.Get("ETag"), plain.header.Get("ETag"))
}

// The page offers what can be had.
func TestReleases_WithADiskImage_OfferACDToo(t *testing.T) {
	w := released(t, medium(t, 4096))
	equal(t, "releases", string(w.do("GET", "/1.0/releases", "").envelope(t).Metadata), `{"releases":[`+
		`{"version":"202611220104","channels":["stable"],"published_at":"2026-11-22T01:04:00Z","architectures":{"x86_64":{"types":["raw","iso"],"applications":["operations-center"]}}}]}`)
}

// Firmware reads a CD over the network, too.
func TestBoot_CDOfADiskImage_IsServed(t *testing.T) {
	image := medium(t, 4096)
	w := released(t, image, func(o *customizer.Options) {
		o.Boot = map[string]customizer.Choice{"cd": choiceOf(t, `{"architecture":"x86_64","type":"iso","seeds":{"install":{}}}`)}
	})
	got := w.do("GET", "/boot/cd.iso", "")
	equal(t, "status", got.status, 200)
	equal(t, "type", got.header.Get("Content-Type"), "application/vnd.efi-iso")
	clear(image[mediumRegion.Offset : mediumRegion.Offset+mediumRegion.Size])
	archive, err := choiceOf(t, `{"architecture":"x86_64","type":"iso","seeds":{"install":{}}}`).Archive()
	if err != nil {
		t.Fatal(err)
	}
	copy(image[mediumRegion.Offset:], archive)
	if !bytes.Equal(got.body, cdOf(t, image)) {
		t.Error("the CD is not that of the image")
	}
}

// A CD that could not be started from must not go out; the disk image still does.
func TestImages_CDOfAnImageThatCannotBeOne_IsRefused(t *testing.T) {
	for name, image := range map[string][]byte{"small sectors": medium(t, 512), "no partition table": make([]byte, 8*mib)} {
		w := released(t, image)
		got := w.do("POST", "/1.0/images", guide)
		equal(t, name, got.status, 404)
		equal(t, name, got.envelope(t).Error, "there is no such release: version 202611220104 has no iso image for x86_64, and none can be made of its raw image: the log of the service says why")
		equal(t, name, w.do("POST", "/1.0/images", strings.Replace(guide, `"iso"`, `"raw"`, 1)).status, 200)
	}
}
