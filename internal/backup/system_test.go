package backup_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/backup"
	"github.com/holdfast-os/holdfast/internal/config"
)

var localKey = strings.Repeat("k", 32)

const configuration = `{"version":1,"data":{"number":3,"sections":{` +
	`"network":{"interfaces":[{"name":"lan","hwaddr":"52:54:00:00:00:01","kept":1}],"bonds":[{"name":"b","hwaddr":"52:54:00:00:00:02","members":["52:54:00:00:00:02","enp3s0"]}]},` +
	`"security":{"encryption_recovery_keys":["key one"],"custom_ca_certs":["PEM"]}},"later":true}}`

// kept makes the folder of a node.
func kept(t *testing.T, more ...string) string {
	t.Helper()
	dir := t.TempDir()
	files := []string{
		"state/configuration.json", configuration, "state/applications.json", `{"version":1,"data":{"incus":{"version":"202611220104"}}}`,
		"state/change-3.json", `{"version":1,"data":{"number":3}}`, "zpool.local.key", localKey, "recovery.key", "key one",
		"machine-id", "mine", "trusted-fuse-blown", "", "state/configuration.json.bak", "x", "zpool.local.key.creating", "",
		"state/update-agent.json", `{"version":1,"data":{}}`, "image-auth.key", "tpm", "audit/1.log", "log", "state/notes.txt", "x",
	}
	files = append(files, more...)
	for i := 0; i < len(files); i += 2 {
		put(t, filepath.Join(dir, files[i]), files[i+1], 0o600)
	}
	return dir
}

func manifest() osapi.BackupManifest {
	return osapi.BackupManifest{
		Release: "202611220104", MachineID: "aa", CreatedAt: time.Unix(1795309440, 0).UTC(),
		Cards: []osapi.BackupCard{{Name: "enp1s0", Hwaddr: "52:54:00:00:00:01"}, {Name: "enp2s0", Hwaddr: "52:54:00:00:00:02"}},
	}
}

// backedUp is a backup of a node, read again.
func backedUp(t *testing.T, more ...string) backup.System {
	t.Helper()
	collected, err := backup.Collect(kept(t, more...))
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := collected.Write(context.Background(), &archive, manifest()); err != nil {
		t.Fatal(err)
	}
	read, err := backup.ReadSystem(context.Background(), &archive)
	if err != nil {
		t.Fatal(err)
	}
	return read
}

// A backup has what a node is told and what it made up, and nothing that only means
// something on its own machine.
func TestCollect_Node_TakesStateAndKeysAlone(t *testing.T) {
	got := backedUp(t)
	var names []string
	for name := range got.Files {
		names = append(names, name)
	}
	slices.Sort(names)
	want := []string{"recovery.key", "state/applications.json", "state/change-3.json", "state/configuration.json", "zpool.local.key"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
}

// What cannot make a node is refused, each with its reason.
func TestReadSystem_UnfitArchives_AreRefused(t *testing.T) {
	good := func(change func(map[string]string)) []tar.Header {
		files := map[string]string{
			"holdfast-backup.json": "", "state/configuration.json": configuration, "state/applications.json": `{"version":1,"data":{}}`,
		}
		change(files)
		m := manifest()
		m.Format, m.Kind, m.Members = 1, "system", []osapi.BackupMember{}
		var all []tar.Header
		for name, content := range files {
			if name != backup.ManifestName {
				all = append(all, file(name, content))
				m.Members = append(m.Members, osapi.BackupMember{Name: name, Type: "file", Size: int64(len(content)), SHA256: sum(content)})
			}
		}
		if _, has := files[backup.ManifestName]; has {
			text, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, file(backup.ManifestName, string(text)))
		}
		return all
	}
	for name, c := range map[string]struct {
		headers []tar.Header
		want    string
	}{
		"good":             {good(func(map[string]string) {}), ""},
		"of IncusOS":       {[]tar.Header{file("state.txt", "#Version: 8\n"), file("zpool.local.key", localKey)}, "format"},
		"no configuration": {good(func(f map[string]string) { delete(f, "state/configuration.json") }), "content"},
		"no applications":  {good(func(f map[string]string) { delete(f, "state/applications.json") }), "content"},
		"no JSON":          {good(func(f map[string]string) { f["state/configuration.json"] = "{" }), "content"},
		"newer document":   {good(func(f map[string]string) { f["state/security.json"] = `{"version":2,"data":{}}` }), "newer"},
		"newer with its old": {good(func(f map[string]string) {
			f["state/security.json"] = `{"version":2,"data":{}}`
			f["state/security.v1.json"] = `{"version":1,"data":{}}`
		}), ""},
		"short key": {good(func(f map[string]string) { f["zpool.local.key"] = "k" }), "content"},
		"link":      {append(good(func(map[string]string) {}), link("a", "b")), "link"},
	} {
		_, err := backup.ReadSystem(context.Background(), bytes.NewReader(packed(t, c.headers...)))
		if got := rule(t, err); got != c.want {
			t.Errorf("%s: rule %q, want %q (%v)", name, got, c.want, err)
		}
	}
}

