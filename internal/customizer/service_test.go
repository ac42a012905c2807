package customizer_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-os/holdfast/internal/customizer"
	"github.com/holdfast-os/holdfast/internal/seed"
	"github.com/holdfast-os/holdfast/test/needs"
)

// The request of Operations Center's guide, which people run with curl.
const guide = `{
  "seeds": {
    "install": {"version": "1", "force_install": false, "force_reboot": false},
    "applications": {"version": "1", "applications": [{"name": "operations-center"}]},
    "operations-center": {"version": "1"}
  },
  "type": "iso",
  "architecture": "x86_64"
}`

// seedIn is the seed of an unpacked image; the rest must be the release's.
func seedIn(t *testing.T, image []byte, release string) *seed.Set {
	t.Helper()
	set, err := seed.Parse(bytes.NewReader(image[region.Offset : region.Offset+region.Size]))
	if err != nil {
		t.Fatal(err)
	}
	want := raw(release)
	clear(want[region.Offset : region.Offset+region.Size])
	image = bytes.Clone(image)
	clear(image[region.Offset : region.Offset+region.Size])
	if !bytes.Equal(image, want) {
		t.Error("outside of the seed the image is not the release's")
	}
	return set
}

// Scripts that were written for the customizer of IncusOS go on working.
func TestImages_RequestOfTheGuide_GivesTheISOWithItsSeed(t *testing.T) {
	w := start(t)
	made := metadata[map[string]string](t, w.do("POST", "/1.0/images", guide, "Content-Type", "application/x-www-form-urlencoded"))
	got := w.do("GET", made["image"], "", "Accept-Encoding", "deflate, gzip")
	equal(t, "status", got.status, 200)
	equal(t, "encoding", got.header.Get("Content-Encoding"), "gzip")
	equal(t, "name", got.header.Get("Content-Disposition"), "attachment; filename=Holdfast_202611220104.iso")
	set := seedIn(t, unpack(t, got.body), "202611220104 iso")
	equal(t, "application", set.Applications.Applications[0].Name, "operations-center")
	if set.Install == nil || set.OperationsCenter == nil || set.Incus != nil {
		t.Errorf("the documents are others: %+v", set)
	}
}

// Every way to fetch the image gives the same image.
func TestFiles_EachForm_IsTheSameImage(t *testing.T) {
	w := start(t)
	for _, c := range []struct{ ending, accept, encoding, kind, name string }{
		{"", "", "", "application/gzip", "Holdfast_202611220104.img.gz"},
		{"", "gzip;q=0", "", "application/gzip", "Holdfast_202611220104.img.gz"},
		{"", "br, gzip", "gzip", "application/octet-stream", "Holdfast_202611220104.img"},
		{".img.gz", "gzip", "", "application/gzip", "Holdfast_202611220104.img.gz"},
		{".img", "gzip", "", "application/octet-stream", "Holdfast_202611220104.img"},
	} {
		made := metadata[map[string]string](t, w.do("POST", "/1.0/images", smallChoice))
		got := w.do("GET", made["image"]+c.ending, "", "Accept-Encoding", c.accept)
		equal(t, "encoding", got.header.Get("Content-Encoding"), c.encoding)
		equal(t, "type", got.header.Get("Content-Type"), c.kind)
		equal(t, "name", got.header.Get("Content-Disposition"), "attachment; filename="+c.name)
		image := got.body
		if c.encoding != "" || c.kind == "application/gzip" {
			image = unpack(t, image)
		}
		equal(t, "bus", seedIn(t, image, "202611220104").Install.Target.Bus, "nvme")
	}
}

// A link with somebody's secrets must not work for the next one who finds it.
func TestFiles_Link_WorksOnceAndForTenMinutes(t *testing.T) {
	w := start(t)
	link := func() string {
		return metadata[map[string]string](t, w.do("POST", "/1.0/images", smallChoice))["image"]
	}
	used := link()
	first := w.do("GET", used, "")
	equal(t, "first", first.status, 200)
	equal(t, "second", w.do("GET", used, "").status, 404)
	equal(t, "range without the tag", w.do("GET", used, "", "Range", "bytes=100-").status, 404)
	equal(t, "range with the tag", w.do("GET", used, "", "Range", "bytes=100-", "If-Range", first.header.Get("ETag")).status, 206)
	looked := link()
	equal(t, "head", w.do("HEAD", looked, "").status, 200)
	equal(t, "after head", w.do("GET", looked, "").status, 200)
	old := link()
	w.clock.move(10*time.Minute - time.Second)
	other := link()
	w.clock.move(time.Second)
	equal(t, "after ten minutes", w.do("GET", old, "").status, 404)
	equal(t, "before", w.do("GET", other, "").status, 200)
	equal(t, "unknown", w.do("GET", "/1.0/files/0e4cbb5b-3a4f-4ce4-a4bd-ff6ee5dd2f5f", "").status, 404)
}

