package tuf

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/holdfast-os/holdfast/api/release"
)

type (
	rootMeta      = metadata.Metadata[metadata.RootType]
	timestampMeta = metadata.Metadata[metadata.TimestampType]
	snapshotMeta  = metadata.Metadata[metadata.SnapshotType]
	targetsMeta   = metadata.Metadata[metadata.TargetsType]
)

// attack is a node that has seen a tree, and then meets somebody who can change all that
// it reads, and may have stolen keys.
type attack struct {
	// name begins with the attack's name where TUF lists it.
	name string
	want error
	// evil gives the mirror; the world's tree is what is right.
	evil func(w *world) Fetcher
	// signed says that thieves have every online key: only the manifest is not right, and
	// what is above it is remembered.
	signed bool
}

// refused runs an attack, and then checks that nothing of it is remembered and that an
// honest mirror still works.
func refused(t *testing.T, a attack) {
	w := newWorld(t)
	w.publish("stable", v2)
	w.refresh()
	mirror := a.evil(w)
	before := w.remembered()
	got, err := w.client(mirror).Newest(t.Context(), "stable", x86)
	checkErr(t, err, a.want)
	same(t, release.Manifest{}, got)
	if a.signed {
		w.publish("stable", "202611140000") // the thief took this number
	} else {
		same(t, before, w.remembered())
	}
	_, err = w.p.Refresh(t.Context())
	w.must(err)
	w.publish("stable", v3)
	same(t, v3, w.newest(mirror, w.tree))
}

// evilTimestamp and those below give the tree with one document that a thief has changed
// and signed with the keys that he has.
func evilTimestamp(w *world, change func(*timestampMeta), names ...string) files {
	mirror := w.copy()
	mirror[timestampFile] = forge(w.t, mirror[timestampFile], change, names...)
	return mirror
}

func evilChannel(w *world, change func(*targetsMeta), names ...string) files {
	mirror := w.copy()
	at := w.current("stable")
	w.chain(mirror, "stable", at+1, forge(w.t, mirror[metaFile("stable", at)], func(m *targetsMeta) {
		m.Signed.Version++
		change(m)
	}, names...))
	return mirror
}

func evilTargets(w *world, change func(*targetsMeta), names ...string) files {
	mirror := w.copy()
	at := w.current("targets")
	w.chain(mirror, "targets", at+1, forge(w.t, mirror[metaFile("targets", at)], func(m *targetsMeta) {
		m.Signed.Version++
		change(m)
	}, names...))
	return mirror
}

func evilSnapshot(w *world, change func(*snapshotMeta)) files {
	mirror := w.copy()
	w.rename(mirror, change)
	return mirror
}

func evilRoot(w *world, change func(*rootMeta), names ...string) files {
	mirror := w.copy()
	mirror["2.root.json"] = forge(w.t, mirror["1.root.json"], func(m *rootMeta) {
		m.Signed.Version++
		change(m)
	}, names...)
	return mirror
}

// evilText changes the text of the timestamp behind the signature.
func evilText(w *world, change func(string) string) files {
	mirror := w.copy()
	mirror[timestampFile] = []byte(change(string(mirror[timestampFile])))
	return mirror
}

// replaced is the tree with other bytes for the files whose names contain part.
func replaced(w *world, part string, change func([]byte) []byte) files {
	mirror := w.copy()
	found := false
	for name, data := range mirror {
		if strings.Contains(name, part) {
			mirror[name], found = change(data), true
		}
	}
	if !found {
		w.t.Fatalf("no file with %q", part)
	}
	return mirror
}

var none = func(*timestampMeta) {}

