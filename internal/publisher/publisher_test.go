package publisher_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/publisher"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/tuf"
	"github.com/holdfast-os/holdfast/test/needs"
)

// token stands in for openssl with a token: the key of a URI is a file beside.
func token(t *testing.T, keys map[string]string) run.Runner {
	return func(ctx context.Context, c run.Command) (run.Result, error) {
		uri := c.Args[len(c.Args)-1]
		file, known := keys[uri]
		if !known {
			t.Errorf("asked for %s", uri)
		}
		c.Args = slices.DeleteFunc(slices.Clone(c.Args), func(a string) bool { return a == "-provider" || a == "pkcs11" || a == "default" })
		c.Args[len(c.Args)-1] = file
		return run.Host(ctx, c)
	}
}

func newKey(t *testing.T) string {
	t.Helper()
	needs.Programs(t, "openssl")
	name := filepath.Join(t.TempDir(), "key.pem")
	if out, err := exec.Command("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", name).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return name
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func manifest(version string) release.Manifest {
	sum := strings.Repeat("0", 64)
	return release.Manifest{Format: release.ManifestFormat, Version: version, Architecture: "x86_64", PublishedAt: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Severity: release.SeverityNone,
		Parts: []release.Part{{Name: "incus.raw", Component: release.ComponentIncus, Type: release.TypeApplication, Size: 1, SHA256: sum,
			Full: release.Blob{Path: version + "/x86_64/incus.raw.gz", Size: 1, SHA256: sum}}}}
}

// Root and targets stay in a token from the first day: no file of theirs is made, and the
// tree is signed by them.
func TestMetadata_KeysInAToken_SignATreeThatVerifies(t *testing.T) {
	dir, tree := t.TempDir(), t.TempDir()
	keys := publisher.Keys{Dir: dir, Run: token(t, map[string]string{"pkcs11:object=root": newKey(t), "pkcs11:object=targets": newKey(t)})}
	write(t, filepath.Join(dir, "root.pkcs11"), "pkcs11:object=root\n")
	write(t, filepath.Join(dir, "targets.pkcs11"), "pkcs11:object=targets\n")
	if err := keys.Make(t.Context(), "stable"); err != nil {
		t.Fatal(err)
	}
	m := publisher.Metadata{Tree: tree, Keys: keys}
	if err := m.Publish(t.Context(), "stable", manifest("202601010000")); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Check(); err != nil {
		t.Error(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	want := []string{"channel-stable.pem", "root.json", "root.pkcs11", "snapshot.pem", "targets.pkcs11", "timestamp.pem"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
	root, err := os.ReadFile(filepath.Join(dir, "root.json"))
	if err != nil {
		t.Fatal(err)
	}
	if first, err := os.ReadFile(filepath.Join(tree, "tuf", "1.root.json")); err != nil || len(first) == 0 || !strings.Contains(string(root), "ecdsa") {
		t.Errorf("%d bytes of root, %v", len(first), err)
	}
}

// A role moves from a file into a token.
func TestMetadata_RotateIntoAToken_SignsWithItFromThenOn(t *testing.T) {
	dir, tree := t.TempDir(), t.TempDir()
	keys := publisher.Keys{Dir: dir}
	if err := keys.Make(t.Context(), "stable"); err != nil {
		t.Fatal(err)
	}
	keys.Run = token(t, map[string]string{"pkcs11:object=next": newKey(t)})
	next := filepath.Join(t.TempDir(), "timestamp.pkcs11")
	write(t, next, "pkcs11:object=next")
	m := publisher.Metadata{Tree: tree, Keys: keys}
	if err := m.Publish(t.Context(), "stable", manifest("202601010000")); err != nil {
		t.Fatal(err)
	}
	if err := m.Rotate(t.Context(), "timestamp", 1, next); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "timestamp.pem")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, filepath.Join(dir, "timestamp.pkcs11")); err != nil {
		t.Fatal(err)
	}
	if err := m.Publish(t.Context(), "stable", manifest("202602010000")); err != nil {
		t.Fatal(err)
	}
	store, err := tuf.OpenDir(tree)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	found, err := (&tuf.Publisher{Store: store}).Manifests("stable")
	if err != nil || len(found) != 2 {
		t.Errorf("%d releases, %v", len(found), err)
	}
}

// What names no key in a token, or says a PIN to everybody, is refused before a tree changes.
func TestKeys_FileOfATokenThatIsNotInOrder_IsRefused(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"no URI":       {"targets.pkcs11": "token=t"},
		"two lines":    {"targets.pkcs11": "pkcs11:object=a\npkcs11:object=b"},
		"file as well": {"targets.pkcs11": "pkcs11:object=a", "targets.pem": ""},
		"PIN for all":  {"targets.pkcs11": "pkcs11:object=a?pin-value=1"},
	} {
		dir, tree := t.TempDir(), t.TempDir()
		keys := publisher.Keys{Dir: dir}
		if err := keys.Make(t.Context(), "stable"); err != nil {
			t.Fatal(err)
		}
		if _, both := files["targets.pem"]; !both {
			if err := os.Remove(filepath.Join(dir, "targets.pem")); err != nil {
				t.Fatal(err)
			}
		}
		write(t, filepath.Join(dir, "targets.pkcs11"), files["targets.pkcs11"])
		if err := os.Chmod(filepath.Join(dir, "targets.pkcs11"), 0o644); err != nil {
			t.Fatal(err)
		}
		if file := newKey(t); strings.HasPrefix(files["targets.pkcs11"], "pkcs11:") {
			keys.Run = token(t, map[string]string{"pkcs11:object=a": file, "pkcs11:object=a?": file})
		}
		err := (publisher.Metadata{Tree: tree, Keys: keys}).Publish(t.Context(), "stable", manifest("202601010000"))
		if _, there := os.Stat(filepath.Join(tree, "tuf", "timestamp.json")); err == nil || there == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
