package tuf

import (
	"bytes"
	"context"
	"path/filepath"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// verified tells whether bytes pass for a role's document, whatever its version and end.
func verified[T metadata.Roles](root *rootMeta, role string, data []byte) bool {
	m, err := parse[T](data, maxTargets)
	return err == nil && root.VerifyDelegate(role, m) == nil
}

// No bytes of a mirror may stop the daemon, and none that it made up may pass.
func FuzzMetadata_ForeignBytes_NeitherPanicNorPass(f *testing.F) {
	w := newWorld(f)
	w.publish("stable", v2)
	genuine := map[string]bool{}
	for _, data := range w.tree {
		f.Add(data)
		genuine[canonical(data)] = true
	}
	for _, text := range []string{
		`{"signed":{"_type":"root","keys":{"a":null},"roles":{"root":null}}}`, `{"signed":{"_type":"targets","targets":{"a":null}}}`,
		`{"signed":{"_type":"timestamp","meta":null}}`, `{"signatures":[{"keyid":"a","sig":"0"}],"signed":{"_type":"snapshot"}}`,
	} {
		f.Add([]byte(text))
	}
	root, err := selfSigned(w.image)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		passed := verified[metadata.RootType](root, "root", data) || verified[metadata.TimestampType](root, "timestamp", data) ||
			verified[metadata.SnapshotType](root, "snapshot", data) || verified[metadata.TargetsType](root, "targets", data)
		if passed && !genuine[canonical(data)] {
			t.Errorf("made-up bytes passed: %q", data)
		}
	})
}

// canonical is what is signed in a document; "" for none.
func canonical(data []byte) string {
	for _, text := range []func([]byte) (string, bool){signedPart[metadata.RootType], signedPart[metadata.TimestampType], signedPart[metadata.SnapshotType], signedPart[metadata.TargetsType]} {
		if signed, ok := text(data); ok {
			return signed
		}
	}
	return ""
}

func signedPart[T metadata.Roles](data []byte) (string, bool) {
	m, err := parse[T](data, maxTargets)
	if err != nil {
		return "", false
	}
	m.ClearSignatures()
	text, err := m.ToBytes(false)
	return string(text), err == nil
}

// Whatever a manifest says, what passes keeps inside the tree and can be written again.
func FuzzManifest_ForeignBytes_NeitherPanicNorLeadOutside(f *testing.F) {
	for _, m := range []string{v1, v2} {
		text, err := encodeManifest(manifestOf(m, x86))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(`{"format":"1","parts":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseManifest(data, x86, v1)
		if err != nil {
			return
		}
		text, err := encodeManifest(m)
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseManifest(text, x86, v1)
		if err != nil {
			t.Fatal(err)
		}
		twice, err := encodeManifest(again)
		if err != nil || !bytes.Equal(text, twice) {
			t.Errorf("%q became %q: %v", text, twice, err)
		}
		for _, part := range m.Parts {
			if !filepath.IsLocal(part.Full.Path) {
				t.Errorf("path %q", part.Full.Path)
			}
		}
	})
}

// One changed file anywhere in a mirror: refused, or without effect.
func FuzzNewest_OneFileChanged_NoOtherReleaseIsTaken(f *testing.F) {
	w := newWorld(f)
	w.publish("stable", v2)
	names := []string{"2.root.json", timestampFile, "3.snapshot.json", "1.targets.json", "3.stable.json"}
	for i, name := range names {
		f.Add(uint8(i), w.tree[name])
	}
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		at := *w
		at.t, at.dir = t, t.TempDir()
		mirror := at.copy()
		mirror[names[int(which)%len(names)]] = data
		got, err := at.client(mirror).Newest(context.Background(), "stable", x86)
		if err == nil && got.Version != v2 {
			t.Errorf("release %s was taken", got.Version)
		}
	})
}