// Whoever can change what a node reads must not be able to choose what it runs.
func TestNewest_MirrorWithoutKeys_IsRefused(t *testing.T) {
	all := []attack{
		{name: "arbitrary install: all signed by other keys", want: ErrUntrusted, evil: func(w *world) Fetcher {
			mirror := w.copy()
			mirror[timestampFile] = forge(t, mirror[timestampFile], func(m *timestampMeta) { m.Signed.Version++ }, "mallory")
			return mirror
		}},
		{name: "arbitrary install: own root", want: ErrUntrusted, evil: func(w *world) Fetcher {
			other := newWorld(t)
			other.p.Signers = append(keys(allKeys...), key("mallory"))
			_, id, err := tufKey(key("mallory").Public())
			w.must(err)
			return evilRoot(w, func(m *rootMeta) {
				public, _, err := tufKey(key("mallory").Public())
				w.must(err)
				m.Signed.Keys[id] = public
				m.Signed.Roles["root"] = &metadata.Role{KeyIDs: []string{id}, Threshold: 1}
			}, "mallory")
		}},
		{name: "arbitrary install: signature cut off", want: ErrUntrusted, evil: func(w *world) Fetcher {
			return evilTimestamp(w, func(m *timestampMeta) { m.Signed.Version++ })
		}},
		{name: "endless data: timestamp", want: ErrLimit, evil: func(w *world) Fetcher { return endless(w, "timestamp") }},
		{name: "endless data: root", want: ErrLimit, evil: func(w *world) Fetcher { return endless(w, "2.root") }},
		{name: "endless data: channel", want: ErrLimit, evil: func(w *world) Fetcher { return endless(w, ".stable.json") }},
		{name: "endless data: manifest", want: ErrLimit, evil: func(w *world) Fetcher { return endless(w, "targets/stable") }},
		{name: "extraneous dependencies: a part more in the manifest", want: ErrLimit, evil: func(w *world) Fetcher {
			return replaced(w, v2, func(data []byte) []byte {
				var m release.Manifest
				w.must(json.Unmarshal(data, &m))
				m.Parts = append(m.Parts, release.Part{Name: "rootkit.raw"})
				text, err := json.Marshal(m)
				w.must(err)
				return text
			})
		}},
		{name: "mix-and-match: targets of before under the new name", want: ErrMismatch, evil: func(w *world) Fetcher {
			old := w.tree["1.stable.json"]
			return replaced(w, metaFile("stable", w.current("stable")), func([]byte) []byte { return old })
		}},
		{name: "mix-and-match: another channel's documents", want: ErrMismatch, evil: func(w *world) Fetcher {
			testing := w.tree["1.testing.json"]
			return replaced(w, metaFile("stable", w.current("stable")), func([]byte) []byte { return testing })
		}},
		{name: "wrong software: the other architecture's manifest", want: ErrLimit, evil: func(w *world) Fetcher {
			var other []byte
			for name, data := range w.tree {
				if strings.Contains(name, "aarch64") && strings.Contains(name, v2) {
					other = data
				}
			}
			return replaced(w, v2, func([]byte) []byte { return other })
		}},
		{name: "wrong software: the release of before", want: ErrMismatch, evil: func(w *world) Fetcher {
			var other []byte
			for name, data := range w.tree {
				if strings.Contains(name, x86) && strings.Contains(name, v1) {
					other = data
				}
			}
			return replaced(w, v2, func([]byte) []byte { return other })
		}},
		{name: "garbage after the end of a manifest", want: ErrLimit, evil: func(w *world) Fetcher {
			return replaced(w, v2, func(data []byte) []byte { return append(bytes.Clone(data), ' ') })
		}},
		{name: "a manifest with right size and wrong sum", want: ErrMismatch, evil: func(w *world) Fetcher {
			return replaced(w, v2, func(data []byte) []byte { return bytes.Replace(data, []byte("usr.pack"), []byte("usr.hack"), 1) })
		}},
		{name: "hash of delegated metadata", want: ErrMismatch, evil: func(w *world) Fetcher {
			// Valid JSON with valid signatures, only other spaces.
			return replaced(w, metaFile("stable", w.current("stable")), func(data []byte) []byte {
				return append([]byte(" "), data[:len(data)-1]...)
			})
		}},
		{name: "hash of the snapshot", want: ErrMismatch, evil: func(w *world) Fetcher {
			w.publish("testing", v1)
			return replaced(w, metaFile("snapshot", w.current("snapshot")), func(data []byte) []byte {
				return append([]byte(" "), data[:len(data)-1]...)
			})
		}},
		{name: "length of delegated metadata", want: ErrMismatch, evil: func(w *world) Fetcher {
			return replaced(w, metaFile("stable", w.current("stable")), func(data []byte) []byte { return data[:len(data)-1] })
		}},
		{name: "captive portal", want: ErrMetadata, evil: func(w *world) Fetcher {
			return fetcher(func(context.Context, string, int64) ([]byte, error) { return []byte("<html>please log in</html>"), nil })
		}},
		{name: "rollback: the tree of before", want: ErrVersion, evil: func(w *world) Fetcher {
			old := w.copy()
			w.publish("testing", v1)
			w.refresh()
			return old
		}},
		{name: "rollback: only the timestamp of before", want: ErrVersion, evil: func(w *world) Fetcher {
			old := w.copy()
			w.now = start.Add(2 * day)
			_, err := w.p.Refresh(t.Context())
			w.must(err)
			w.refresh()
			return old
		}},
		{name: "freeze: the same tree until after its end", want: ErrExpired, evil: func(w *world) Fetcher {
			old := w.copy()
			w.now = start.Add(15 * day)
			return old
		}},
	}
	for _, a := range all {
		t.Run(a.name, func(t *testing.T) { t.Parallel(); refused(t, a) })
	}
}

