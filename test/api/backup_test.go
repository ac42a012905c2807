package api_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/simulate"
)

// hostile writes an archive that no node must unpack.
func hostile(t *testing.T, write func(w *tar.Writer) error) []byte {
	t.Helper()
	var archive bytes.Buffer
	z, err := gzip.NewWriterLevel(&archive, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	for _, step := range []func() error{func() error { return write(w) }, w.Close, z.Close} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	return archive.Bytes()
}

// one is an archive with a good member and a bad one behind it.
func one(t *testing.T, bad tar.Header) []byte {
	t.Helper()
	return hostile(t, func(w *tar.Writer) error {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "good", Mode: 0o600, Size: 4}); err != nil {
			return err
		}
		if _, err := w.Write([]byte("good")); err != nil {
			return err
		}
		bad.Mode = 0o600
		return w.WriteHeader(&bad)
	})
}

// files are all files of a node, but for its audit log, which notes each refusal.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.Name() == "audit" && entry.IsDir() {
			return fs.SkipDir
		}
		name, err := filepath.Rel(dir, path)
		if err != nil || !entry.Type().IsRegular() {
			all[name] = entry.Type().String()
			return err
		}
		text, err := os.ReadFile(path)
		all[name] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// An archive comes from wherever a person has kept it. What is in it that is no data is refused
// whole, before anything of it is anywhere, whichever of the two restores it is given to.
func TestRestore_HostileArchives_AreRefusedAndNothingIsWritten(t *testing.T) {
	t.Parallel()
	n := start(t, simulate.Options{})
	zeros := func(size int64) []byte {
		return hostile(t, func(w *tar.Writer) error {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "bomb", Mode: 0o600, Size: size}); err != nil {
				return err
			}
			_, err := io.CopyN(w, zeroReader{}, size)
			return err
		})
	}
	million := hostile(t, func(w *tar.Writer) error {
		for i := range 1_000_000 {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("f%d", i), Mode: 0o600}); err != nil {
				return err
			}
		}
		return nil
	})
	archives := map[string]struct {
		body []byte
		rule string
	}{
		"link out":          {one(t, tar.Header{Typeflag: tar.TypeSymlink, Name: "a", Linkname: "/etc/shadow"}), "link"},
		"link that climbs":  {one(t, tar.Header{Typeflag: tar.TypeSymlink, Name: "a/b", Linkname: "../../../etc"}), "link"},
		"hard link":         {one(t, tar.Header{Typeflag: tar.TypeLink, Name: "a", Linkname: "good"}), "type"},
		"block device":      {one(t, tar.Header{Typeflag: tar.TypeBlock, Name: "sda", Devmajor: 8}), "type"},
		"character device":  {one(t, tar.Header{Typeflag: tar.TypeChar, Name: "mem", Devmajor: 1, Devminor: 1}), "type"},
		"pipe":              {one(t, tar.Header{Typeflag: tar.TypeFifo, Name: "pipe"}), "type"},
		"climbing name":     {one(t, tar.Header{Typeflag: tar.TypeReg, Name: "../up"}), "name"},
		"climbing inside":   {one(t, tar.Header{Typeflag: tar.TypeReg, Name: "a/../../up"}), "name"},
		"absolute name":     {one(t, tar.Header{Typeflag: tar.TypeReg, Name: "/etc/passwd"}), "name"},
		"a million members": {million, "limit"},
		"bomb":              {zeros(600 << 20), "limit"},
	}
	before := files(t, n.dir)
	for _, path := range []string{"/1.0/system/:restore", "/1.0/applications/incus/:restore"} {
		for name, c := range archives {
			code, text := post(t, n, path, c.body)
			if code != http.StatusBadRequest || !strings.Contains(text, "(rule "+c.rule+")") {
				t.Errorf("%s, %s: %d %.300s, want rule %s", path, name, code, text, c.rule)
			}
		}
	}
	if diff := cmp.Diff(before, files(t, n.dir)); diff != "" {
		t.Errorf("something was written: %s", diff)
	}
	n.untilReady()
}

func post(t *testing.T, n *node, path string, body []byte) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(context.Background(), http.MethodPost, "http://node"+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response, err := n.http.Do(request)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := response.Body.Close(); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

// zeroReader reads zeros without end.
type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
