package daemon_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What an owner sends to a stranger has no secret in it that was ever set on the node.
func TestSupportBundle_HasWhatHelpsAndNoSecret(t *testing.T) {
	f := ready(t)
	for _, key := range []string{"first-hunter2-key", "second-hunter2-key"} {
		body := `{"config":{"interfaces":[{"name":"lan","hwaddr":"x"}],"wireguard":[{"name":"wg0","private_key":"` + key + `"}]}}`
		if code, message, _ := call(t, f, "PUT", "/1.0/system/network", body); code != 200 {
			t.Fatal(message)
		}
	}
	files := download(t, f, "/1.0/debug/:support-bundle")
	var names []string
	for name, text := range files {
		names = append(names, name)
		for _, secret := range []string{"hunter2", "cbdefghi"} {
			if strings.Contains(text, secret) {
				t.Errorf("%s holds %s:\n%s", name, secret, text)
			}
		}
	}
	for _, want := range []string{"config.json", "history.json", "audit.json", "journal/this-boot.json", "network.json", "manifest.json"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is missing in %q", want, names)
		}
	}
	if !strings.Contains(files["config.json"], `"name": "lan"`) {
		t.Errorf("config.json: %s", files["config.json"])
	}
}

// download gives the members of a gzip tar.
func download(t *testing.T, f *fixture, path string) map[string]string {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(f.root, "run/incus-os/unix.socket"))
	}}}
	response, err := client.Post("http://unix"+path, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.Header.Get("Content-Type") != "application/gzip" {
		t.Fatalf("%s: %v", body, err)
	}
	unzipped, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for archive := tar.NewReader(unzipped); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		files[header.Name] = string(text)
	}
}