// endless is the tree with zeros without end in the place of some files.
func endless(w *world, part string) Fetcher {
	return fetcher(func(ctx context.Context, path string, max int64) ([]byte, error) {
		if !strings.Contains(path, part) {
			return w.tree.Fetch(ctx, path, max)
		}
		if max > maxTargets {
			w.t.Errorf("up to %d bytes of %s would be read", max, path)
		}
		return make([]byte, max+1), nil
	})
}

// A thief of some keys can do what these keys are for, and no more.
func TestNewest_StolenKeys_ReachNoFurtherThanTheirRole(t *testing.T) {
	old := func(m *targetsMeta) { m.Signed.Expires = start.Add(-time.Second) }
	all := []attack{
		{name: "key compromise: one of two keys of targets", want: ErrUntrusted, evil: func(w *world) Fetcher {
			return evilTargets(w, func(*targetsMeta) {}, "targets-1")
		}},
		{name: "key compromise: one of two keys of root", want: ErrUntrusted, evil: func(w *world) Fetcher {
			return evilRoot(w, func(*rootMeta) {}, "root-1")
		}},
		{name: "key compromise: targets' keys for root", want: ErrUntrusted, evil: func(w *world) Fetcher {
			return evilRoot(w, func(*rootMeta) {}, "targets-1", "targets-2", "targets-3")
		}},
		{name: "key compromise: timestamp and snapshot alone publish nothing", want: ErrUntrusted, evil: func(w *world) Fetcher {
			return evilChannel(w, func(m *targetsMeta) {}, "snapshot", "timestamp")
		}},
		{name: "key compromise: another channel's key", want: ErrUntrusted, evil: func(w *world) Fetcher {
			return evilChannel(w, func(m *targetsMeta) {}, "testing")
		}},
		{name: "same key twice", want: ErrMetadata, evil: func(w *world) Fetcher {
			mirror := evilTargets(w, func(*targetsMeta) {}, "targets-1")
			at := w.current("targets") + 1
			twice := bytes.Replace(mirror[metaFile("targets", at)], []byte(`"signatures":[`), []byte(`"signatures":[`+oneSignature(t, mirror[metaFile("targets", at)])+`,`), 1)
			w.chain(mirror, "targets", at, twice)
			return mirror
		}},
		{name: "root version skipped", want: ErrVersion, evil: func(w *world) Fetcher {
			return evilRoot(w, func(m *rootMeta) { m.Signed.Version = 3 }, "root-1", "root-2")
		}},
		{name: "rejected timestamp: newer, but expired", want: ErrExpired, evil: func(w *world) Fetcher {
			return evilTimestamp(w, func(m *timestampMeta) {
				m.Signed.Version = 99
				m.Signed.Expires = start.Add(-time.Second)
				delete(m.Signed.UnrecognizedFields, issuedField)
			}, "timestamp")
		}},
		{name: "timestamp of the same version with other content", want: ErrVersion, evil: func(w *world) Fetcher {
			return evilTimestamp(w, func(m *timestampMeta) { m.Signed.Expires = start.Add(13 * day) }, "timestamp")
		}},
		{name: "timestamp that names an older snapshot", want: ErrVersion, evil: func(w *world) Fetcher {
			// The two snapshots say the same of all roles.
			at := w.current("snapshot")
			w.now = start.Add(16 * day)
			_, err := w.p.Refresh(t.Context())
			w.must(err)
			w.refresh()
			return evilTimestamp(w, func(m *timestampMeta) {
				m.Signed.Version++
				m.Signed.Meta["snapshot.json"] = described(at, w.tree[metaFile("snapshot", at)])
			}, "timestamp")
		}},
		{name: "snapshot of the same version with other content", want: ErrVersion, evil: func(w *world) Fetcher {
			mirror := evilSnapshot(w, func(s *snapshotMeta) { s.Signed.Version--; s.Signed.Expires = start.Add(99 * day) })
			return mirror
		}},
		{name: "snapshot rollback of a channel", want: ErrVersion, evil: func(w *world) Fetcher {
			return evilSnapshot(w, func(s *snapshotMeta) {
				s.Signed.Meta["stable.json"] = described(1, w.tree["1.stable.json"])
			})
		}},
		{name: "snapshot without a channel that was there", want: ErrMetadata, evil: func(w *world) Fetcher {
			return evilSnapshot(w, func(s *snapshotMeta) { delete(s.Signed.Meta, "testing.json") })
		}},
		{name: "snapshot with other content for a channel's version", want: ErrVersion, evil: func(w *world) Fetcher {
			return evilSnapshot(w, func(s *snapshotMeta) {
				s.Signed.Meta["stable.json"] = described(s.Signed.Meta["stable.json"].Version, w.tree["1.stable.json"])
			})
		}},
		{name: "snapshot that expired", want: ErrExpired, evil: func(w *world) Fetcher {
			return evilSnapshot(w, func(s *snapshotMeta) { s.Signed.Expires = start.Add(-time.Second) })
		}},
		{name: "expired delegated role", want: ErrExpired, evil: func(w *world) Fetcher { return evilChannel(w, old, "stable") }},
		{name: "expired targets", want: ErrExpired, evil: func(w *world) Fetcher { return evilTargets(w, old, "targets-1", "targets-2") }},
		{name: "delegated metadata of another version than named", want: ErrVersion, evil: func(w *world) Fetcher {
			return evilChannel(w, func(m *targetsMeta) { m.Signed.Version++ }, "stable")
		}},
	}
	for _, a := range all {
		t.Run(a.name, func(t *testing.T) { t.Parallel(); refused(t, a) })
	}
}

