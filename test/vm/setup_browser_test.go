package vm

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/client"
	"github.com/holdfast-os/holdfast/internal/lab"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/test/browser/drive"
)

// imageLimit bounds making an image ready and sending it; the service packs it anew once.
const imageLimit = 15 * time.Minute

// A person's whole way: from the page of `holdfast image serve`, with nothing but a browser,
// to a node that answers this browser's certificate and nobody else's.
func TestInstall_ImageFromThePage_EndsInANodeOfTheBrowsersCertificate(t *testing.T) {
	slow(t)
	longOnly(t)
	program := drive.Chromium(t)
	if err := machines.cut(t.Context()); err != nil { // packing needs the processors
		t.Fatal(err)
	}
	got := chooseInPage(t, program, mediumTree(t))
	medium := filepath.Join(t.TempDir(), "stick.img")
	unpack(t, got.image, medium)
	cert, key := readFile(t, got.certificate), readFile(t, got.key)

	t.Cleanup(func() { removeClone(t, installName()) })
	begun := time.Now()
	restore(t, lab.Options{Name: installName(), Medium: medium, ClientCert: cert, ClientKey: key, Fresh: true, NoSnapshot: true})
	n := watched(t, newNode(t, installName()))
	t.Logf("from power on of the medium to a ready node: %s", time.Since(begun).Round(time.Second))

	server, err := n.api.Server(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if server.Environment.OSVersion != machines.version || !server.Environment.SystemIsReady {
		t.Errorf("the node runs %s, ready %v; want %s", server.Environment.OSVersion, server.Environment.SystemIsReady, machines.version)
	}
	if state := n.security(t); !state.SystemStateIsTrusted {
		t.Errorf("the node's state is %q", state.SystemStateStatus)
	}
	otherCert, otherKey, err := lab.NewClientCert(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	stranger := filepath.Join(t.TempDir(), "client")
	if err := errors.Join(os.WriteFile(stranger+".crt", otherCert, 0o600), os.WriteFile(stranger+".key", otherKey, 0o600)); err != nil {
		t.Fatal(err)
	}
	answers := map[string]string{
		"the browser's": n.asks(t, got.certificate, got.key), "another": n.asks(t, stranger+".crt", stranger+".key"), "none": n.asks(t, "", ""),
	}
	want := map[string]string{
		"the browser's": "/1.0 trusted, /os/1.0 answers", "another": "/1.0 untrusted, /os/1.0 refuses with 403", "none": "/1.0 untrusted, /os/1.0 refuses with 403",
	}
	if diff := cmp.Diff(want, answers); diff != "" {
		t.Errorf("what each certificate gets (-want +got):\n%s", diff)
	}
}

// saved is what a person has after a visit of the page, as files.
type saved struct{ image, certificate, key string }

// mediumTree publishes the build with its medium, as an operator of the page does.
func mediumTree(t *testing.T) string {
	t.Helper()
	tree := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), makeLimit)
	defer cancel()
	begun := time.Now()
	if _, err := run.Host(ctx, run.Command{Name: filepath.Join(machines.root, "bin/holdfast"), Dir: machines.root,
		Args: []string{"release", "publish", tree, "--medium", "--deltas", "0"}}); err != nil {
		t.Fatal(err)
	}
	t.Logf("the release was published with its medium in %s", time.Since(begun).Round(time.Second))
	return tree
}

// chooseInPage is a person who opens the page, chooses as little as possible, has the browser
// make a certificate, and saves all there is to save.
func chooseInPage(t *testing.T, program, tree string) saved {
	t.Helper()
	b := drive.Open(t, program)
	b.Run(drive.Navigate(drive.Serve(t, tree, "--server-url", lab.ReleaseURL)+"/"), drive.Present(`body[data-state=incomplete]`))
	b.Run(drive.Click("#reboot"), drive.Click("#make"), drive.Visible("#save-key"), drive.Present(`body[data-state=ready]`))
	got := saved{certificate: b.Save("#save-crt", "client.crt", drive.Patience), key: b.Save("#save-key", "client.key", drive.Patience)}
	begun := time.Now()
	got.image = b.Save("#download", "Holdfast_"+machines.version+".img.gz", imageLimit)
	t.Logf("the image was made ready and downloaded in %s", time.Since(begun).Round(time.Second))
	for _, trouble := range b.Troubles() {
		t.Errorf("the browser complains: %s", trouble)
	}
	return got
}

// unpack writes a packed image to a stick, as the documentation says; the stick is a file.
func unpack(t *testing.T, packed, stick string) {
	t.Helper()
	begun := time.Now()
	script := `set -o pipefail; gunzip -c "$1" | dd of="$2" bs=4M iflag=fullblock conv=sparse status=none`
	if _, err := run.Host(t.Context(), run.Command{Name: "bash", Args: []string{"-c", script, "bash", packed, stick}}); err != nil {
		t.Fatal(err)
	}
	t.Logf("the image was unpacked in %s", time.Since(begun).Round(time.Second))
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// asks is what a node says to a certificate, empty for none: whom Incus takes it for, and what
// the node's own API does.
func (n *node) asks(t *testing.T, cert, key string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	auth, err := n.incusAuth(ctx, cert, key)
	if err != nil {
		t.Fatalf("GET /1.0: %v", err)
	}
	c, err := client.New(client.Options{Endpoint: n.endpoint, CertFile: cert, KeyFile: key, ServerCertFile: n.file("server.crt")})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var refused *client.Error
	_, err = c.Server(ctx)
	switch {
	case err == nil:
		return "/1.0 " + auth + ", /os/1.0 answers"
	case errors.As(err, &refused):
		return fmt.Sprintf("/1.0 %s, /os/1.0 refuses with %d", auth, refused.Code)
	}
	t.Fatalf("GET /os/1.0: %v", err)
	return ""
}

// incusAuth asks Incus' own API, as Incus' clients do, whom it takes the caller for.
func (n *node) incusAuth(ctx context.Context, cert, key string) (string, error) {
	text, err := os.ReadFile(n.file("server.crt"))
	if err != nil {
		return "", err
	}
	known, _ := pem.Decode(text)
	if known == nil {
		return "", errors.New("the node's certificate of the first meeting is not PEM")
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true, // the next lines compare it byte by byte instead
		VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
			if len(raw) == 0 || string(raw[0]) != string(known.Bytes) {
				return errors.New("the node shows another certificate than at the first meeting")
			}
			return nil
		}}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return "", err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	transport := &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, n.endpoint+"/1.0", nil)
	if err != nil {
		return "", err
	}
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	var envelope struct {
		Error    string `json:"error"`
		Metadata struct {
			Auth string `json:"auth"`
		} `json:"metadata"`
	}
	raw, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err == nil {
		err = json.Unmarshal(raw, &envelope)
	}
	if err != nil || envelope.Metadata.Auth == "" {
		return "", fmt.Errorf("the answer %d is none of Incus: %.500s: %w", answer.StatusCode, raw, orNone(err))
	}
	return envelope.Metadata.Auth, nil
}