// here is a machine that the backup fits.
func here() backup.Machine {
	return backup.Machine{
		ID: "bb", Cards: []osapi.BackupCard{{Name: "enp1s0", Hwaddr: "52:54:00:00:00:01"}, {Name: "enp2s0", Hwaddr: "52:54:00:00:00:02"}, {Name: "enp3s0", Hwaddr: "52:54:00:00:00:03"}},
		RecoveryKeys: []string{"key two"}, Keys: map[string][]byte{"zpool.local.key": []byte(localKey)},
		Opens: func(string, []byte) (bool, error) { return true, nil },
	}
}

// On another machine a backup names cards that are not there, and brings keys of pools that
// are not these. What would lose the network or a pool is refused; what can be left out is.
func TestFor_OtherMachine_MapsCardsAndKeepsKeys(t *testing.T) {
	archive := backedUp(t, "zpool.data.key", strings.Repeat("d", 32))
	moved := here()
	moved.Cards = []osapi.BackupCard{{Name: "enp1s0", Hwaddr: "52:54:00:00:00:aa"}, {Name: "enp2s0", Hwaddr: "52:54:00:00:00:bb"}, {Name: "enp3s0", Hwaddr: "52:54:00:00:00:cc"}}
	moved.Keys = map[string][]byte{"zpool.local.key": []byte(strings.Repeat("x", 32))}
	moved.Opens = func(string, []byte) (bool, error) { return false, nil }

	_, err := archive.For(moved, backup.Choice{})
	if got := rule(t, err); got != "machine" {
		t.Errorf("the key of local: rule %q (%v)", got, err)
	}
	_, err = archive.For(moved, backup.Choice{Skip: []string{"local-data-encryption-key"}})
	var problems config.Problems
	if !errors.As(err, &problems) {
		t.Fatalf("the cards: %v", err)
	}
	var paths []string
	for _, p := range problems {
		paths = append(paths, p.Path)
	}
	if diff := cmp.Diff([]string{"network.interfaces[0].hwaddr", "network.bonds[0].members[0]"}, paths); diff != "" {
		t.Error(diff)
	}
	got, err := archive.For(moved, backup.Choice{Skip: []string{"local-data-encryption-key", "network-macs", "encryption-recovery-keys"}})
	if err != nil {
		t.Fatal(err)
	}
	var section map[string]any
	if err := json.Unmarshal(got.Sections["network"], &section); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"interfaces": []any{map[string]any{"name": "lan", "hwaddr": "enp1s0", "kept": float64(1)}},
		"bonds":      []any{map[string]any{"name": "b", "members": []any{"enp2s0", "enp3s0"}}},
	}
	if diff := cmp.Diff(want, section); diff != "" {
		t.Error(diff)
	}
	var security bytes.Buffer
	if err := json.Compact(&security, got.Sections["security"]); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(`{"custom_ca_certs":["PEM"],"encryption_recovery_keys":["key two"]}`, security.String()); diff != "" {
		t.Error(diff)
	}
	if got.RecoveryKeys != nil || got.SameMachine || got.Files["zpool.local.key"] != nil || got.Files["zpool.data.key"] != nil || got.Files["recovery.key"] != nil {
		t.Errorf("keys %v, same machine %v, files %v", got.RecoveryKeys, got.SameMachine, got.Files)
	}
	if !strings.Contains(string(got.Files["state/configuration.json"]), `"later": true`) {
		t.Error("what this release does not know of the document is lost")
	}
}