func oneSignature(t *testing.T, data []byte) string {
	t.Helper()
	var envelope struct{ Signatures []json.RawMessage }
	if err := json.Unmarshal(data, &envelope); err != nil || len(envelope.Signatures) != 1 {
		t.Fatal(err)
	}
	return string(envelope.Signatures[0])
}

// What keys signed must still be what documents of this kind may say.
func TestNewest_SignedButMalformed_IsRefused(t *testing.T) {
	timestamp := func(change func(*timestampMeta)) func(*world) Fetcher {
		return func(w *world) Fetcher {
			return evilTimestamp(w, func(m *timestampMeta) { m.Signed.Version++; change(m) }, "timestamp")
		}
	}
	text := func(old, new string) func(*world) Fetcher {
		return func(w *world) Fetcher {
			return evilText(w, func(text string) string {
				if !strings.Contains(text, old) {
					t.Fatalf("%q is not in %s", old, text)
				}
				return strings.Replace(text, old, new, 1)
			})
		}
	}
	snapshot := func(change func(*snapshotMeta)) func(*world) Fetcher {
		return func(w *world) Fetcher { return evilSnapshot(w, change) }
	}
	targets := func(change func(*targetsMeta)) func(*world) Fetcher {
		return func(w *world) Fetcher { return evilTargets(w, change, "targets-1", "targets-2") }
	}
	root := func(change func(*rootMeta)) func(*world) Fetcher {
		return func(w *world) Fetcher { return evilRoot(w, change, "root-1", "root-2") }
	}
	all := []attack{
		{name: "duplicate key", want: ErrMetadata, evil: text(`"signed":{`, `"signed":{"version":9,`)},
		{name: "duplicate key in other case", want: ErrMetadata, evil: text(`"signed":{`, `"signed":{"Version":9,`)},
		{name: "null", want: ErrMetadata, evil: text(`"signed":{`, `"signed":{"x":null,`)},
		{name: "fraction", want: ErrMetadata, evil: text(`"signed":{`, `"signed":{"x":1.5,`)},
		{name: "invalid UTF-8", want: ErrMetadata, evil: text(`"signed":{`, `"signed":{"x":"`+"\xff"+`",`)},
		{name: "too deep", want: ErrMetadata, evil: text(`"signed":{`, `"signed":{"x":`+strings.Repeat("[", 20)+strings.Repeat("]", 20)+`,`)},
		{name: "something behind the end", want: ErrMetadata, evil: text("}\n", "}{}")},
		{name: "33 signatures", want: ErrLimit, evil: text(`"signatures":[`, `"signatures":[`+strings.Repeat(`{"keyid":"a","sig":"00"},`, 32))},
		{name: "other specification", want: ErrMetadata, evil: timestamp(func(m *timestampMeta) { m.Signed.SpecVersion = "2.0.0" })},
		{name: "snapshot without sum", want: ErrMetadata, evil: timestamp(func(m *timestampMeta) { m.Signed.Meta["snapshot.json"].Hashes = nil })},
		{name: "snapshot without size", want: ErrMetadata, evil: timestamp(func(m *timestampMeta) { m.Signed.Meta["snapshot.json"].Length = 0 })},
		{name: "snapshot of 3 MiB", want: ErrMetadata, evil: timestamp(func(m *timestampMeta) { m.Signed.Meta["snapshot.json"].Length = 3 << 20 })},
		{name: "no snapshot", want: ErrMetadata, evil: timestamp(func(m *timestampMeta) { m.Signed.Meta = map[string]*metadata.MetaFiles{} })},
		{name: "signed after its end", want: ErrMetadata, evil: timestamp(func(m *timestampMeta) { m.Signed.UnrecognizedFields[issuedField] = "2099-01-01T00:00:00Z" })},
		{name: "time of signing is no time", want: ErrMetadata, evil: timestamp(func(m *timestampMeta) { m.Signed.UnrecognizedFields[issuedField] = "today" })},
		{name: "channel without sum", want: ErrMetadata, evil: snapshot(func(s *snapshotMeta) { s.Signed.Meta["stable.json"].Hashes = nil })},
		{name: "channel without size", want: ErrMetadata, evil: snapshot(func(s *snapshotMeta) { s.Signed.Meta["stable.json"].Length = 0 })},
		{name: "channel of 6 MiB", want: ErrMetadata, evil: snapshot(func(s *snapshotMeta) { s.Signed.Meta["stable.json"].Length = 6 << 20 })},
		{name: "path outside the store", want: ErrMetadata, evil: snapshot(func(s *snapshotMeta) { s.Signed.Meta["../../x.json"] = s.Signed.Meta["stable.json"] })},
		{name: "100 channels", want: ErrMetadata, evil: snapshot(func(s *snapshotMeta) {
			for i := range 100 {
				s.Signed.Meta["c"+strings.Repeat("x", i%60)+string(rune('a'+i/60))+".json"] = s.Signed.Meta["stable.json"]
			}
		})},
		{name: "two roles for one channel", want: ErrMetadata, evil: targets(func(m *targetsMeta) {
			d := m.Signed.Delegations
			thief := d.Roles[1]
			thief.Paths = []string{"*/*/*"}
			d.Roles = []metadata.DelegatedRole{thief, d.Roles[0]}
		})},
		{name: "hashed bins", want: ErrMetadata, evil: targets(func(m *targetsMeta) {
			d := m.Signed.Delegations
			d.SuccinctRoles = &metadata.SuccinctRoles{KeyIDs: d.Roles[0].KeyIDs, Threshold: 1, BitLength: 8, NamePrefix: "bin"}
			d.Roles = nil
		})},
		{name: "threshold of none", want: ErrMetadata, evil: targets(func(m *targetsMeta) { m.Signed.Delegations.Roles[0].Threshold = 0 })},
		{name: "role that is called root", want: ErrMetadata, evil: targets(func(m *targetsMeta) { m.Signed.Delegations.Roles[1].Name = "root" })},
		{name: "no consistent snapshots", want: ErrMetadata, evil: root(func(m *rootMeta) { m.Signed.ConsistentSnapshot = false })},
		{name: "role without keys", want: ErrMetadata, evil: root(func(m *rootMeta) { m.Signed.Roles["timestamp"].KeyIDs = []string{} })},
		{name: "role that is missing", want: ErrMetadata, evil: root(func(m *rootMeta) { delete(m.Signed.Roles, "timestamp") })},
		{name: "key of 31 bytes", want: ErrMetadata, evil: root(func(m *rootMeta) {
			m.Signed.Keys[m.Signed.Roles["timestamp"].KeyIDs[0]].Value.PublicKey = strings.Repeat("00", 31)
		})},
		{name: "key of an unknown kind", want: ErrMetadata, evil: root(func(m *rootMeta) {
			m.Signed.Keys[m.Signed.Roles["timestamp"].KeyIDs[0]].Type = "rot13"
		})},
		{name: "key with another scheme", want: ErrMetadata, evil: root(func(m *rootMeta) {
			m.Signed.Keys[m.Signed.Roles["timestamp"].KeyIDs[0]].Scheme = "rsassa-pss-sha256"
		})},
		{name: "channel changed in its role", signed: true, want: ErrNoRelease, evil: func(w *world) Fetcher {
			return evilChannel(w, func(m *targetsMeta) { retarget(m, "stable/", "testing/") }, "stable")
		}},
		{name: "architecture changed in its role", signed: true, want: ErrManifest, evil: func(w *world) Fetcher {
			mirror := evilChannel(w, func(m *targetsMeta) {
				arm := m.Signed.Targets[targetPath("stable", "aarch64", v2)]
				m.Signed.Targets = map[string]*metadata.TargetFiles{targetPath("stable", x86, v2): arm}
			}, "stable")
			return moved(mirror, "aarch64", x86)
		}},
		{name: "version changed in its role", signed: true, want: ErrManifest, evil: func(w *world) Fetcher {
			mirror := evilChannel(w, func(m *targetsMeta) {
				m.Signed.Targets[targetPath("stable", x86, v3)] = m.Signed.Targets[targetPath("stable", x86, v1)]
			}, "stable")
			return moved(mirror, v1, v3)
		}},
		{name: "version in the far future", signed: true, want: ErrManifest, evil: func(w *world) Fetcher {
			const late = "203611010000"
			mirror := w.copy()
			data, err := encodeManifest(manifestOf(late, x86))
			w.must(err)
			return withManifest(w, mirror, late, data)
		}},
		{name: "path outside the tree", signed: true, want: ErrManifest, evil: func(w *world) Fetcher {
			m := manifestOf(v3, x86)
			m.Parts[0].Full.Path = "../../etc/shadow"
			data, err := encodeManifest(m)
			w.must(err)
			return withManifest(w, w.copy(), v3, data)
		}},
		{name: "duplicate key in a manifest", signed: true, want: ErrManifest, evil: func(w *world) Fetcher {
			data, err := encodeManifest(manifestOf(v3, x86))
			w.must(err)
			return withManifest(w, w.copy(), v3, bytes.Replace(data, []byte(`{"format"`), []byte(`{"Version":"`+v3+`","format"`), 1))
		}},
		{name: "manifest of 2 MiB", signed: true, want: ErrLimit, evil: func(w *world) Fetcher {
			data, err := encodeManifest(manifestOf(v3, x86))
			w.must(err)
			mirror := withManifest(w, w.copy(), v3, append(data, bytes.Repeat([]byte(" "), 2<<20)...))
			return fetcher(func(ctx context.Context, path string, max int64) ([]byte, error) {
				if strings.Contains(path, "/targets/") && max > 1<<20 {
					w.t.Errorf("up to %d bytes of a manifest would be read", max)
				}
				return mirror.Fetch(ctx, path, max)
			})
		}},
	}
	for _, a := range all {
		t.Run(a.name, func(t *testing.T) { t.Parallel(); refused(t, a) })
	}
}