// A download over a bad line goes on where it was cut.
func TestFiles_CutDownload_GoesOn(t *testing.T) {
	w := start(t)
	link := metadata[map[string]string](t, w.do("POST", "/1.0/images", smallChoice))["image"]
	begin := w.do("GET", link, "", "Range", "bytes=0-999")
	rest := w.do("GET", link, "", "Range", "bytes=1000-", "If-Range", begin.header.Get("ETag"))
	equal(t, "status", rest.status, 206)
	seedIn(t, unpack(t, append(begin.body, rest.body...)), "202611220104")
}

type shown struct {
	ID      string            `json:"id"`
	Version string            `json:"version"`
	File    string            `json:"file"`
	Link    string            `json:"link"`
	Secrets []string          `json:"secrets"`
	Files   []customizer.File `json:"files"`
}

// A link in a wiki must survive the service's restart, and another server must take it.
func TestLinks_AfterRestart_GiveTheSameBytes(t *testing.T) {
	w := start(t)
	asked := metadata[shown](t, w.do("POST", "/1.0/choices", smallChoice))
	short, _, _ := strings.Cut(asked.Link, "?")
	equal(t, "link", short, "/1.0/images/"+asked.ID)
	first := w.do("GET", short+".img.gz", "")
	equal(t, "by id", first.status, 200)
	w.serve()
	equal(t, "by id after a restart", w.do("GET", short, "").status, 404)
	again := w.do("GET", strings.Replace(asked.Link, "?", ".img.gz?", 1), "")
	equal(t, "whole link", again.status, 200)
	equal(t, "tag", again.header.Get("ETag"), first.header.Get("ETag"))
	if !bytes.Equal(again.body, first.body) {
		t.Error("other bytes")
	}
	equal(t, "unchanged", w.do("GET", short+".img.gz", "", "If-None-Match", first.header.Get("ETag")).status, 304)
	equal(t, "cut off", w.do("GET", asked.Link[:len(asked.Link)-4], "", "X", "").status, 200) // known by now
	w.serve()
	equal(t, "cut off on a new server", w.do("GET", asked.Link[:len(asked.Link)-4], "").status, 400)
	equal(t, "another id", w.do("GET", strings.Replace(asked.Link, asked.ID, strings.Repeat("0", 64), 1), "").status, 400)
}

// Links are kept by browsers, proxies and logs.
func TestLinks_ChoiceWithSecrets_HasNone(t *testing.T) {
	w := start(t)
	choice := `{"architecture":"x86_64","channel":"stable","seeds":{"provider":{"name":"images","config":{"token":"hunter2"}}},"type":"raw"}`
	asked := metadata[shown](t, w.do("POST", "/1.0/choices", choice))
	equal(t, "link", asked.Link, "")
	equal(t, "secrets", asked.Secrets, []string{"seeds.provider.config.token"})
	got := w.do("GET", "/1.0/images/"+asked.ID+"?choice="+base64.RawURLEncoding.EncodeToString([]byte(choice)), "")
	equal(t, "made by hand", got.status, 400)
	made := metadata[map[string]string](t, w.do("POST", "/1.0/images", choice))
	equal(t, "once", w.do("GET", made["image"], "").status, 200)
}

