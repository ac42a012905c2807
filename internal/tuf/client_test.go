package tuf

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-os/holdfast/api/release"
)

// What was published is what a node reads, for its channel and architecture alone.
func TestNewest_HonestTree_GivesTheHighestVersionOfTheChannel(t *testing.T) {
	w := newWorld(t)
	w.publish("stable", v2)
	w.publish("testing", v3)
	c := w.client()
	status, err := c.Refresh(t.Context())
	w.must(err)
	same(t, Status{
		Root: 1, Timestamp: 4, Snapshot: 4, Targets: 1, Expires: start.Add(14 * day), Reference: start, ClockConfirmed: true, Changed: true,
	}, status)
	got, err := c.Newest(t.Context(), "stable", "aarch64")
	w.must(err)
	same(t, manifestOf(v2, "aarch64"), got)
	versions, err := c.Versions(t.Context(), "stable", x86)
	w.must(err)
	same(t, []string{v2, v1}, versions)
	older, err := c.Manifest(t.Context(), "stable", x86, v1)
	w.must(err)
	same(t, manifestOf(v1, x86), older)
	_, err = c.Manifest(t.Context(), "stable", x86, v3)
	checkErr(t, err, ErrNoRelease)
	_, err = c.Newest(t.Context(), "nightly", x86)
	checkErr(t, err, ErrNoRelease)
	_, err = w.client().Newest(t.Context(), "testing", x86)
	w.must(err)
}

// A release that turned out bad is taken back, and the node is told the one before.
func TestNewest_WithdrawnRelease_GivesTheOneBefore(t *testing.T) {
	w := newWorld(t)
	w.publish("stable", v2)
	same(t, v2, w.newest())
	w.must(w.p.Withdraw(t.Context(), "stable", v2))
	same(t, v1, w.newest())
}

// Nothing of what a node remembers is for others to read, and a second refresh of the
// same tree is no news.
func TestRefresh_Twice_RemembersUnderRootAloneAndReportsNoChange(t *testing.T) {
	w := newWorld(t)
	same(t, true, w.refresh().Changed)
	before := w.remembered()
	same(t, false, w.refresh().Changed)
	same(t, before, w.remembered())
	modes := map[string]os.FileMode{}
	entries, err := os.ReadDir(w.dir)
	w.must(err)
	for _, entry := range entries {
		info, err := entry.Info()
		w.must(err)
		modes[entry.Name()] = info.Mode()
	}
	same(t, map[string]os.FileMode{"root.json": 0o600, "trusted.json": 0o600}, modes)
	info, err := os.Stat(w.dir)
	w.must(err)
	same(t, 0o700|os.ModeDir, info.Mode())
}

// A client that lives for weeks must not go on with what has expired in the meantime.
func TestVersions_MetadataExpiredSinceTheRefresh_RefreshesOrRefuses(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	_, err := c.Refresh(t.Context())
	w.must(err)
	w.now = start.Add(15 * day)
	_, err = c.Versions(t.Context(), "stable", x86)
	checkErr(t, err, ErrExpired)
	_, err = w.p.Refresh(t.Context())
	w.must(err)
	w.publish("stable", v2)
	versions, err := c.Versions(t.Context(), "stable", x86)
	w.must(err)
	same(t, []string{v2, v1}, versions)
}

// The owner revoked a key; that a mirror then holds the rest back must not keep in force
// what the key had signed.
func TestVersions_RootRotatedAndTheRestHeldBack_AcceptsNothingOfBefore(t *testing.T) {
	w := newWorld(t)
	mirror := w.copy()
	c := w.client(mirror)
	_, err := c.Refresh(t.Context())
	w.must(err)
	w.p.Signers = append(w.p.Signers, key("timestamp-new"))
	w.must(w.p.Rotate(t.Context(), "timestamp", role(1, "timestamp-new")))
	mirror["2.root.json"] = w.tree["2.root.json"]
	_, err = c.Refresh(t.Context())
	checkErr(t, err, ErrUntrusted)
	_, err = c.Versions(t.Context(), "stable", x86)
	checkErr(t, err, ErrUntrusted)
}

func TestOpen_WithoutWhatItNeeds_SaysSo(t *testing.T) {
	w := newWorld(t)
	clock := func() (time.Time, bool) { return start, true }
	if _, err := Open(Options{Root: w.image, Dir: w.dir, Clock: clock}); err == nil {
		t.Error("no mirror was accepted")
	}
	if _, err := Open(Options{Root: w.image, Dir: w.dir, Mirrors: []Fetcher{w.tree}}); err == nil {
		t.Error("no clock was accepted")
	}
	_, err := Open(Options{Root: []byte("{}"), Dir: w.dir, Mirrors: []Fetcher{w.tree}, Clock: clock})
	checkErr(t, err, ErrMetadata)
}

// A channel's or an architecture's name comes from the owner's configuration, and leads
// to files.
func TestVersions_NamesThatLeadElsewhere_AreRefused(t *testing.T) {
	w := newWorld(t)
	c := w.client(fetcher(func(_ context.Context, path string, max int64) ([]byte, error) {
		return w.tree.Fetch(context.Background(), path, max)
	}))
	for _, channel := range []string{"", "../stable", "root", "targets", "snapshot", "timestamp", "a/b", "Stable", "a\x00"} {
		if _, err := c.Versions(t.Context(), channel, x86); err == nil || errors.Is(err, ErrNoRelease) {
			t.Errorf("channel %q: got error %v", channel, err)
		}
	}
	if _, err := c.Versions(t.Context(), "stable", "../x86_64"); err == nil || errors.Is(err, ErrNoRelease) {
		t.Errorf("got error %v", err)
	}
}

