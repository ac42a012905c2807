// Package browser tries the project's web pages in a real browser, as a person uses them.
package browser

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/seed"
	"github.com/holdfast-os/holdfast/test/browser/drive"
)

var screenshots = flag.String("screenshots", "", "folder to write pictures for the documentation into")

// What the person of the test chooses, as the node must read it.
var chosen = map[string]string{
	"install.json":      `{"force_install": true, "target": {"bus": "nvme", "min_size": "100GiB", "sort_order": "smallest"}}`,
	"applications.json": `{"applications": [{"name": "incus"}]}`,
	"provider.json":     `{"name": "images", "config": {"server_url": "https://releases.example.org"}}`,
	"network.json": `{"dns": {"hostname": "node1", "domain": "", "nameservers": ["192.0.2.53"]}, "time": {"timezone": "Europe/Berlin"},
	  "interfaces": [{"name": "lan", "hwaddr": "52:54:00:12:34:56", "addresses": ["192.0.2.10/24"], "routes": [{"to": "0.0.0.0/0", "via": "192.0.2.1"}]}]}`,
}

// A person makes an image in the page and gets exactly what the page has shown: the seed is
// what was chosen, and the key that the browser has made opens the node.
func TestPage_ChooseMakeCertificateDownload_ImageHoldsTheChoice(t *testing.T) {
	program := drive.Chromium(t)
	server := drive.Serve(t, publish(t), "--server-url", "https://releases.example.org")
	b := openBrowser(t, program)
	b.Run(drive.Navigate(server+"/"), drive.Present(`body[data-state=incomplete]`))
	if where := b.Text(`location.pathname`); where != "/ui/" {
		t.Fatalf("a browser is sent to %s", where)
	}
	b.Choose("order", "smallest")
	if got := b.Text(`document.getElementById("server").value`); got != "https://releases.example.org" {
		t.Errorf("the page begins with the release server %q", got)
	}
	b.Clear("server")
	b.Run(drive.TypeIn("#bus", "nvme"), drive.TypeIn("#min-size", "100 apples"), drive.Click("#force"))
	b.Run(drive.Click("#network-static"), drive.TypeIn("#hwaddr", "52:54:00:12:34:56"), drive.TypeIn("#address", "192.0.2.10"))
	b.Run(drive.Visible(`#min-size[aria-invalid=true]`), drive.Visible(`#address[aria-invalid=true]`),
		drive.Visible(`#server[aria-invalid=true]`), drive.Visible(`#certificate[aria-invalid=true]`))
	b.Run(drive.Hidden("#ready"))
	b.picture("customizer-problems")

	b.Clear("min-size", "address")
	b.Run(drive.TypeIn("#server", "https://releases.example.org"), drive.TypeIn("#min-size", "100GiB"), drive.TypeIn("#address", "192.0.2.10/24"), drive.TypeIn("#gateway", "192.0.2.1"),
		drive.TypeIn("#nameservers", "192.0.2.53"), drive.TypeIn("#hostname", "node1"), drive.TypeIn("#timezone", "Europe/Berlin"))
	b.Run(drive.Click("#make"), drive.Visible("#save-key"), drive.Present(`body[data-state=ready]`))
	if left := b.Text(`String(document.querySelectorAll("[aria-invalid]").length)`); left != "0" {
		t.Errorf("%s fields are still marked", left)
	}
	b.picture("customizer-ready")
	b.dark("customizer-dark")

	shown := b.Text(`JSON.stringify([...document.querySelectorAll("#files details")].map(d => [d.querySelector("summary").textContent, d.querySelector("pre").textContent]))`)
	certificate := b.download("#save-crt", "client.crt")
	key := b.download("#save-key", "client.key")
	packed := b.download("#download", "Holdfast_202611220104.img.gz")
	link := b.Text(`document.getElementById("link").value`)

	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatalf("the browser's certificate and key: %v", err)
	}
	checkCertificate(t, pair.Leaf)
	set, members := seedOf(t, packed)
	want := wanted(t, string(certificate))
	if diff := cmp.Diff(want, set); diff != "" {
		t.Errorf("the image's seed (-chosen +found):\n%s", diff)
	}
	var files [][2]string
	if err := json.Unmarshal([]byte(shown), &files); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(members, files); diff != "" {
		t.Errorf("the page (-image +page):\n%s", diff)
	}
	if again := fetch(t, strings.Replace(link, "?", ".img.gz?", 1)); !bytes.Equal(again, packed) {
		t.Error("the link gives another image")
	}
	for _, trouble := range b.Troubles() {
		t.Errorf("the browser complains: %s", trouble)
	}
}

