package backup_test

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/backup"
)

// An application that is restored finds its data as it was: content, modes, links; without
// what it makes itself at each start.
func TestExtract_ArchiveOfTheSameData_GivesItBack(t *testing.T) {
	data, _ := backup.DataOf("incus")
	from := filepath.Join(t.TempDir(), "incus")
	put(t, filepath.Join(from, "database/global/db.bin"), "rows", 0o600)
	put(t, filepath.Join(from, "server.crt"), "certificate", 0o640)
	put(t, filepath.Join(from, "locked/secret"), "s", 0o400)
	put(t, filepath.Join(from, "shmounts/x"), "no", 0o600)
	put(t, filepath.Join(from, "guestapi/sock"), "no", 0o600)
	put(t, filepath.Join(from, "unix.socket"), "no", 0o600)
	for name, target := range map[string]string{
		"images": "/var/lib/incus/storage-pools/local/images", "here": "server.crt", "out": "/etc/passwd",
	} {
		if err := os.Symlink(target, filepath.Join(from, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(from, "locked"), 0o500); err != nil {
		t.Fatal(err)
	}
	socket, err := net.Listen("unix", filepath.Join(from, "sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	archive, manifest := made(t, from, data)
	if diff := cmp.Diff([]string{"out", "sock"}, manifest.LeftOut); diff != "" {
		t.Errorf("left out: %s", diff)
	}
	place := backup.Place{Dir: filepath.Join(t.TempDir(), "data")}
	put(t, filepath.Join(place.Dir, "old"), "data", 0o600)
	if err := place.Extract(context.Background(), bytes.NewReader(archive), data.Rules(), nil); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"drwxr-xr-x database", "drwxr-xr-x database/global", "-rw------- database/global/db.bin -> rows",
		"Lrwxrwxrwx here -> server.crt", "Lrwxrwxrwx images -> /var/lib/incus/storage-pools/local/images",
		"dr-x------ locked", "-r-------- locked/secret -> s", "-rw-r----- server.crt -> certificate",
	}
	if diff := cmp.Diff(want, tree(t, place.Dir+".new")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"-rw------- old -> data"}, tree(t, place.Dir)); diff != "" {
		t.Errorf("the data of now was touched: %s", diff)
	}
}

// An archive that goes bad in the middle leaves nothing behind.
func TestExtract_BadArchive_LeavesNothing(t *testing.T) {
	place := backup.Place{Dir: filepath.Join(t.TempDir(), "data")}
	put(t, filepath.Join(place.Dir, "old"), "data", 0o600)
	archive := packed(t, file("a", "1"), file("../b", "2"))
	if got := rule(t, place.Extract(context.Background(), bytes.NewReader(archive), rules(), nil)); got != "name" {
		t.Errorf("rule %q", got)
	}
	if diff := cmp.Diff([]string{"drwxr-xr-x data", "-rw------- data/old -> data"}, tree(t, filepath.Dir(place.Dir))); diff != "" {
		t.Error(diff)
	}
}

// A database that is written while it is read gives an archive that no database is. It is
// read again until it stands still.
func TestPackTree_DatabaseChangesMeanwhile_IsReadAgain(t *testing.T) {
	from := t.TempDir()
	put(t, filepath.Join(from, "database/db"), "old", 0o600)
	put(t, filepath.Join(from, "a"), "1", 0o600)
	spool, err := os.Create(filepath.Join(t.TempDir(), "spool"))
	if err != nil {
		t.Fatal(err)
	}
	defer spool.Close()
	writes := 3
	members, _, err := backup.PackTree(context.Background(), spool, backup.Tree{Dir: from, Data: backup.Data{Steady: []string{"database"}}}, func(int64) {
		if writes > 0 {
			writes--
			put(t, filepath.Join(from, "database/wal"), string(make([]byte, 10-writes)), 0o600)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range members {
		names = append(names, m.Name)
		if m.Name == "database/wal" && m.Size != 10 {
			t.Errorf("the archive has a log of %d bytes, the database one of 10", m.Size)
		}
	}
	if diff := cmp.Diff([]string{"database", "database/db", "database/wal", "a"}, names); diff != "" || writes != 0 {
		t.Errorf("%d writes left, %s", writes, diff)
	}
}

// What a power cut leaves at any point of a restore is put right by the next start.
func TestRecover_PowerCutAtEachPoint_LeavesOldOrNew(t *testing.T) {
	type state struct{ dir, fresh, old string } // the content of a file in each folder
	for name, c := range map[string]struct {
		is, want state
		found    backup.Found
	}{
		"while unpacking":             {state{"1", "half", ""}, state{"1", "", ""}, backup.Swept},
		"between the renames":         {state{"", "2", "1"}, state{"1", "", ""}, backup.WentBack},
		"the start has made a folder": {state{"empty", "2", "1"}, state{"1", "", ""}, backup.WentBack},
		"behind the swap":             {state{"2", "", "1"}, state{"2", "", "1"}, backup.Nothing},
		"while the old is removed":    {state{"2", "half", ""}, state{"2", "", ""}, backup.Swept},
		"nothing":                     {state{"1", "", ""}, state{"1", "", ""}, backup.Nothing},
	} {
		place := backup.Place{Dir: filepath.Join(t.TempDir(), "data")}
		for dir, content := range map[string]string{place.Dir: c.is.dir, place.Dir + ".new": c.is.fresh, place.Dir + ".old": c.is.old} {
			switch content {
			case "":
			case "empty":
				if err := os.Mkdir(dir, 0o711); err != nil {
					t.Fatal(err)
				}
			default:
				put(t, filepath.Join(dir, "f"), content, 0o600)
			}
		}
		found, err := place.Recover()
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		read := func(dir string) string {
			text, _ := os.ReadFile(filepath.Join(dir, "f"))
			return string(text)
		}
		got := state{read(place.Dir), read(place.Dir + ".new"), read(place.Dir + ".old")}
		if got != c.want || found != c.found {
			t.Errorf("%s: %v %v, want %v %v", name, got, found, c.want, c.found)
		}
	}
}

// An application that does not start with its new data has the old one again, whole.
func TestPlace_SwapAndBack_OrSettle(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(backup.Place) error
		want []string
	}{
		"back":   {backup.Place.Back, []string{"drwxr-xr-x data", "-rw------- data/old -> 1"}},
		"settle": {backup.Place.Settle, []string{"drwxr-xr-x data", "-rw-r--r-- data/new -> 2"}},
	} {
		place := backup.Place{Dir: filepath.Join(t.TempDir(), "data")}
		put(t, filepath.Join(place.Dir, "old"), "1", 0o600)
		if err := place.Extract(context.Background(), bytes.NewReader(packed(t, file("new", "2"))), rules(), nil); err != nil {
			t.Fatal(err)
		}
		if err := place.Swap(); err != nil {
			t.Fatal(err)
		}
		if pending, err := place.Pending(); err != nil || !pending {
			t.Errorf("%s: pending %v, %v", name, pending, err)
		}
		if err := c.end(place); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, tree(t, filepath.Dir(place.Dir))); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