// A link without a version follows its channel; one with a version stays.
func TestChoices_Release_IsTheNewestOfTheChannelOrTheExactOne(t *testing.T) {
	w := start(t)
	for choice, want := range map[string]string{
		`{"architecture":"x86_64","type":"raw"}`:                                              "202611220104",
		`{"architecture":"x86_64","type":"raw","channel":"testing"}`:                          "202611230104",
		`{"architecture":"x86_64","type":"raw","channel":"testing","version":"202611220104"}`: "202611220104",
		`{"architecture":"x86_64","type":"raw","version":"202611230104"}`:                     "202611230104",
		`{"architecture":"x86_64","type":"iso","channel":"testing","seeds":{"install":{}}}`:   "202611230104",
	} {
		equal(t, choice, metadata[shown](t, w.do("POST", "/1.0/choices", choice)).Version, want)
	}
	equal(t, "another channel", w.do("POST", "/1.0/choices", `{"architecture":"x86_64","type":"raw","channel":"daily"}`).status, 404)
	equal(t, "another architecture", w.do("POST", "/1.0/images", `{"architecture":"aarch64","type":"raw"}`).status, 404)
}

// Everything else that can be asked, and what must be refused.
func TestAPI_Requests_AreAnsweredAsTheTableSays(t *testing.T) {
	w := start(t)
	for _, c := range []struct {
		method, path, body string
		header             []string
		status             int
		metadata           string
	}{
		{"GET", "/", "", nil, 200, `["/1.0"]`},
		{"GET", "/", "", []string{"User-Agent", "Mozilla/5.0 (X11) Gecko/20100101"}, 301, ""},
		{"GET", "/1.0", "", nil, 200, `{}`},
		{"GET", "/1.0/oidc?username=a", "", nil, 400, `null`},
		{"GET", "/1.0/nothing", "", nil, 404, `null`},
		{"GET", "/ui", "", nil, 301, ""},
		{"GET", "/ui/../../go.mod", "", nil, 307, ""},
		{"GET", "/ui/nothing.js", "", nil, 404, `null`},
		{"DELETE", "/1.0/images", "", nil, 405, `null`},
		{"GET", "/1.0/images", "", nil, 405, `null`},
		{"POST", "/1.0/images", "{", nil, 400, `null`},
		{"POST", "/1.0/images", `{"type":"raw","architecture":"x86_64","chanel":""}`, nil, 400,
			`{"problems":[{"path":"chanel","rule":"unknown-field","text":"there is no such field: known are architecture, channel, offline, seeds, type, version"}]}`},
		{"POST", "/1.0/images", `{"type":"` + strings.Repeat("a", mib) + `"}`, nil, 413, `null`},
		{"POST", "/1.0/updates", `{"components":["nothing"]}`, nil, 400,
			`{"problems":[{"path":"components[0]","rule":"choice","text":"there is no component \"nothing\""}]}`},
		{"POST", "/1.0/updates", `{"version":"1"}`, nil, 404, `null`},
		{"POST", "/1.0/updates", `{"channel":"","types":["update-efi"]}`, nil, 200, ""},
		{"POST", "/1.0/updates", `{"components":["openfga"]}`, nil, 404, `null`},
		{"OPTIONS", "/1.0/images", "", nil, 204, ""},
	} {
		got := w.do(c.method, c.path, c.body, c.header...)
		if got.status != c.status {
			t.Errorf("%s %s: status %d, %.200s", c.method, c.path, got.status, got.body)
		}
		if c.metadata != "" {
			equal(t, c.method+" "+c.path, string(got.envelope(t).Metadata), c.metadata)
		}
	}
	for request, want := range map[string]string{
		"/1.0/images []":                                  "an object is expected (rule type); architecture: \"\" is not one of x86_64, aarch64 (rule choice); type: \"\" is not one of raw, iso (rule choice)",
		`/1.0/updates {"version":"1"}`:                    "there is no such release: version 1",
		`/1.0/updates {"channel":"daily"}`:                "there is no such release: channel daily",
		`/1.0/updates {"channel":"a b","version":"../x"}`: "channel: letters, digits, dots and dashes, at most 64 (rule word); version: letters, digits, dots and dashes, at most 64 (rule word)",
	} {
		path, body, _ := strings.Cut(request, " ")
		equal(t, request, w.do("POST", path, body).envelope(t).Error, want)
	}
	equal(t, "redirect", w.do("GET", "/", "", "User-Agent", "like Gecko").header.Get("Location"), "/ui/")
}