// The address of the page is a bookmark of the choice.
func TestPage_OpenedFromItsAddress_HasTheSameChoice(t *testing.T) {
	program := drive.Chromium(t)
	server := drive.Serve(t, publish(t))
	b := openBrowser(t, program)
	b.Run(drive.Navigate(server+"/ui/"), drive.Present(`body[data-state=incomplete]`))
	b.Choose("type", "iso")
	b.Run(drive.TypeIn("#disk-id", "Größe 1"), drive.TypeIn("#hostname", "node7"), drive.TypeIn("#server", "https://releases.example.org"), drive.Click("#make"),
		drive.Present(`body[data-state=ready]`))
	address, link := b.Text(`location.href`), b.Text(`document.getElementById("link").value`)
	b.Run(drive.Navigate("about:blank"), drive.Navigate(address), drive.Present(`body[data-state=ready]`))
	if got := b.Text(`document.getElementById("link").value`); got != link {
		t.Errorf("opened again, the link is another one:\n%s\n%s", link, got)
	}
	got := []string{b.Text(`document.getElementById("disk-id").value`), b.Text(`document.getElementById("server").value`)}
	if diff := cmp.Diff([]string{"Größe 1", "https://releases.example.org"}, got); diff != "" {
		t.Errorf("disk and release server (-chosen +opened):\n%s", diff)
	}
}

// Half of an address, as mail programs leave it, must not look as if all of it had been read.
func TestPage_OpenedFromHalfAnAddress_SaysSo(t *testing.T) {
	program := drive.Chromium(t)
	server := drive.Serve(t, publish(t))
	b := openBrowser(t, program)
	b.Run(drive.Navigate(server+"/ui/#eyJhcmNoaXRlY3R1cmUiOiJ4ODZ"), drive.Present(`body[data-state=incomplete]`), drive.Visible("#notice"))
	if got := b.Text(`document.getElementById("notice").textContent`); got != "The address of this page is not whole, so the form begins empty." {
		t.Errorf("the page says %q", got)
	}
	b.Choose("hostname", "node1")
	b.Run(drive.Hidden("#notice"))
	b.Run(drive.Navigate("about:blank"), drive.Navigate(server+"/ui/#result"), drive.Present(`body[data-state=incomplete]`), drive.Hidden("#notice"))
}

// Addresses are kept by histories, bookmarks and whoever they are sent to: no secret may get
// into one, and the person must know why there is no link.
func TestPage_ChoiceWithASecret_StaysOutOfTheAddress(t *testing.T) {
	program := drive.Chromium(t)
	server := drive.Serve(t, publish(t))
	b := openBrowser(t, program)
	b.Run(drive.Navigate(server+"/ui/"), drive.Present(`body[data-state=incomplete]`))
	b.Run(drive.TypeIn("#server", "https://releases.example.org"), drive.Click("#make"), drive.Present(`body[data-state=ready]`))
	public := b.Text(`location.href`)
	if !strings.Contains(public, "/ui/#") || b.Text(`String(document.getElementById("no-link").hidden)`) != "true" {
		t.Errorf("a choice without secrets is not in the address %s, or the page says that it has no link", public)
	}
	check := func(when string) {
		t.Helper()
		b.Run(drive.Present(`body[data-state=ready]`), drive.Visible("#no-link"), drive.Hidden("#lasting"), drive.Visible("#download"))
		got := []string{b.Text(`location.href`), b.Text(`document.getElementById("no-link").textContent`)}
		want := []string{server + "/ui/", "There is no lasting link, and the address of this page does not keep the choice: " +
			"a secret may be in Release server (seeds.provider.config.server_url)."}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s, address and reason (-want +got):\n%s", when, diff)
		}
	}
	b.Choose("server", "https://somebody:hunter2@releases.example.org")
	check("typed in")
	choice := b.Text(`(() => { const text = atob(` + "`${" + `new URL("` + public + `").hash.slice(1).replaceAll("-", "+").replaceAll("_", "/")` + "}`" + `);
	  return btoa(text.replace("https://releases", "https://somebody:hunter2@releases")).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", ""); })()`)
	b.Run(drive.Navigate("about:blank"), drive.Navigate(server+"/ui/#"+choice))
	check("opened from an address of before")

	b.Choose("server", "https://releases.example.org")
	b.Run(drive.Present(`body[data-state=ready]`), drive.Visible("#lasting"), drive.Hidden("#no-link"))
	if got := b.Text(`location.href`); got != public {
		t.Errorf("without the secret the address is\n%s, it was\n%s", got, public)
	}
	b.Choose("min-size", "100 apples")
	b.Run(drive.Present(`body[data-state=incomplete]`))
	if got := b.Text(`location.href`); got != server+"/ui/" {
		t.Errorf("a choice that is refused leaves the address %s", got)
	}
	for _, trouble := range b.Troubles() {
		if !strings.Contains(trouble, "400") {
			t.Errorf("the browser complains: %s", trouble)
		}
	}
}