// A machine whose cards have other names needs to be told which is which, or keeps its own
// network. What is wrong says both, and which cards there are.
func TestFor_CardsWithOtherNames_AreChosenOrLeftOut(t *testing.T) {
	archive := backedUp(t)
	other := here()
	other.Cards = []osapi.BackupCard{{Name: "eno1np0", Hwaddr: "52:54:00:00:00:aa"}, {Name: "eno2np1", Hwaddr: "52:54:00:00:00:bb"}, {Name: "ens3", Hwaddr: "52:54:00:00:00:cc"}}
	other.Network = json.RawMessage(`{"interfaces":[{"name":"own"}]}`)
	const cards = "; its cards: eno1np0 (52:54:00:00:00:aa), eno2np1 (52:54:00:00:00:bb), ens3 (52:54:00:00:00:cc)"
	const ways = ". Name one with cards=OLD=NEW, find cards by the names of before with skip=network-macs, or keep the network of this machine with skip=network"
	for name, c := range map[string]struct {
		choice backup.Choice
		wrong  []string
		want   string
	}{
		"names alone": {backup.Choice{Skip: []string{"network-macs"}}, []string{
			"network.interfaces[0].hwaddr: this machine has no network card enp1s0" + cards + ways,
			"network.bonds[0].members[0]: this machine has no network card enp2s0" + cards + ways,
			"network.bonds[0].members[1]: this machine has no network card enp3s0" + cards + ways,
		}, ""},
		"wrong choice": {backup.Choice{Cards: map[string]string{"enp1s0": "eth9", "eth8": "ens3", "enp2s0": "eno2np1", "enp3s0": "ens3"}}, []string{
			`cards.enp1s0: this machine has no card "eth9"` + cards,
			`cards.eth8: the backup's network does not use a card "eth8"; the cards of its machine: enp1s0 (52:54:00:00:00:01), enp2s0 (52:54:00:00:00:02)`,
			"network.interfaces[0].hwaddr: this machine has no network card 52:54:00:00:00:01" + cards + ways,
		}, ""},
		"by name and MAC": {backup.Choice{Cards: map[string]string{"enp1s0": "eno1np0", "52:54:00:00:00:02": "52:54:00:00:00:bb", "enp3s0": "ens3"}}, nil,
			`{"bonds":[{"members":["52:54:00:00:00:bb","ens3"],"name":"b"}],"interfaces":[{"hwaddr":"eno1np0","kept":1,"name":"lan"}]}`},
		"left out": {backup.Choice{Skip: []string{"network"}}, nil, `{"interfaces":[{"name":"own"}]}`},
	} {
		got, err := archive.For(other, c.choice)
		var problems config.Problems
		if err != nil && !errors.As(err, &problems) {
			t.Fatalf("%s: %v", name, err)
		}
		var wrong []string
		for _, p := range problems {
			wrong = append(wrong, p.Path+": "+p.Text)
		}
		if diff := cmp.Diff(c.wrong, wrong); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if err != nil {
			continue
		}
		var section bytes.Buffer
		if err := json.Compact(&section, got.Sections["network"]); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, section.String()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	other.Network = nil
	if got, err := archive.For(other, backup.Choice{Skip: []string{"network"}}); err != nil || got.Sections["network"] != nil {
		t.Errorf("a node without a network of its own: %s, %v", got.Sections["network"], err)
	}
}

// On the machine that it was made on, a backup needs nothing left out.
func TestFor_SameMachine_TakesEverything(t *testing.T) {
	same := here()
	same.ID, same.RecoveryKeys = "aa", []string{"key one"}
	got, err := backedUp(t).For(same, backup.Choice{})
	if err != nil {
		t.Fatal(err)
	}
	if !got.SameMachine || got.RecoveryKeys != nil || got.Notes != nil || string(got.Files["zpool.local.key"]) != localKey {
		t.Errorf("%v %v %v", got.SameMachine, got.RecoveryKeys, got.Notes)
	}
	other, err := backedUp(t).For(here(), backup.Choice{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"key one"}, other.RecoveryKeys); diff != "" {
		t.Error(diff)
	}
}

// errCut is the power that is cut.
var errCut = errors.New("power cut")

// cutting is a folder whose power is cut before an effect. A write that is cut has left half
// of its file.
type cutting struct {
	backup.Folder
	left int
}

func (c *cutting) effect() {
	if c.left == 0 {
		panic(errCut)
	}
	c.left--
}

func (c *cutting) Write(name string, data []byte) error {
	c.effect()
	if err := c.Folder.Write(name, data[:len(data)/2]); err != nil {
		return err
	}
	c.effect()
	return c.Folder.Write(name, data)
}

func (c *cutting) Rename(from, to string) error {
	c.effect()
	return c.Folder.Rename(from, to)
}

func (c *cutting) Remove(name string) error {
	c.effect()
	return c.Folder.Remove(name)
}

// until runs do until the power is cut, and says whether it was.
func until(t *testing.T, dir string, after int, do func(backup.Folder) error) (cut bool) {
	t.Helper()
	folder, err := backup.OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	defer func() {
		if r := recover(); r != nil {
			if r != errCut {
				panic(r)
			}
			cut = true
		}
	}()
	if err := do(&cutting{folder, after}); err != nil {
		t.Fatal(err)
	}
	return false
}

// A power cut at any write of a restore, and a second one while the next start carries it
// out, leave what was or what was restored. Nothing in between is ever read.
func TestResume_PowerCutAtAnyWrite_LeavesOldOrNew(t *testing.T) {
	restore := backup.Restore{
		Files: map[string][]byte{
			"state/configuration.json": []byte("new"), "state/change-9.json": []byte("nine"), "zpool.data.key": []byte("d"),
		},
		RecoveryKeys: []string{"key one"},
	}
	pick := func(dir string) []string {
		var all []string
		for _, line := range tree(t, dir) {
			if strings.Contains(line, " state/") || strings.Contains(line, " zpool.") && !strings.Contains(line, "creating") {
				all = append(all, line[len("-rw------- "):])
			}
		}
		return all
	}
	old := pick(kept(t))
	fresh := []string{"state/change-9.json -> nine", "state/configuration.json -> new", "state/notes.txt -> x",
		`state/update-agent.json -> {"version":1,"data":{}}`, "zpool.data.key -> d", "zpool.local.key -> " + localKey}
	outcomes := map[string]int{}
	for first := 0; ; first++ {
		whole := true
		for second := 0; ; second++ {
			dir := kept(t)
			if until(t, dir, first, func(f backup.Folder) error { return backup.Commit(f, restore) }) {
				whole = false
			}
			var pending backup.Pending
			again := until(t, dir, second, func(f backup.Folder) (err error) {
				pending, err = backup.Resume(f)
				return err
			})
			if again {
				until(t, dir, -1, func(f backup.Folder) (err error) {
					pending, err = backup.Resume(f)
					return err
				})
			}
			switch got := pick(dir); {
			case cmp.Equal(old, got) && pending.RecoveryKeys == nil:
				outcomes["old"]++
			case cmp.Equal(fresh, got) && cmp.Equal([]string{"key one"}, pending.RecoveryKeys):
				outcomes["new"]++
			default:
				t.Fatalf("cut before effect %d, then %d: %v %s", first, second, pending, cmp.Diff(fresh, got))
			}
			until(t, dir, -1, backup.Done)
			for _, name := range []string{"restore.json", "restore.json.tmp", "restore.new"} {
				if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
					t.Fatalf("cut before effect %d, then %d: %s is left", first, second, name)
				}
			}
			if !again {
				break
			}
		}
		if whole {
			break
		}
	}
	if outcomes["old"] < 5 || outcomes["new"] < 5 {
		t.Errorf("outcomes: %v", outcomes)
	}
}

