package state_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/state"
)

type window struct {
	Start int `json:"start"`
}

type settings struct {
	Channel string            `json:"channel"`
	Every   string            `json:"every,omitempty"`
	Window  *window           `json:"window,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
}

var document = state.Document{Name: "update", Version: 1}

func open(t testing.TB) (*state.Store, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	store, err := state.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return store, dir
}

func put(t testing.TB, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestLoad_NeverSaved_KeepsTheDefaults(t *testing.T) {
	store, _ := open(t)
	got := settings{Channel: "stable"}
	loaded, err := store.Load(document, &got)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(settings{Channel: "stable"}, got); diff != "" || loaded.Found {
		t.Errorf("found %v, %s", loaded.Found, diff)
	}
}

// What an owner has set is what is there after a restart, and only root can read it.
func TestSave_ThenLoad_GivesTheSame(t *testing.T) {
	store, dir := open(t)
	want := settings{Channel: "testing", Window: &window{Start: 3}, Labels: map[string]string{"a": "b"}}
	if err := store.Save(document, want); err != nil {
		t.Fatal(err)
	}
	var got settings
	if _, err := store.Load(document, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	info, err := os.Stat(filepath.Join(dir, "update.json"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v", info.Mode(), err)
	}
}

// A node that went back to an older release must not lose what the newer one had set.
func TestSave_KeysOfANewerRelease_AreKept(t *testing.T) {
	store, dir := open(t)
	put(t, dir, "update.json", `{"version":1,"data":{"channel":"stable","every":"6h","later":[1,2],"window":{"start":1,"jitter":9.5},"labels":{"gone":"x"}}}`)
	if err := store.Save(document, settings{Channel: "testing", Window: &window{Start: 2}, Labels: map[string]string{"new": "y"}}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "update.json"))
	if err != nil {
		t.Fatal(err)
	}
	var got any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"version": 1.0, "data": map[string]any{
		"channel": "testing", "later": []any{1.0, 2.0},
		"window": map[string]any{"start": 2.0, "jitter": 9.5}, "labels": map[string]any{"new": "y"},
	}}
	if diff := cmp.Diff(any(want), got); diff != "" {
		t.Error(diff)
	}
}

// A disk that lost the last write must not cost the node its configuration.
func TestLoad_DamagedFile_GivesTheCopyAndSaysSo(t *testing.T) {
	for name, text := range map[string]string{
		"empty":      "",
		"zeros":      "\x00\x00\x00\x00",
		"cut short":  `{"version":1,"data":{"chan`,
		"no data":    `{"version":1}`,
		"no version": `{"data":{}}`,
		"null":       `null`,
	} {
		t.Run(name, func(t *testing.T) {
			store, dir := open(t)
			for _, channel := range []string{"first", "second"} {
				if err := store.Save(document, settings{Channel: channel}); err != nil {
					t.Fatal(err)
				}
			}
			put(t, dir, "update.json", text)
			var got settings
			loaded, err := store.Load(document, &got)
			if err != nil || loaded.Damage == nil || got.Channel != "first" {
				t.Fatalf("got %+v, damage %v, error %v", got, loaded.Damage, err)
			}
			if err := store.Save(document, settings{Channel: "third"}); err != nil {
				t.Fatal(err)
			}
			copied, err := os.ReadFile(filepath.Join(dir, "update.json.bak"))
			if err != nil || !json.Valid(copied) {
				t.Errorf("the good copy was replaced by the damaged text: %q, %v", copied, err)
			}
		})
	}
}

func TestLoad_DamagedFileAndCopy_IsAnError(t *testing.T) {
	store, dir := open(t)
	put(t, dir, "update.json", "")
	put(t, dir, "update.json.bak", "{")
	var got settings
	if _, err := store.Load(document, &got); err == nil {
		t.Errorf("got %+v and no error", got)
	}
}

var second = state.Document{Name: "update", Version: 2, Migrations: []state.Migration{
	func(data map[string]json.RawMessage) error {
		data["every"] = data["frequency"]
		delete(data, "frequency")
		return nil
	},
}}

// The release in the older slot must still find its settings after an update and a way back.
func TestMigration_UpAndBack_BothReleasesReadTheirOwn(t *testing.T) {
	store, dir := open(t)
	put(t, dir, "update.json", `{"version":1,"data":{"channel":"stable","frequency":"1h"}}`)
	var newer settings
	if _, err := store.Load(second, &newer); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(settings{Channel: "stable", Every: "1h"}, newer); diff != "" {
		t.Error(diff)
	}
	newer.Channel = "testing"
	if err := store.Save(second, newer); err != nil {
		t.Fatal(err)
	}
	var older struct{ Channel, Frequency string }
	if _, err := store.Load(document, &older); err != nil {
		t.Fatal(err)
	}
	if older.Channel != "stable" || older.Frequency != "1h" {
		t.Errorf("the older release reads %+v", older)
	}
}

func TestLoad_OnlyANewerReleaseCanReadIt_IsErrNewer(t *testing.T) {
	store, dir := open(t)
	put(t, dir, "update.json", `{"version":7,"data":{}}`)
	var got settings
	if _, err := store.Load(document, &got); !errors.Is(err, state.ErrNewer) {
		t.Errorf("got %v", err)
	}
}

func TestLoad_NameWithAPath_IsRefused(t *testing.T) {
	store, _ := open(t)
	if _, err := store.Load(state.Document{Name: "../passwd", Version: 1}, &settings{}); err == nil {
		t.Error("no error")
	}
}

// Whatever stands in the file: nothing breaks, and what is saved next is read back.
func FuzzStore_AnyFile_SaveThenLoadGivesTheSame(f *testing.F) {
	f.Add([]byte(`{"version":1,"data":{"channel":"stable","x":{"y":[1]}}}`), "testing", 4)
	f.Add([]byte(`{"version":1,"data":{"window":null,"labels":3}}`), "", 0)
	f.Add([]byte(`{"version":9,"data":{}}`), "é\x00", -1)
	f.Add([]byte{}, "a", 1)
	f.Fuzz(func(t *testing.T, text []byte, channel string, start int) {
		store, dir := open(t)
		put(t, dir, "update.json", string(text))
		var before settings
		if loaded, err := store.Load(document, &before); err == nil && !loaded.Found {
			t.Error("a file was taken for none")
		}
		encoded, err := json.Marshal(settings{Channel: channel, Window: &window{Start: start}})
		if err != nil {
			t.Fatal(err)
		}
		var want, got settings
		if err := json.Unmarshal(encoded, &want); err != nil {
			t.Fatal(err)
		}
		if err := store.Save(document, want); err != nil {
			t.Fatal(err)
		}
		if _, err := store.Load(document, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}
