package backup_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/backup"
)

// A release knows what those before it have kept, and not what those after it will.
func TestFor_BackupOfARelease_IsTakenUpToTheRunningOne(t *testing.T) {
	for name, c := range map[string]struct{ release, runs, want string }{
		"older":         {"202601010000", "202611220104", ""},
		"the same":      {"202611220104", "202611220104", ""},
		"newer":         {"202611220105", "202611220104", "newer"},
		"no release":    {"", "202611220104", ""},
		"asks no one":   {"202611220105", "", ""},
		"no time in it": {"later", "202611220104", ""},
	} {
		archive := backedUp(t)
		archive.Manifest.Release = c.release
		machine := here()
		machine.Release = c.runs
		_, err := archive.For(machine, backup.Choice{})
		if got := rule(t, err); got != c.want {
			t.Errorf("%s: rule %q, want %q (%v)", name, got, c.want, err)
		}
		if c.want != "" && !strings.Contains(fmt.Sprint(err), "the release 202611220105 made it and this node runs 202611220104, which may not know all that is in it: update the node first") {
			t.Error(err)
		}
	}
}

// A backup of an older release is what an owner has after years. testdata has one as the
// release 202601010000 wrote it; it stays as it is, and a change of the format adds another.
func TestRestore_ArchiveOfAnOlderRelease_BecomesTheState(t *testing.T) {
	text, err := os.ReadFile("testdata/system-202601010000.tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	archive, err := backup.ReadSystem(context.Background(), bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	machine := here()
	machine.Release = "202611220104"
	restore, err := archive.For(machine, backup.Choice{})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	put(t, filepath.Join(dir, "state/configuration.json"), "old", 0o600)
	until(t, dir, -1, func(f backup.Folder) error { return backup.Commit(f, restore) })
	until(t, dir, -1, func(f backup.Folder) error {
		pending, err := backup.Resume(f)
		if diff := cmp.Diff(backup.Pending{RecoveryKeys: []string{"key one"}}, pending); diff != "" {
			t.Error(diff)
		}
		return err
	})
	until(t, dir, -1, backup.Done)
	want := []string{
		"drwx------ state", `-rw------- state/applications.json -> {"version":1,"data":{"incus":{"version":"202611220104"}}}`,
		`-rw------- state/change-3.json -> {"version":1,"data":{"number":3}}`, "-rw------- state/configuration.json -> " + configuration,
		"-rw------- zpool.local.key -> " + localKey,
	}
	got := tree(t, dir)
	got[0] = "drwx------ state" // the test has made it
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

var declared = regexp.MustCompile(`state\.Document\{Name: (?:fmt\.Sprintf\()?"([^"]+)"[^,]*(?:, number\))?, Version: ([0-9]+)`)

// A document that gets another version must be one that a restore takes up to that version.
func TestReadSystem_EachDocumentOfThisRelease_IsReadUpToItsVersion(t *testing.T) {
	files, err := filepath.Glob("../*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		for _, found := range declared.FindAllStringSubmatch(string(text), -1) {
			name := "state/" + strings.ReplaceAll(found[1], "%d", "7") + ".json"
			version, err := strconv.Atoi(found[2])
			if err != nil {
				t.Fatal(err)
			}
			if archive, err := withDocument(t, name, version); err != nil {
				t.Errorf("%s declares %s with version %d, which a restore refuses: add it to readable (%v)", file, name, version, err)
			} else if _, taken := archive.Files[name]; taken {
				_, err := withDocument(t, name, version+1)
				if got := rule(t, err); got != backup.RuleNewer {
					t.Errorf("%s of version %d: rule %q (%v)", name, version+1, got, err)
				}
				seen[name] = true
			}
		}
	}
	for _, name := range []string{"configuration", "change-7", "applications", "security", "seed", "provider"} {
		if !seen["state/"+name+".json"] {
			t.Errorf("no declaration of the document %s was found; found: %v", name, seen)
		}
	}
}

// withDocument is a backup that has one document in a version.
func withDocument(t *testing.T, name string, version int) (backup.System, error) {
	t.Helper()
	collected, err := backup.Collect(kept(t))
	if err != nil {
		t.Fatal(err)
	}
	document := map[string]json.RawMessage{"data": json.RawMessage("{}")}
	if present := collected.Files[name]; present != nil {
		if err := json.Unmarshal(present, &document); err != nil {
			t.Fatal(err)
		}
	}
	document["version"] = json.RawMessage(strconv.Itoa(version))
	if collected.Files[name], err = json.Marshal(document); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := collected.Write(context.Background(), &archive, manifest()); err != nil {
		t.Fatal(err)
	}
	return backup.ReadSystem(context.Background(), &archive)
}