// A node that could not be started anew goes on as it was, also after its next start.
func TestAbandon_CommittedRestore_ChangesNothing(t *testing.T) {
	dir := kept(t)
	before := tree(t, dir)
	until(t, dir, -1, func(f backup.Folder) error {
		return backup.Commit(f, backup.Restore{Files: map[string][]byte{"state/configuration.json": []byte("new")}})
	})
	until(t, dir, -1, backup.Abandon)
	until(t, dir, -1, func(f backup.Folder) error {
		_, err := backup.Resume(f)
		return err
	})
	if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
		t.Error(diff)
	}
}

// Nobody can repair a restore that the disk has not kept on a node that does not start: it
// starts as it was before.
func TestResume_StagedFileDamaged_GoesOnAsBefore(t *testing.T) {
	for name, c := range map[string]struct{ damage, content, want string }{
		"changed":          {"restore.new/state/configuration.json", "bad", "the restored state/configuration.json is damaged: it is missing, or not what was received"},
		"a folder":         {"restore.new/state/configuration.json/x", "", "the restored state/configuration.json is damaged: "},
		"the marker":       {"restore.json", "bad", "restore.json cannot be read: "},
		"a newer marker":   {"restore.json", `{"format":2}`, "restore.json cannot be read: it has format 2, and this release reads 1"},
		"a foreign marker": {"restore.json", `{"format":1,"files":{"machine-id":""}}`, `restore.json names "machine-id", which no restore has`},
	} {
		dir := kept(t)
		before := tree(t, dir)
		until(t, dir, -1, func(f backup.Folder) error {
			return backup.Commit(f, backup.Restore{Files: map[string][]byte{"state/applications.json": []byte("a"), "state/configuration.json": []byte("new")}})
		})
		if c.content == "" {
			if err := os.Remove(filepath.Join(dir, filepath.Dir(c.damage))); err != nil {
				t.Fatal(err)
			}
		}
		put(t, filepath.Join(dir, c.damage), c.content, 0o600)
		until(t, dir, -1, func(f backup.Folder) error {
			pending, err := backup.Resume(f)
			if pending.Abandoned == nil || !strings.HasPrefix(pending.Abandoned.Error(), c.want) {
				t.Errorf("%s: abandoned: %v", name, pending.Abandoned)
			}
			return err
		})
		if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// Keys that were added for a restore which has not come about are taken away at the next
// start, wherever the power was cut; those of one that has come about stay.
func TestResume_KeysWereAdded_SaysWhichStay(t *testing.T) {
	restore := backup.Restore{Files: map[string][]byte{"state/configuration.json": []byte("new")}, RecoveryKeys: []string{"key one"}}
	nothing := func(string) {}
	for name, c := range map[string]struct {
		before func(f backup.Folder) error
		damage func(dir string)
		want   backup.Pending
	}{
		"cut before the commit": {backup.NoteKeys, nothing, backup.Pending{ForeignKeys: true}},
		"forgotten": {func(f backup.Folder) error {
			return errors.Join(backup.NoteKeys(f), backup.Commit(f, restore), backup.Abandon(f))
		}, nothing, backup.Pending{ForeignKeys: true}},
		"taken away again": {func(f backup.Folder) error {
			return errors.Join(backup.NoteKeys(f), backup.Commit(f, restore), backup.Abandon(f), backup.Done(f))
		}, nothing, backup.Pending{}},
		"damaged": {func(f backup.Folder) error {
			return errors.Join(backup.NoteKeys(f), backup.Commit(f, restore))
		}, func(dir string) { put(t, filepath.Join(dir, "restore.new/state/configuration.json"), "bad", 0o600) }, backup.Pending{ForeignKeys: true}},
		"restored": {func(f backup.Folder) error {
			return errors.Join(backup.NoteKeys(f), backup.Commit(f, restore))
		}, nothing, backup.Pending{RecoveryKeys: []string{"key one"}}},
	} {
		dir := kept(t)
		until(t, dir, -1, c.before)
		c.damage(dir)
		for range 2 { // a start that is cut short is one more
			until(t, dir, -1, func(f backup.Folder) error {
				got, err := backup.Resume(f)
				got.Abandoned = nil
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("%s: %s", name, diff)
				}
				return err
			})
		}
		until(t, dir, -1, backup.Done)
		until(t, dir, -1, func(f backup.Folder) error {
			got, err := backup.Resume(f)
			if diff := cmp.Diff(backup.Pending{}, got); diff != "" {
				t.Errorf("%s, done: %s", name, diff)
			}
			return err
		})
	}
}

func sum(content string) string {
	s := sha256.Sum256([]byte(content))
	return hex.EncodeToString(s[:])
}