// Pages of other origins may ask for images, and not for keys.
func TestCORS_IsForImagesUpdatesAndFiles(t *testing.T) {
	w := start(t)
	for path, want := range map[string]string{
		"/1.0/images": "*", "/1.0/updates": "*", "/1.0/files/x": "*", "/1.0/releases": "*", "/1.0/certificate": "", "/": "", "/ui/": "",
	} {
		equal(t, path, w.do("OPTIONS", path, "").header.Get("Access-Control-Allow-Origin"), want)
	}
	equal(t, "a refusal", w.do("POST", "/1.0/images", "{").header.Get("Access-Control-Allow-Origin"), "*")
}

func TestReleases_ListWhatHasAnImage(t *testing.T) {
	w := start(t)
	equal(t, "releases", string(w.do("GET", "/1.0/releases", "").envelope(t).Metadata), `{"releases":[`+
		`{"version":"202611230104","channels":["testing"],"published_at":"2026-11-22T01:04:00Z","architectures":{"x86_64":{"types":["raw","iso"],"applications":["incus"]}}},`+
		`{"version":"202611220104","channels":["stable","testing"],"published_at":"2026-11-22T01:04:00Z","architectures":{"x86_64":{"types":["raw","iso"],"applications":["incus"]}}}]}`)
}

// Who serves images for nodes of a network says where they find their releases; pages begin
// with it.
func TestReleases_WithAServerURL_NameIt(t *testing.T) {
	w := start(t, func(o *customizer.Options) { o.ServerURL = "https://releases.example.org" })
	got := metadata[struct {
		ServerURL string `json:"server_url"`
	}](t, w.do("GET", "/1.0/releases", ""))
	equal(t, "server_url", got.ServerURL, "https://releases.example.org")
}

// The certificate must be one that a node takes, and belong to its key.
func TestCertificate_IsAP384ClientWithItsKey(t *testing.T) {
	w := start(t, func(o *customizer.Options) {
		o.PKCS12 = func(_ context.Context, certificate, key []byte) ([]byte, error) {
			if !bytes.Contains(certificate, []byte("CERTIFICATE")) || !bytes.Contains(key, []byte("PRIVATE KEY")) {
				return nil, errors.New("not PEM")
			}
			return []byte("packed"), nil
		}
	})
	answer := w.do("GET", "/1.0/certificate", "")
	equal(t, "kept by caches", answer.header.Get("Cache-Control"), "no-store")
	got := metadata[map[string]string](t, answer)
	pair, err := tls.X509KeyPair([]byte(got["certificate"]), []byte(got["key"]))
	if err != nil {
		t.Fatal(err)
	}
	public, _ := pair.Leaf.PublicKey.(*ecdsa.PublicKey)
	if public == nil || public.Curve != elliptic.P384() {
		t.Errorf("the key is a %T", pair.Leaf.PublicKey)
	}
	equal(t, "subject", pair.Leaf.Subject.String(), "CN=Holdfast client certificate,O=Holdfast")
	equal(t, "usage", pair.Leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth})
	equal(t, "end", pair.Leaf.NotAfter, time.Date(2036, 11, 24, 0, 0, 0, 0, time.UTC))
	equal(t, "pfx", got["pfx"], "cGFja2Vk")
}

// readTar gives the members of an archive.
func readTar(t *testing.T, data []byte) map[string]string {
	t.Helper()
	all := map[string]string{}
	r := tar.NewReader(bytes.NewReader(data))
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
		all[h.Name] = string(text)
	}
}

func TestUpdates_AreTheUnpackedFilesThatWereAskedFor(t *testing.T) {
	w := start(t)
	made := metadata[map[string]string](t, w.do("POST", "/1.0/updates",
		`{"channel":"stable","components":["os","incus"],"types":["update-efi","application"],"architectures":["x86_64"]}`))
	got := w.do("GET", made["update"], "")
	equal(t, "name", got.header.Get("Content-Disposition"), "attachment; filename=update_202611220104.tar.gz")
	members := readTar(t, unpack(t, got.body))
	delete(members, "update.json")
	equal(t, "members", members, map[string]string{
		"update.sjson":                     "signed 202611220104",
		"x86_64/Holdfast_202611220104.efi": "the UKI",
		"x86_64/incus.raw":                 strings.Repeat("incus ", 1024),
	})
	equal(t, "again", w.do("GET", made["update"], "").status, 404)
}

