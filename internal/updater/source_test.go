package updater_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/apps"
	"github.com/holdfast-os/holdfast/internal/publisher"
	"github.com/holdfast-os/holdfast/internal/update"
	"github.com/holdfast-os/holdfast/internal/updater"
)

// publishedTree is a tree with one release, of one application, and whom it is signed by.
func publishedTree(t *testing.T, content []byte) (tree string, root []byte) {
	t.Helper()
	tree = t.TempDir()
	keys := publisher.Keys{Dir: t.TempDir()}
	if err := keys.Make(t.Context(), "stable"); err != nil {
		t.Fatal(err)
	}
	root, err := os.ReadFile(filepath.Join(keys.Dir, "root.json"))
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	const file = "202611220200/x86_64/incus.raw.gz"
	if err := os.MkdirAll(filepath.Join(tree, filepath.Dir(file)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, file), packed.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	m := release.Manifest{
		Format: release.ManifestFormat, Version: "202611220200", Architecture: "x86_64", PublishedAt: time.Now().UTC().Truncate(time.Second), Severity: release.SeverityNone,
		Parts: []release.Part{{
			Name: "incus.raw", Component: release.ComponentIncus, Type: release.TypeApplication, Size: int64(len(content)), SHA256: sumOf(content),
			Full: release.Blob{Path: file, Size: int64(packed.Len()), SHA256: sumOf(packed.Bytes())},
		}},
	}
	if err := (publisher.Metadata{Tree: tree, Keys: keys}).Publish(t.Context(), "stable", m); err != nil {
		t.Fatal(err)
	}
	return tree, root
}

func sumOf(data []byte) string { s := sha256.Sum256(data); return hex.EncodeToString(s[:]) }

func trusted(t *testing.T, tree string, root []byte) *updater.Trusted {
	t.Helper()
	server := httptest.NewServer(http.FileServer(http.Dir(tree)))
	t.Cleanup(server.Close)
	source, err := updater.OpenTrusted(updater.TrustedOptions{
		Access: updater.Access{Servers: []string{server.URL}}, Root: root, StateDir: t.TempDir(), Architecture: "x86_64",
		Built: time.Now().Add(-time.Hour), Clock: func() (time.Time, bool) { return time.Now(), true },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := source.Close(); err != nil {
			t.Error(err)
		}
	})
	return source
}

// What a publisher signs is what a node installs, byte for byte, with nothing but the root
// document of its image between them; and it is never brought to an older one.
func TestApplications_PublishedRelease_IsFoundByItsMetadataAndFetched(t *testing.T) {
	content := bytes.Repeat([]byte("an application "), 1000)
	tree, root := publishedTree(t, content)
	source := trusted(t, tree, root)
	system := &updater.System{Dir: filepath.Join(t.TempDir(), "updates"), Images: t.TempDir(), Source: func() (updater.Source, error) { return source, nil }}
	offered := updater.Applications{System: system, Channel: func() string { return "stable" }}
	found, err := offered.Latest(t.Context(), "incus.raw", "202611220100")
	if err != nil {
		t.Fatal(err)
	}
	dst := filepath.Join(t.TempDir(), "incus.raw")
	if err := offered.Fetch(t.Context(), found, "incus.raw", dst, nil); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(dst)
	if err != nil || found.Version != "202611220200" || !bytes.Equal(content, got) {
		t.Errorf("release %s, %d bytes, %v", found.Version, len(got), err)
	}
	left, err := os.ReadDir(system.Dir)
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if _, err := offered.Latest(t.Context(), "incus.raw", "202611230100"); !errors.Is(err, apps.ErrOlder) {
		t.Errorf("from a newer one: %v", err)
	}
	if _, err := offered.Latest(t.Context(), "debug.raw", ""); !errors.Is(err, apps.ErrNoFile) {
		t.Errorf("an application that is not in the release: %v", err)
	}
}

// A release that brings the same application once more costs nothing: no byte of it is fetched,
// and it takes no room. A file that only has its size is not taken for it.
func TestApplications_FileOfAnEarlierRelease_IsNotFetchedAgain(t *testing.T) {
	content := bytes.Repeat([]byte("an application "), 1000)
	tree, root := publishedTree(t, content)
	packed, err := filepath.Glob(filepath.Join(tree, "*", "x86_64", "incus.raw.gz"))
	if err != nil || len(packed) != 1 {
		t.Fatalf("the tree has %v, %v", packed, err)
	}
	source := trusted(t, tree, root)
	for name, c := range map[string]struct {
		earlier []byte
		served  bool // whether the server still has the file
		linked  bool
	}{
		"the same":              {content, false, true},
		"another of its length": {bytes.Repeat([]byte("an imitation: "+"x"), 1000), true, false},
	} {
		images := t.TempDir()
		before := filepath.Join(images, "202611220100", "incus.raw")
		if err := errors.Join(os.Mkdir(filepath.Dir(before), 0o700), os.WriteFile(before, c.earlier, 0o600)); err != nil {
			t.Fatal(err)
		}
		if !c.served {
			if err := os.Rename(packed[0], packed[0]+".away"); err != nil {
				t.Fatal(err)
			}
		}
		system := &updater.System{Dir: filepath.Join(t.TempDir(), "updates"), Images: images, Source: func() (updater.Source, error) { return source, nil }}
		offered := updater.Applications{System: system, Channel: func() string { return "stable" }}
		found, err := offered.Latest(t.Context(), "incus.raw", "202611220100")
		if err != nil {
			t.Fatal(err)
		}
		dst := filepath.Join(images, "dst")
		err = offered.Fetch(t.Context(), found, "incus.raw", dst, nil)
		if !c.served {
			err = errors.Join(err, os.Rename(packed[0]+".away", packed[0]))
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		one, errOne := os.Stat(before)
		other, errOther := os.Stat(dst)
		got, errRead := os.ReadFile(dst)
		if err := errors.Join(errOne, errOther, errRead); err != nil {
			t.Fatal(err)
		}
		if os.SameFile(one, other) != c.linked || !bytes.Equal(content, got) {
			t.Errorf("%s: linked %t, %d bytes", name, os.SameFile(one, other), len(got))
		}
	}
}

// Whoever serves the tree cannot change what it says, and a node says what is wrong in one
// of the agent's words.
func TestTrusted_TreeThatIsNotAsItWasSigned_IsNamed(t *testing.T) {
	cases := map[string]struct {
		change func(t *testing.T, tree string)
		want   error
	}{
		"a changed timestamp": {func(t *testing.T, tree string) {
			name := filepath.Join(tree, "tuf", "timestamp.json")
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, bytes.Replace(text, []byte(`"version":`), []byte(`"version": 9`), 1), 0o644); err != nil {
				t.Fatal(err)
			}
		}, update.ErrUntrusted},
		"no server's file": {func(t *testing.T, tree string) {
			if err := os.RemoveAll(filepath.Join(tree, "tuf")); err != nil {
				t.Fatal(err)
			}
		}, update.ErrUnreachable},
		"nothing": {func(*testing.T, string) {}, nil},
	}
	got := map[string]bool{}
	for name, c := range cases {
		tree, root := publishedTree(t, []byte("an application"))
		c.change(t, tree)
		_, err := trusted(t, tree, root).Newest(t.Context(), "stable", true)
		got[name] = errors.Is(err, c.want)
		if !got[name] {
			t.Logf("%s: %v", name, err)
		}
	}
	if diff := cmp.Diff(map[string]bool{"a changed timestamp": true, "no server's file": true, "nothing": true}, got); diff != "" {
		t.Error(diff)
	}
}
