package tuf

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/holdfast-os/holdfast/internal/state"
)

// put makes the node's directory hold exactly these files.
func (w *world) put(held map[string]string) {
	w.t.Helper()
	w.must(os.RemoveAll(w.dir))
	w.must(os.Mkdir(w.dir, 0o700))
	for name, text := range held {
		w.must(os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o600))
	}
}

// held is what the directory holds, by name.
func (w *world) held() map[string]string {
	w.t.Helper()
	found := map[string]string{}
	entries, err := os.ReadDir(w.dir)
	w.must(err)
	for _, entry := range entries {
		text, err := os.ReadFile(filepath.Join(w.dir, entry.Name()))
		w.must(err)
		found[entry.Name()] = string(text)
	}
	return found
}

// A power cut while the node remembers: whatever mix of old, new, torn and missing files
// the disk then holds, the next refresh works, and what was whole still guards against
// older metadata.
func TestRefresh_TornDirectory_NextRefreshWorks(t *testing.T) {
	w := newWorld(t)
	w.refresh()
	first := w.copy()
	old := w.held()
	w.p.Signers = append(w.p.Signers, key("timestamp-2"))
	w.must(w.p.Rotate(t.Context(), "timestamp", role(1, "timestamp", "timestamp-2")))
	w.publish("stable", v2)
	w.refresh()
	next := w.held()
	same(t, []string{"root.json", "root.json.bak", "trusted.json", "trusted.json.bak"}, slices.Sorted(maps.Keys(next)))
	half := func(text string) string { return text[:len(text)/2] }
	choices := func(name string) []map[string]string {
		return []map[string]string{
			{name: old[name]}, {name: next[name]}, {name: next[name], name + ".bak": old[name]},
			{name: old[name], name + ".bak": old[name]}, {name: old[name], name + ".tmp": half(next[name])},
			{name: old[name], name + ".bak": old[name], name + ".bak.tmp": old[name], name + ".tmp": ""},
			{name + ".bak": old[name]}, {name: half(next[name]), name + ".bak": old[name]},
			{name: ""}, {name: half(next[name])}, {name: "\x00\x00"}, {name: `{"version":1,"data":{"root":"e30=","timestamp":"e30=","snapshot":"e30="}}`}, {},
		}
	}
	try := func(root, trusted map[string]string) {
		both := maps.Clone(root)
		maps.Copy(both, trusted)
		w.put(both)
		if trusted["trusted.json"] == next["trusted.json"] {
			_, err := w.client(first).Refresh(t.Context())
			checkErr(t, err, ErrVersion)
		}
		same(t, v2, w.newest())
		_, err := w.client(first).Refresh(t.Context())
		checkErr(t, err, ErrVersion)
	}
	for _, root := range choices("root.json") {
		try(root, map[string]string{"trusted.json": old["trusted.json"]})
	}
	for _, trusted := range choices("trusted.json") {
		try(map[string]string{"root.json": next["root.json"]}, trusted)
	}
}

// A node that went back to an older release must still update, though it cannot read what
// the newer one remembered; it says so.
func TestRefresh_StateOfANewerFormat_StartsFromTheImageAndSaysSo(t *testing.T) {
	w := newWorld(t)
	w.put(map[string]string{
		"root.json":    `{"version":2,"data":{"roots":[]}}`,
		"trusted.json": `{"version":7,"data":{"all":"new"}}`,
	})
	status := w.refresh()
	if len(status.Warnings) != 1 || !errors.Is(status.Warnings[0], state.ErrNewer) {
		t.Errorf("got warnings %v", status.Warnings)
	}
	same(t, v1, w.newest())
	same(t, 0, len(w.refresh().Warnings))
}

// A newer image brings a newer root, and an older one does not bring an older root back.
func TestRefresh_ImageWithAnotherRoot_TheNewerRootCounts(t *testing.T) {
	w := newWorld(t)
	first := w.image
	w.refresh()
	w.p.Signers = append(w.p.Signers, key("timestamp-new"))
	w.must(w.p.Rotate(t.Context(), "timestamp", role(1, "timestamp-new")))
	w.image = w.tree["2.root.json"]
	onlyNew := w.copy()
	delete(onlyNew, "2.root.json")
	same(t, int64(2), w.refresh(onlyNew).Root)
	w.image = first
	same(t, int64(2), w.refresh(onlyNew).Root)
}

// A disk that is full must not make the node take for accepted what it cannot remember.
func TestRefresh_DirectoryCannotBeWritten_IsAnErrorAndNothingIsAccepted(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	w.must(os.Mkdir(filepath.Join(w.dir, "trusted.json.tmp"), 0o700))
	w.must(os.WriteFile(filepath.Join(w.dir, "trusted.json.tmp", "x"), nil, 0o600))
	if _, err := c.Refresh(t.Context()); err == nil {
		t.Error("the refresh went well")
	}
	if _, err := c.Newest(t.Context(), "stable", x86); err == nil {
		t.Error("a release was given")
	}
}