func manyParts(part release.Part, n int) []release.Part {
	all := []release.Part{}
	for i := range n {
		part.Name = fmt.Sprintf("part-%d", i)
		all = append(all, part)
	}
	return all
}

func manyDeltas(delta release.Delta, n int) []release.Delta {
	all := []release.Delta{}
	for i := range n {
		delta.From = fmt.Sprintf("2020%08d", i)
		all = append(all, delta)
	}
	return all
}

// What CheckManifest lets through is what the node will fetch and run.
func TestCheckManifest_Malformed_IsRefused(t *testing.T) {
	cases := map[string]func(*release.Manifest){
		"other format":             func(m *release.Manifest) { m.Format = "2" },
		"version with letters":     func(m *release.Manifest) { m.Version = "2026110100x0" },
		"unknown architecture":     func(m *release.Manifest) { m.Architecture = "riscv64" },
		"no part":                  func(m *release.Manifest) { m.Parts = nil },
		"too many parts":           func(m *release.Manifest) { m.Parts = manyParts(m.Parts[0], 129) },
		"name with a folder":       func(m *release.Manifest) { m.Parts[0].Name = "a/b" },
		"name upwards":             func(m *release.Manifest) { m.Parts[0].Name = ".." },
		"name with a zero byte":    func(m *release.Manifest) { m.Parts[0].Name = "a\x00" },
		"name like an option":      func(m *release.Manifest) { m.Parts[0].Name = "-rf" },
		"part twice":               func(m *release.Manifest) { m.Parts = append(m.Parts, m.Parts[0]) },
		"part without size":        func(m *release.Manifest) { m.Parts[0].Size = 0 },
		"part too large":           func(m *release.Manifest) { m.Parts[0].Size = 16<<30 + 1 },
		"sum in capitals":          func(m *release.Manifest) { m.Parts[0].SHA256 = "AB" + m.Parts[0].SHA256[2:] },
		"sum too short":            func(m *release.Manifest) { m.Parts[0].SHA256 = "ab" },
		"path upwards":             func(m *release.Manifest) { m.Parts[0].Full.Path = "../etc/shadow" },
		"path upwards inside":      func(m *release.Manifest) { m.Parts[0].Full.Path = "a/../../b" },
		"path absolute":            func(m *release.Manifest) { m.Parts[0].Full.Path = "/etc/shadow" },
		"path hidden":              func(m *release.Manifest) { m.Parts[0].Full.Path = "a/.b" },
		"path empty":               func(m *release.Manifest) { m.Parts[0].Full.Path = "" },
		"path with backslash":      func(m *release.Manifest) { m.Parts[0].Full.Path = `a\b` },
		"path of a query":          func(m *release.Manifest) { m.Parts[0].Full.Path = "a?b" },
		"path into the metadata":   func(m *release.Manifest) { m.Parts[0].Full.Path = "tuf/timestamp.json" },
		"packed file without size": func(m *release.Manifest) { m.Parts[0].Full.Size = -1 },
		"chunk list without sum":   func(m *release.Manifest) { m.Parts[0].Chunks.Index.SHA256 = "" },
		"chunks too large":         func(m *release.Manifest) { m.Parts[0].Chunks.Pack.Size = 1 << 60 },
		"delta from itself":        func(m *release.Manifest) { m.Parts[0].Deltas[0].From = m.Version },
		"delta from later":         func(m *release.Manifest) { m.Parts[0].Deltas[0].From = "209901010000" },
		"delta twice":              func(m *release.Manifest) { m.Parts[0].Deltas = append(m.Parts[0].Deltas, m.Parts[0].Deltas[0]) },
		"delta without base":       func(m *release.Manifest) { m.Parts[0].Deltas[0].BaseSHA256 = "" },
		"delta of no size":         func(m *release.Manifest) { m.Parts[0].Deltas[0].BaseSize = 0 },
		"delta's patch outside":    func(m *release.Manifest) { m.Parts[0].Deltas[0].Patch.Path = "../x" },
		"too many deltas":          func(m *release.Manifest) { m.Parts[0].Deltas = manyDeltas(m.Parts[0].Deltas[0], 65) },
		"document outside":         func(m *release.Manifest) { m.Documents[0].Blob.Path = "../x" },
		"document against nothing": func(m *release.Manifest) { m.Documents[0].From = "../x" },
		"too many documents":       func(m *release.Manifest) { m.Documents = slices.Repeat(m.Documents, 1025) },
		"one file, two sums": func(m *release.Manifest) {
			m.Documents[0].Blob.Path = m.Parts[0].Full.Path
		},
	}
	most := manifestOf(v1, x86)
	most.Parts = manyParts(most.Parts[0], 128)
	most.Parts[0].Deltas = manyDeltas(most.Parts[0].Deltas[0], 64)
	most.Documents = slices.Repeat(most.Documents, 1024)
	if err := CheckManifest(most); err != nil {
		t.Fatal(err)
	}
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			m := manifestOf(v1, x86)
			change(&m)
			checkErr(t, CheckManifest(m), ErrManifest)
		})
	}
}