// A node without a network reads its applications from the second medium.
func TestImages_Offline_ComeWithAMediumThatOthersRead(t *testing.T) {
	needs.Programs(t, "bsdtar")
	w := start(t)
	made := metadata[map[string]string](t, w.do("POST", "/1.0/images", `{"architecture":"x86_64","type":"raw","offline":true,`+
		`"seeds":{"applications":{"applications":[{"name":"incus"}]}}}`))
	medium := w.do("GET", made["resources"], "")
	equal(t, "label", string(medium.body[32808:32819]), "RESCUE_DATA")
	file, out := filepath.Join(t.TempDir(), "medium.iso"), t.TempDir()
	if err := os.WriteFile(file, medium.body, 0o600); err != nil {
		t.Fatal(err)
	}
	if text, err := exec.CommandContext(t.Context(), "bsdtar", "-xf", file, "-C", out).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	for _, name := range []string{"update.json", "update.sjson", "x86_64/incus.raw.gz"} {
		got, err := os.ReadFile(filepath.Join(out, "update", name))
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join(w.tree, "202611220104", name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is another file", name)
		}
	}
	refused := w.do("POST", "/1.0/images", `{"architecture":"x86_64","type":"raw","offline":true,"seeds":{"applications":{"applications":[{"name":"openfga"}]}}}`)
	equal(t, "an application that is not there", string(refused.envelope(t).Metadata),
		`{"problems":[{"path":"seeds.applications.applications[0].name","rule":"release","text":"release 202611220104 has no application \"openfga\" for x86_64"}]}`)
}

// An image that somebody has changed on the server must not go out.
func TestImages_ImageIsNotTheIndexs_AreRefused(t *testing.T) {
	w := start(t)
	other, err := os.ReadFile(filepath.Join(w.tree, "202611230104/x86_64/Holdfast_202611230104.img.gz"))
	if err != nil {
		t.Fatal(err)
	}
	w.write("202611220104/x86_64/Holdfast_202611220104.img.gz", other)
	got := w.do("POST", "/1.0/images", smallChoice)
	equal(t, "status", got.status, 500)
	if text := got.envelope(t).Error; strings.Contains(text, w.tree) {
		t.Errorf("the answer tells of this computer's files: %s", text)
	}
}

// What others ask for must not fill the memory or the lines.
func TestLimits_TooMany_AreAskedToComeBack(t *testing.T) {
	w := start(t, func(o *customizer.Options) { o.MaxDownloads, o.MaxLinkBytes = 1, 1<<20 })
	link := metadata[shown](t, w.do("POST", "/1.0/choices", smallChoice)).Link
	r, err := http.NewRequestWithContext(t.Context(), "GET", w.server.URL+strings.Replace(link, "?", ".img?", 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	slow, err := http.DefaultClient.Do(r) // 6 MiB that nobody reads do not fit into a socket
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Body.Close()
	got := w.do("GET", link, "")
	equal(t, "second download", got.status, 503)
	equal(t, "when", got.header.Get("Retry-After"), "30")
	big := `{"architecture":"x86_64","type":"raw","seeds":{"security":{"version":"` + strings.Repeat("v", 900_000) + `"}}}`
	equal(t, "a large seed", w.do("POST", "/1.0/images", big).status, 200)
	equal(t, "a second large seed", w.do("POST", "/1.0/images", big).status, 503)
	w.clock.move(10 * time.Minute)
	equal(t, "after ten minutes", w.do("POST", "/1.0/images", big).status, 200)
}

// The page may load nothing from elsewhere, and nothing may put it into a frame.
func TestPage_IsServedWithItsPolicy(t *testing.T) {
	w := start(t)
	for path, kind := range map[string]string{
		"/ui/": "text/html; charset=utf-8", "/ui/page.js": "text/javascript; charset=utf-8", "/ui/style.css": "text/css; charset=utf-8",
	} {
		got := w.do("GET", path, "")
		equal(t, path, got.header.Get("Content-Type"), kind)
		if policy := got.header.Get("Content-Security-Policy"); !strings.HasPrefix(policy, "default-src 'self';") {
			t.Errorf("%s: policy %q", path, policy)
		}
		for _, outside := range []string{"http://", "https://", "//cdn"} {
			if text := strings.ReplaceAll(string(got.body), "http://www.w3.org/2000/svg", ""); strings.Contains(text, outside) {
				t.Errorf("%s names an address: %s", path, outside)
			}
		}
	}
}