// Who cannot see the page, or has no mouse, can use it too.
func TestPage_EveryField_HasALabelAndCanBeReachedByKeyboard(t *testing.T) {
	program := drive.Chromium(t)
	server := drive.Serve(t, publish(t))
	b := openBrowser(t, program)
	b.Run(drive.Navigate(server+"/ui/"), drive.Present(`body[data-state=incomplete]`))
	const fields = `[...document.querySelectorAll("input, select, textarea")]`
	if bare := b.Text(`JSON.stringify(` + fields + `.filter(e => !e.labels.length).map(e => e.id))`); bare != "[]" {
		t.Errorf("fields without label: %s", bare)
	}
	// Of radio buttons with one name the keyboard reaches one; arrows go to the others.
	want := b.Text(`JSON.stringify([...document.querySelectorAll("#form input, #form select, #form textarea, #form button")]
	  .filter(e => e.offsetParent && (e.type !== "radio" || e.checked)).map(e => e.id))`)
	var reached []string
	b.Run(drive.Focus("#architecture"))
	for {
		id := b.Text(`document.activeElement.closest("#form") ? document.activeElement.id : ""`)
		if id == "" || len(reached) > 100 {
			break
		}
		reached = append(reached, id)
		b.Run(drive.Key("\t"))
	}
	got, err := json.Marshal(reached)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("fields (-shown +reached):\n%s", diff)
	}
}

// wanted is the seed that the person has chosen.
func wanted(t *testing.T, certificate string) *seed.Set {
	t.Helper()
	documents := map[string]any{"incus.json": map[string]any{
		"apply_defaults": true,
		"preseed":        map[string]any{"certificates": []any{map[string]string{"name": "admin", "type": "client", "certificate": certificate}}},
	}}
	for name, text := range chosen {
		documents[name] = json.RawMessage(text)
	}
	set := &seed.Set{}
	for name, document := range documents {
		text, err := json.Marshal(document)
		if err != nil {
			t.Fatal(err)
		}
		if err := set.Decode(name, text); err != nil {
			t.Fatal(err)
		}
	}
	return set
}

// seedOf reads the seed where every tool expects it, byte 2148532224, with its members.
func seedOf(t *testing.T, packed []byte) (*seed.Set, [][2]string) {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, r, 2148532224); err != nil {
		t.Fatal(err)
	}
	archive, err := io.ReadAll(io.LimitReader(r, layout.Size(layout.Seed)))
	if err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if string(rest) != behind {
		t.Errorf("behind the seed are %d bytes, not those of the release", len(rest))
	}
	set, err := seed.Parse(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	return set, tarMembers(t, archive)
}

func checkCertificate(t *testing.T, c *x509.Certificate) {
	t.Helper()
	if err := c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature); err != nil {
		t.Errorf("the certificate is not signed by its own key: %v", err)
	}
	if key, ok := c.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P384() {
		t.Errorf("the key is a %T", c.PublicKey)
	}
	if diff := cmp.Diff([]x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, c.ExtKeyUsage); diff != "" {
		t.Error(diff)
	}
	if years := c.NotAfter.Year() - c.NotBefore.Year(); years < 9 || years > 10 {
		t.Errorf("the certificate holds from %s to %s", c.NotBefore, c.NotAfter)
	}
}

func fetch(t *testing.T, url string) []byte {
	t.Helper()
	r, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d, %v", url, answer.StatusCode, err)
	}
	return data
}

// picture writes what the browser shows, when the documentation is made.
func (b tab) picture(name string) {
	b.t.Helper()
	if *screenshots == "" {
		return
	}
	b.Text(`String(scrollTo(0, 0))`)
	png := drive.Value(b.Tab, chromedp.CaptureScreenshot())
	err := os.WriteFile(filepath.Join(*screenshots, name+".png"), png, 0o600)
	if err := errors.Join(err, os.Chmod(filepath.Join(*screenshots, name+".png"), 0o644)); err != nil {
		b.t.Fatal(err)
	}
}