// retarget gives every target of a role another path.
func retarget(m *targetsMeta, old, new string) {
	targets := map[string]*metadata.TargetFiles{}
	for path, file := range m.Signed.Targets {
		targets[strings.Replace(path, old, new, 1)] = file
	}
	m.Signed.Targets = targets
}

// moved has every manifest under another name too.
func moved(mirror files, old, new string) files {
	for name, data := range mirror {
		if strings.HasPrefix(name, "targets/") && strings.Contains(name, old) {
			mirror[strings.Replace(name, old, new, 1)] = data
		}
	}
	return mirror
}

// withManifest lists a text as a release of the stable channel, properly signed.
func withManifest(w *world, mirror files, version string, data []byte) files {
	named := described(1, data)
	at := w.current("stable")
	w.chain(mirror, "stable", at+1, forge(w.t, mirror[metaFile("stable", at)], func(m *targetsMeta) {
		m.Signed.Version++
		m.Signed.Targets[targetPath("stable", x86, version)] = &metadata.TargetFiles{Length: named.Length, Hashes: named.Hashes}
	}, "stable"))
	mirror[targetFile("stable", x86, version, named.Hashes["sha256"])] = data
	return mirror
}

// Slow retrieval: a mirror that gives a byte now and then costs its minute for each file,
// and not the update.
func TestNewest_SlowMirror_CostsTimeAndTheOtherMirrorServes(t *testing.T) {
	w := newWorld(t)
	synctest.Test(t, func(t *testing.T) {
		slow := fetcher(func(ctx context.Context, _ string, _ int64) ([]byte, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		begin := time.Now()
		c, err := Open(Options{Root: w.image, Dir: w.dir, Mirrors: []Fetcher{slow, w.tree}, Built: w.built, Clock: func() (time.Time, bool) { return start, true }})
		w.must(err)
		got, err := c.Newest(t.Context(), "stable", x86)
		w.must(err)
		same(t, v1, got.Version)
		same(t, 6*time.Minute, time.Since(begin)) // root, timestamp, snapshot, targets, channel, manifest
		w.must(c.Close())
	})
}

// Slow retrieval: the caller's time is the end, however many mirrors there are.
func TestRefresh_OnlySlowMirrors_EndsWithTheContext(t *testing.T) {
	w := newWorld(t)
	w.refresh()
	before := w.remembered()
	synctest.Test(t, func(t *testing.T) {
		drip := fetcher(func(ctx context.Context, _ string, _ int64) ([]byte, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
		defer cancel()
		begin := time.Now()
		c, err := Open(Options{Root: w.image, Dir: w.dir, Mirrors: []Fetcher{drip, drip, drip}, Clock: func() (time.Time, bool) { return start, true }})
		w.must(err)
		_, err = c.Refresh(ctx)
		checkErr(t, err, context.DeadlineExceeded)
		same(t, 90*time.Second, time.Since(begin))
		w.must(c.Close())
	})
	same(t, before, w.remembered())
}

// Malicious mirror prevents updates: a mirror that lies about every file, or holds the
// newest back, must not keep the node from what another one has.
func TestNewest_MaliciousMirror_TheOtherMirrorServes(t *testing.T) {
	stale := func(w *world) Fetcher { return w.copy() }
	all := map[string]func(w *world) Fetcher{
		"nothing at all": func(*world) Fetcher { return files{} },
		"captive portal": func(*world) Fetcher {
			return fetcher(func(context.Context, string, int64) ([]byte, error) { return []byte("<html>"), nil })
		},
		"holds back": stale,
		"newer timestamp, and nothing that belongs to it": func(w *world) Fetcher {
			mirror := evilSnapshot(w, func(*snapshotMeta) {})
			for name := range mirror {
				if name != timestampFile {
					delete(mirror, name)
				}
			}
			return mirror
		},
	}
	for name, evil := range all {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			mirror := evil(w)
			w.publish("stable", v2)
			same(t, v2, w.newest(mirror, w.tree))
			w.publish("stable", v3)
			same(t, v3, w.newest(w.tree, mirror))
		})
	}
}

// Fast-forward: thieves of the online keys push the versions to their end. After the
// owner has rotated the keys, nodes follow again.
func TestRefresh_FastForwardThenRotation_Recovers(t *testing.T) {
	for _, rotated := range [][]string{{"timestamp", "snapshot"}, {"timestamp"}, {"snapshot"}} {
		t.Run(strings.Join(rotated, " and "), func(t *testing.T) { fastForward(t, rotated) })
	}
}

func fastForward(t *testing.T, rotated []string) {
	w := newWorld(t)
	mirror := w.copy()
	at := w.current("snapshot")
	snapshot := forge(t, mirror[metaFile("snapshot", at)], func(s *snapshotMeta) {
		s.Signed.Version = math.MaxInt64
		s.Signed.Meta["testing.json"].Version = math.MaxInt64
	}, "snapshot")
	mirror[metaFile("snapshot", math.MaxInt64)] = snapshot
	mirror[timestampFile] = forge(t, mirror[timestampFile], func(m *timestampMeta) {
		m.Signed.Version = math.MaxInt64
		m.Signed.Expires = start.Add(3000 * day)
		m.Signed.UnrecognizedFields[issuedField] = stamp(start.Add(2999 * day))
		m.Signed.Meta["snapshot.json"] = described(math.MaxInt64, snapshot)
	}, "timestamp")
	w.confirmed, w.clock = false, start
	// The time of signing is after the end of everything else, so the node does not even
	// take it; without that time it does.
	_, err := w.client(mirror).Refresh(t.Context())
	checkErr(t, err, ErrExpired)
	mirror[timestampFile] = forge(t, mirror[timestampFile], func(m *timestampMeta) {
		m.Signed.UnrecognizedFields[issuedField] = stamp(start.Add(20 * day))
	}, "timestamp")
	same(t, int64(math.MaxInt64), w.refresh(mirror).Timestamp)
	_, err = w.client().Refresh(t.Context())
	checkErr(t, err, ErrVersion)
	w.p.Signers = append(w.p.Signers, keys("timestamp-new", "snapshot-new")...)
	for _, name := range rotated {
		w.must(w.p.Rotate(t.Context(), name, role(1, name+"-new")))
	}
	w.publish("stable", v2)
	same(t, v2, w.newest())
	same(t, start, w.refresh().Reference)
	// What the thief signs from now on counts for nothing.
	_, err = w.client(mirror).Refresh(t.Context())
	if err == nil {
		t.Error("the stolen keys still count")
	}
}

// Key compromise: a key that was rotated out signs nothing any more, even if the root
// that says so is all that the node could get before.
func TestRefresh_KeyRotatedOut_IsRefused(t *testing.T) {
	w := newWorld(t)
	w.refresh()
	old := w.copy()
	old[timestampFile] = forge(t, old[timestampFile], func(m *timestampMeta) { m.Signed.Version = 50 }, "timestamp")
	w.p.Signers = append(w.p.Signers, key("timestamp-new"))
	w.must(w.p.Rotate(t.Context(), "timestamp", role(1, "timestamp-new")))
	onlyRoot := files{"2.root.json": w.tree["2.root.json"]}
	if _, err := w.client(onlyRoot).Refresh(t.Context()); err == nil {
		t.Fatal("a mirror without timestamp was enough")
	}
	_, err := w.client(old).Refresh(t.Context())
	checkErr(t, err, ErrUntrusted)
	same(t, v1, w.newest(old, w.tree))
}

// Key compromise: a channel's old key publishes nothing after the channel got another.
func TestNewest_ChannelKeyRotatedOut_IsRefused(t *testing.T) {
	w := newWorld(t)
	w.p.Signers = append(w.p.Signers, key("stable-new"))
	w.must(w.p.Rotate(t.Context(), "stable", role(1, "stable-new")))
	mirror := evilChannel(w, func(*targetsMeta) {}, "stable")
	_, err := w.client(mirror).Newest(t.Context(), "stable", x86)
	checkErr(t, err, ErrUntrusted)
	same(t, v1, w.newest())
}

// Same key twice: one key under two names is one signature.
func TestRefresh_OneKeyUnderTwoNames_CountsOnce(t *testing.T) {
	w := newWorld(t)
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.must(err)
	one := KeySigner(private)
	public, id, err := tufKey(one.Public())
	w.must(err)
	twin := *public
	twin.Type = metadata.KeyTypeECDSA_SHA2_P256_COMPAT
	const other = "ffff"
	mirror := evilRoot(w, func(m *rootMeta) {
		m.Signed.Keys[id], m.Signed.Keys[other] = public, &twin
		m.Signed.Roles["timestamp"] = &metadata.Role{KeyIDs: []string{id, other}, Threshold: 2}
	}, "root-1", "root-2")
	m, err := new(timestampMeta).FromBytes(mirror[timestampFile])
	w.must(err)
	m.Signed.Version++
	_, err = sign(t.Context(), []Signer{one}, []string{id}, m)
	w.must(err)
	m.Signatures = append(m.Signatures, metadata.Signature{KeyID: other, Signature: m.Signatures[0].Signature})
	mirror[timestampFile], err = m.ToBytes(false)
	w.must(err)
	_, err = w.client(mirror).Refresh(t.Context())
	checkErr(t, err, ErrUntrusted)
}

// Forged signatures of the kinds that broke other implementations: zero, empty, overlong.
func TestRefresh_DegenerateSignatures_AreRefused(t *testing.T) {
	w := newWorld(t)
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.must(err)
	w.p.Signers = append(w.p.Signers, KeySigner(private))
	w.must(w.p.Rotate(t.Context(), "timestamp", Role{Keys: []crypto.PublicKey{private.Public()}, Threshold: 1}))
	same(t, v1, w.newest())
	for name, signature := range map[string]string{
		"empty":          "",
		"zero numbers":   "3006020100020100",
		"one":            "3006020101020101",
		"order as s":     "3026020101022100ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551",
		"trailing bytes": "3006020101020101" + strings.Repeat("00", 100),
	} {
		t.Run(name, func(t *testing.T) {
			sig, err := hex.DecodeString(signature)
			w.must(err)
			mirror := w.copy()
			m, err := new(timestampMeta).FromBytes(mirror[timestampFile])
			w.must(err)
			m.Signed.Version++
			m.Signatures[0].Signature = sig
			mirror[timestampFile], err = m.ToBytes(false)
			w.must(err)
			_, err = w.client(mirror).Refresh(t.Context())
			checkErr(t, err, ErrUntrusted)
		})
	}
}

// A node that was off for years follows every root, and one refresh does not go on for
// ever.
func TestRefresh_ManyRoots_FollowsAtMost256AtOnce(t *testing.T) {
	w := newWorld(t)
	mirror := w.copy()
	for version := int64(2); version <= 300; version++ {
		mirror[metaFile("root", version)] = forge(t, mirror[metaFile("root", version-1)], func(m *rootMeta) { m.Signed.Version = version }, "root-1", "root-2")
	}
	same(t, int64(257), w.refresh(mirror).Root)
	same(t, int64(300), w.refresh(mirror).Root)
	same(t, int64(300), w.refresh().Root)
}

// Slow retrieval: when the caller's time is over, nobody is asked any more.
func TestRefresh_ContextIsOver_AsksNobody(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	asked := 0
	last := fetcher(func(context.Context, string, int64) ([]byte, error) {
		asked++
		cancel()
		return nil, context.Canceled
	})
	_, err := w.client(last, last, last).Refresh(ctx)
	checkErr(t, err, context.Canceled)
	same(t, 1, asked)
}
