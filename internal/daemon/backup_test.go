package daemon_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/apps"
	"github.com/holdfast-os/holdfast/internal/backup"
	"github.com/holdfast-os/holdfast/internal/daemon"
	"github.com/holdfast-os/holdfast/internal/reset"
)

// fakeBackups is a disk in a folder.
type fakeBackups struct {
	*world
	dir  string
	free int64
	pool bool // whether every key opens its pool
}

func (f *fakeBackups) Kept() string { return filepath.Join(f.dir, "kept") }

func (f *fakeBackups) Cards(context.Context) ([]osapi.BackupCard, error) {
	return []osapi.BackupCard{{Name: "eth0", Hwaddr: "52:54:00:12:34:56"}}, nil
}

func (f *fakeBackups) OpensPool(context.Context, string, []byte) (bool, error) { return f.pool, nil }

func (f *fakeBackups) Enroll(_ context.Context, keys []string, alone bool) error {
	if alone {
		return f.did("enroll alone " + strings.Join(keys, " "))
	}
	return f.did("enroll " + strings.Join(keys, " "))
}

func (f *fakeBackups) Spool() (daemon.Spool, error) {
	spool, err := os.CreateTemp(f.dir, "spool")
	if err != nil {
		return nil, err
	}
	return spool, os.Remove(spool.Name())
}

func (f *fakeBackups) Free() (int64, error) { return f.free, nil }

// fakeData is the data of applications in a folder.
type fakeData struct {
	*world
	dir    string
	record apps.Record
}

func (f *fakeData) Hold() func() { return func() {} }

func (f *fakeData) Dir(folder string) string { return filepath.Join(f.dir, filepath.Base(folder)) }

func (f *fakeData) Stop(_ context.Context, name, _ string) error { return f.did("stop " + name) }

func (f *fakeData) Start(_ context.Context, name string) error {
	return f.did("start " + name + " with " + f.content())
}

func (f *fakeData) Initialize(_ context.Context, name string) error { return f.did("seed " + name) }

func (f *fakeData) Note(_ context.Context, _ string, change func(*apps.Record)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.record)
	return nil
}

func (f *fakeData) content() string {
	text, err := os.ReadFile(filepath.Join(f.Dir("/var/lib/incus"), "f"))
	if errors.Is(err, fs.ErrNotExist) {
		return "nothing"
	}
	return string(text)
}

// fakeResets is a machine whose reset is told in events.
type fakeResets struct {
	*world
	esp map[string]string
}

func (f *fakeResets) Hands() reset.Hands    { return f }
func (f *fakeResets) HasTPM() (bool, error) { return true, nil }
func (f *fakeResets) Seed(context.Context) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader("")), nil
}
func (f *fakeResets) ClearTPM(context.Context) error          { return f.did("clear tpm") }
func (f *fakeResets) WriteSeed(context.Context, []byte) error { return f.did("write seed") }
func (f *fakeResets) RemovePartitions(context.Context, ...int) error {
	return f.did("remove partitions")
}

func (f *fakeResets) Read(name string, _ int64) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	text, ok := f.esp[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return []byte(text), nil
}

func (f *fakeResets) Write(name string, data []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.esp[name] = string(data)
	return nil
}

func (f *fakeResets) Remove(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.esp, name)
	return nil
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// disk is a node with a disk: what it keeps, and the data of Incus.
type disk struct {
	*fixture
	backups *fakeBackups
	data    *fakeData
	resets  *fakeResets
}

func onDisk(t *testing.T) *disk {
	t.Helper()
	w, dir := newWorld(), t.TempDir()
	w.apps["incus"] = osapi.ApplicationConfig{}
	d := &disk{
		backups: &fakeBackups{world: w, dir: dir, free: 1 << 40, pool: true}, data: &fakeData{world: w, dir: dir, record: apps.Record{Initialized: true}},
		resets: &fakeResets{world: w, esp: map[string]string{}},
	}
	w.backups, w.appData, w.resets = d.backups, d.data, d.resets
	kept := d.backups.Kept()
	write(t, filepath.Join(kept, "state/configuration.json"), `{"version":1,"data":{"number":0,"sections":{"security":{"encryption_recovery_keys":["cbdefghi"]},"update":{"channel":"testing","check_frequency":"1h"}}}}`)
	write(t, filepath.Join(kept, "state/applications.json"), `{"version":1,"data":{"incus":{"version":"202611220104"}}}`)
	write(t, filepath.Join(kept, "zpool.local.key"), strings.Repeat("k", 32))
	write(t, filepath.Join(kept, "machine-id"), "0123456789abcdef0123456789abcdef")
	write(t, filepath.Join(dir, "incus/f"), "old")
	d.fixture = start(t, w, nil)
	w.wait(t, "status ready")
	<-d.clock.pauses
	return d
}

// raw sends a request and gives the whole answer.
func (d *disk) raw(t *testing.T, path, body string) (int, string, []byte) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(d.root, "run/incus-os/unix.socket"))
	}}}
	response, err := client.Post("http://unix"+path, "application/octet-stream", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, response.Header.Get("Content-Type"), text
}

// until turns the clock until something has happened.
func (d *disk) until(t *testing.T, event string) {
	t.Helper()
	limit := time.After(20 * time.Second)
	for happened := ""; happened != event; {
		select {
		case d.clock.tick <- time.Time{}:
		case <-d.clock.pauses: // the console's, which comes back for each tick
		case happened = <-d.happened:
		case <-limit:
			t.Fatalf("%q did not happen; events: %q", event, d.since())
		}
	}
}

// ended waits until no operation is open, and gives what went wrong with the last one.
func (d *disk) ended(t *testing.T) string {
	t.Helper()
	list := getAs[map[string][]osapi.Operation](t, d.fixture, "/1.0/operations?recursion=1")
	var last osapi.Operation
	for _, all := range list {
		for _, op := range all {
			op = getAs[osapi.Operation](t, d.fixture, "/1.0/operations/"+op.ID+"/wait")
			if !op.CreatedAt.Before(last.CreatedAt) {
				last.CreatedAt = op.CreatedAt
				last.Err += op.Err
			}
		}
	}
	return last.Err
}

// since gives what has happened behind the start of the node.
func (d *disk) since() []string {
	log := d.log()
	return log[slices.Index(log, "status ready")+1:]
}

func refused(t *testing.T, text []byte) string {
	t.Helper()
	var envelope osapi.Response
	if err := json.Unmarshal(text, &envelope); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return envelope.Error
}

// A backup goes back onto the node that made it, which is then restarted; nothing of what it
// runs with has changed until then.
func TestRestoreSystem_OwnBackup_IsCommittedAndTheNodeRestarts(t *testing.T) {
	d := onDisk(t)
	code, kind, archive := d.raw(t, "/1.0/system/:backup", "")
	if code != 200 || kind != "application/gzip" {
		t.Fatalf("%d %s", code, kind)
	}
	code, _, answer := d.raw(t, "/1.0/system/:restore?dry-run=1", string(archive))
	if code != 200 {
		t.Fatalf("%d %s", code, answer)
	}
	var plan struct{ Metadata osapi.Plan }
	if err := json.Unmarshal(answer, &plan); err != nil {
		t.Fatal(err)
	}
	var objects []string
	for _, step := range plan.Metadata.Steps {
		objects = append(objects, step.Object)
	}
	want := []string{"update", d.backups.Kept() + "/zpool.local.key", "applications, history and whatever else the node keeps"}
	if diff := cmp.Diff(want, objects); diff != "" || plan.Metadata.NeedsReboot == "" {
		t.Errorf("%s %q", diff, plan.Metadata.NeedsReboot)
	}
	if _, err := os.Stat(filepath.Join(d.backups.Kept(), "restore.json")); err == nil {
		t.Error("a dry run has committed the restore")
	}
	if code, _, answer := d.raw(t, "/1.0/system/:restore", string(archive)); code != 200 {
		t.Fatalf("%d %s", code, answer)
	}
	d.until(t, "reboot")
	folder, err := backup.OpenFolder(d.backups.Kept())
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	write(t, filepath.Join(d.backups.Kept(), "zpool.local.key"), "changed since")
	if _, err := backup.Resume(folder); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(d.backups.Kept(), "zpool.local.key")); err != nil || string(text) != strings.Repeat("k", 32) {
		t.Errorf("%q %v", text, err)
	}
}

// What cannot be restored is refused with the reason, and leaves nothing for the next start.
func TestRestoreSystem_Unfit_IsRefusedAndNothingWritten(t *testing.T) {
	d := onDisk(t)
	_, _, own := d.raw(t, "/1.0/system/:backup", "")
	for name, c := range map[string]struct {
		query, body string
		pool        bool
		code        int
		want        string
	}{
		"no archive":       {"", "hello, this is no archive", true, 400, "not a tar file packed with gzip"},
		"no body":          {"", "", true, 400, "it ends in the middle"},
		"unknown skip":     {"?skip=all", string(own), true, 400, `skip: "all" is none of`},
		"cards left out":   {"?skip=network&cards=eno1=enp1s0", string(own), true, 400, "cards: the network is left out by skip=network"},
		"unknown dry run":  {"?dry-run=maybe", string(own), true, 400, "dry-run"},
		"of IncusOS":       {"", packed(t, "state.txt", "#Version: 8\n"), true, 400, "Holdfast did not make it"},
		"of its own pools": {"?skip=local-data-encryption-key", string(own), false, 200, ""},
	} {
		d.backups.pool = c.pool
		path := "/1.0/system/:restore" + c.query
		if c.code == 200 {
			path += "&dry-run=1"
		}
		code, _, answer := d.raw(t, path, c.body)
		if code != c.code || !strings.Contains(refused(t, answer), c.want) {
			t.Errorf("%s: %d %s", name, code, answer)
		}
	}
	entries, err := os.ReadDir(d.backups.Kept())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if diff := cmp.Diff([]string{"machine-id", "state", "zpool.local.key"}, names); diff != "" {
		t.Error(diff)
	}
}

// withKey is a backup of this node with another recovery key.
func (d *disk) withKey(t *testing.T, key string) string {
	t.Helper()
	collected, err := backup.Collect(d.backups.Kept())
	if err != nil {
		t.Fatal(err)
	}
	const file = "state/configuration.json"
	collected.Files[file] = bytes.Replace(collected.Files[file], []byte("cbdefghi"), []byte(key), 1)
	var archive bytes.Buffer
	m := osapi.BackupManifest{Release: "202611220104", MachineID: "0123456789abcdef0123456789abcdef", CreatedAt: time.Unix(1795309440, 0).UTC()}
	if err := collected.Write(context.Background(), &archive, m); err != nil {
		t.Fatal(err)
	}
	return archive.String()
}

// A node that does not restart, or cannot take the restore, goes on as it was, and its next
// start too. The keys of the backup open its volumes no longer.
func TestRestoreSystem_Fails_IsForgottenWithItsKeys(t *testing.T) {
	const other, own = "another key of 2", "cbdefghi"
	for name, c := range map[string]struct {
		fails []string
		code  int
		want  []string // what was done with keys
		left  bool     // whether the next start has keys to take away
	}{
		"no restart":           {[]string{"reboot"}, 200, []string{"enroll " + other, "reboot", "enroll alone " + own}, false},
		"no keys":              {[]string{"enroll " + other}, 500, []string{"enroll " + other, "enroll alone " + own}, false},
		"no way back for keys": {[]string{"enroll " + other, "enroll alone " + own}, 500, []string{"enroll " + other, "enroll alone " + own}, true},
	} {
		d := onDisk(t)
		archive := d.withKey(t, other)
		d.mu.Lock()
		for _, fail := range c.fails {
			d.failures[fail] = []error{errors.New("no")}
		}
		d.mu.Unlock()
		code, _, answer := d.raw(t, "/1.0/system/:restore", archive)
		if code != c.code {
			t.Fatalf("%s: %d %s", name, code, answer)
		}
		if code == 200 {
			d.until(t, "reboot")
			if text := d.ended(t); text != "no" {
				t.Errorf("%s: the operation says %q", name, text)
			}
		}
		var got []string
		for _, event := range d.since() {
			if strings.HasPrefix(event, "enroll") || event == "reboot" {
				got = append(got, event)
			}
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		folder, err := backup.OpenFolder(d.backups.Kept())
		if err != nil {
			t.Fatal(err)
		}
		pending, err := backup.Resume(folder)
		if diff := cmp.Diff(backup.Pending{ForeignKeys: c.left}, pending); diff != "" || errors.Join(err, folder.Close()) != nil {
			t.Errorf("%s: %s %v", name, diff, err)
		}
	}
}

// A restore that the disk has not kept until the start is told where its owner looks for it.
func TestStart_RestoreAbandoned_IsTold(t *testing.T) {
	w := newWorld()
	f := startWith(t, w, nil, func(o *daemon.Options) {
		o.Machine.Abandoned = func() error { return errors.New("the restored x is damaged") }
	})
	w.wait(t, "status ready")
	list := getAs[map[string][]osapi.Operation](t, f, "/1.0/operations?recursion=1")
	var got []string
	for _, all := range list {
		for _, op := range all {
			op = getAs[osapi.Operation](t, f, "/1.0/operations/"+op.ID+"/wait")
			got = append(got, op.Description+": "+op.Status+": "+op.Err)
		}
	}
	const text = "the restore was abandoned, and the node goes on as it was before: the restored x is damaged: restore the backup again, and look after the disk"
	if diff := cmp.Diff([]string{"Restoring the system: Failure: " + text}, got); diff != "" {
		t.Error(diff)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Contains(w.messages, "error: "+text) {
		t.Errorf("the console says %q", w.messages)
	}
}

// An archive that only the owner can read leaves the node so.
func TestBackupSystem_Recipient_GetsItEncrypted(t *testing.T) {
	d := onDisk(t)
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	code, kind, sealed := d.raw(t, "/1.0/system/:backup", `{"recipient":"`+identity.Recipient().String()+`"}`)
	if code != 200 || kind != "application/octet-stream" || !backup.IsEncrypted(sealed) {
		t.Fatalf("%d %s", code, kind)
	}
	plain, err := backup.Decrypt(bytes.NewReader(sealed), identity)
	if err != nil {
		t.Fatal(err)
	}
	read, err := backup.ReadSystem(context.Background(), plain)
	if err != nil || string(read.Files["zpool.local.key"]) != strings.Repeat("k", 32) {
		t.Errorf("%v", err)
	}
	if code, _, answer := d.raw(t, "/1.0/system/:restore", string(sealed)); code != 400 || !strings.Contains(refused(t, answer), "it is encrypted") {
		t.Errorf("%d %s", code, answer)
	}
	if code, _, answer := d.raw(t, "/1.0/system/:backup", `{"recipient":"age1nobody"}`); code != 400 {
		t.Errorf("%d %s", code, answer)
	}
}

// A backup that could not be restored must not be handed out as one.
func TestBackupSystem_FirstStartHasNotEnded_IsRefused(t *testing.T) {
	d := onDisk(t)
	if err := os.Remove(filepath.Join(d.backups.Kept(), "state/applications.json")); err != nil {
		t.Fatal(err)
	}
	code, _, answer := d.raw(t, "/1.0/system/:backup", "")
	if code != 409 || !strings.Contains(refused(t, answer), `a backup made now could not be restored (backup, member "state/applications.json": it is missing`) {
		t.Errorf("%d %s", code, answer)
	}
}

// Whoever asks how far a long backup or restore is gets done and total.
func TestBackupApplication_Operations_SayHowMuchOfHowMuch(t *testing.T) {
	d := onDisk(t)
	code, _, archive := d.raw(t, "/1.0/applications/incus/:backup", "")
	if code != 200 {
		t.Fatalf("%d %s", code, archive)
	}
	if code, _, answer := d.raw(t, "/1.0/applications/incus/:restore?dry-run=1", string(archive)); code != 200 {
		t.Fatalf("%d %s", code, answer)
	}
	got := map[string]bool{}
	for _, all := range getAs[map[string][]osapi.Operation](t, d.fixture, "/1.0/operations?recursion=1") {
		for _, op := range all {
			p := op.Metadata.Progress
			got[p.Stage] = p.Done == p.Total && p.Total > 0
		}
	}
	if diff := cmp.Diff(map[string]bool{"pack": true, "check": true}, got); diff != "" {
		t.Error(diff)
	}
}

// packed makes an archive of names and contents as IncusOS would.
func packed(t *testing.T, pairs ...string) string {
	t.Helper()
	var b bytes.Buffer
	zipped := gzip.NewWriter(&b)
	archive := tar.NewWriter(zipped)
	for i := 0; i < len(pairs); i += 2 {
		if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: pairs[i], Mode: 0o600, Size: int64(len(pairs[i+1]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(archive, pairs[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(archive.Close(), zipped.Close()); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// An application gets its data back, and loses the data of before only when it runs.
func TestRestoreApplication_StartsOrNot_RunsWithGoodData(t *testing.T) {
	for name, c := range map[string]struct {
		fails string
		want  []string
		data  string
		err   string
	}{
		"good":                  {"", []string{"stop incus", "start incus with new"}, "new", ""},
		"does not start":        {"start incus with new", []string{"stop incus", "start incus with new", "stop incus", "start incus with old"}, "old", "it runs with the data of before again"},
		"cannot be stopped":     {"stop incus", []string{"stop incus", "start incus with old"}, "old", "stopping it"},
		"an archive of IncusOS": {"", []string{"stop incus", "start incus with new"}, "new", ""},
	} {
		d := onDisk(t)
		if c.fails != "" {
			d.mu.Lock()
			d.failures[c.fails] = []error{errors.New("broken")}
			d.mu.Unlock()
		}
		archive := packed(t, "f", "new")
		if name == "good" {
			write(t, filepath.Join(d.data.Dir("incus"), "f"), "new")
			code, kind, own := d.raw(t, "/1.0/applications/incus/:backup", `{"complete":true}`)
			if code != 200 || kind != "application/gzip" {
				t.Fatalf("%d %s", code, own)
			}
			archive = string(own)
			write(t, filepath.Join(d.data.Dir("incus"), "f"), "old")
		}
		if code, _, answer := d.raw(t, "/1.0/applications/incus/:restore", archive); code != 200 {
			t.Fatalf("%s: %d %s", name, code, answer)
		}
		d.until(t, c.want[len(c.want)-1])
		if text := d.ended(t); !strings.Contains(text, c.err) || (c.err == "") != (text == "") {
			t.Errorf("%s: the operation says %q", name, text)
		}
		if diff := cmp.Diff(c.want, d.since()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		left, _ := filepath.Glob(filepath.Join(d.data.dir, "*"))
		if got := d.data.content(); got != c.data || len(left) != 2 {
			t.Errorf("%s: data %q, folders %q", name, got, left)
		}
		if restored := d.data.record.LastRestored != nil; restored != (c.err == "") || !d.data.record.Initialized {
			t.Errorf("%s: record %+v", name, d.data.record)
		}
	}
}

// A disk without room is told of before anything is unpacked, and hostile archives are
// refused.
func TestRestoreApplication_Unfit_IsRefusedAndNothingWritten(t *testing.T) {
	d := onDisk(t)
	for name, c := range map[string]struct {
		path, body string
		free       int64
		code       int
		want       string
	}{
		"no room":         {"incus", packed(t, "f", strings.Repeat("x", 30<<20)), 280 << 20, 507, "MiB left"},
		"hostile":         {"incus", packed(t, "../f", "x"), 1 << 40, 400, `".." in it`},
		"not installed":   {"openfga", packed(t, "f", "x"), 1 << 40, 404, "not installed"},
		"nothing in it":   {"incus", packed(t), 1 << 40, 400, "no members"},
		"dry run":         {"incus", packed(t, "f", "x"), 1 << 40, 200, ""},
		"backup, no room": {"", "", 1, 507, "MiB left"},
	} {
		d.backups.free = c.free
		path := "/1.0/applications/" + c.path + "/:restore"
		switch name {
		case "dry run":
			path += "?dry-run=1"
		case "backup, no room":
			path = "/1.0/applications/incus/:backup"
		}
		code, _, answer := d.raw(t, path, c.body)
		if code != c.code || !strings.Contains(refused(t, answer), c.want) {
			t.Errorf("%s: %d %s", name, code, answer)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(d.data.dir, "incus*")); len(left) != 1 || d.data.content() != "old" {
		t.Errorf("folders %q, data %q", left, d.data.content())
	}
	if diff := cmp.Diff([]string{}, d.since()); diff != "" {
		t.Error(diff)
	}
}

// A reset empties an application and seeds it; one that fails leaves what was.
func TestResetApplication_SeedFails_DataOfBeforeComesBack(t *testing.T) {
	for name, c := range map[string]struct {
		fail bool
		want []string
		data string
	}{
		"good":       {false, []string{"stop incus", "start incus with nothing", "seed incus"}, "nothing"},
		"seed fails": {true, []string{"stop incus", "start incus with nothing", "seed incus", "stop incus", "start incus with old"}, "old"},
	} {
		d := onDisk(t)
		if c.fail {
			d.mu.Lock()
			d.failures["seed incus"] = []error{errors.New("broken")}
			d.mu.Unlock()
		}
		if code, _, answer := d.raw(t, "/1.0/applications/incus/:factory-reset", ""); code != 200 {
			t.Fatalf("%s: %d %s", name, code, answer)
		}
		d.until(t, c.want[len(c.want)-1])
		if text := d.ended(t); (text != "") != c.fail {
			t.Errorf("%s: the operation says %q", name, text)
		}
		if diff := cmp.Diff(c.want, d.since()); diff != "" || d.data.content() != c.data || !d.data.record.Initialized {
			t.Errorf("%s: %s, data %q, %+v", name, diff, d.data.content(), d.data.record)
		}
	}
}

// A seed that is wrong, or for somebody else, is refused with its name before anything is
// touched; no seed and an empty body are what a client of IncusOS sends.
func TestResetApplication_Seeds_AreThoseOfTheApplicationAlone(t *testing.T) {
	for name, c := range map[string]struct {
		body string
		code int
		want string
	}{
		"nothing":       {"", 200, ""},
		"an object":     {"{}", 200, ""},
		"its own":       {`{"seeds":{"incus":{"apply_defaults":true}}}`, 200, ""},
		"unknown field": {`{"seeds":{},"nonsense":1}`, 400, `unknown field "nonsense"`},
		"in the seed":   {`{"seeds":{"incus":{"apply_default":true}}}`, 400, "seeds.incus.apply_default"},
		"of another":    {`{"seeds":{"incus":{},"network":{}}}`, 400, "seeds.network: the application incus does not read this seed; it reads incus"},
		"certificate":   {`{"seeds":{"incus":{"preseed":{"certificates":[{"name":"a","type":"client","certificate":"-----BEGIN"}]}}}}`, 400, "seeds.incus.preseed.certificates[0].certificate"},
		"no object":     {`{"seeds":{"incus":[]}}`, 400, "seeds.incus"},
	} {
		d := onDisk(t)
		code, _, answer := d.raw(t, "/1.0/applications/incus/:factory-reset?dry-run=1", c.body)
		if code != c.code || !strings.Contains(refused(t, answer), c.want) {
			t.Errorf("%s, dry run: %d %s", name, code, answer)
		}
		if name == "its own" && !strings.Contains(string(answer), "another document incus") {
			t.Errorf("the plan does not show the seed: %s", answer)
		}
		if c.code != 200 {
			code, _, answer = d.raw(t, "/1.0/applications/incus/:factory-reset", c.body)
			if code != c.code || !strings.Contains(refused(t, answer), c.want) {
				t.Errorf("%s: %d %s", name, code, answer)
			}
		}
		if left, _ := filepath.Glob(filepath.Join(d.data.dir, "incus*")); len(left) != 1 || len(d.since()) != 0 {
			t.Errorf("%s: folders %q, events %q", name, left, d.since())
		}
	}
}

// A factory reset is planned first, ends at a TPM that refuses, and else takes the node's
// partitions and restarts it.
func TestResetSystem_TPM_DecidesWhetherItGoesOn(t *testing.T) {
	for name, c := range map[string]struct {
		body string
		fail bool
		code int
		want []string
	}{
		"good":              {"", false, 200, []string{"clear tpm", "write seed", "remove partitions", "reboot"}},
		"TPM refuses":       {"{}", true, 500, []string{"clear tpm"}},
		"refusal allowed":   {`{"allow_tpm_reset_failure":true}`, true, 200, []string{"clear tpm", "write seed", "remove partitions", "reboot"}},
		"wrong seed":        {`{"seeds":{"install":{}}}`, false, 400, []string{}},
		"seeds are objects": {`{"seeds":{"network":1}}`, false, 400, []string{}},
	} {
		d := onDisk(t)
		if c.fail {
			d.mu.Lock()
			d.failures["clear tpm"] = []error{errors.New("locked out")}
			d.mu.Unlock()
		}
		code, _, answer := d.raw(t, "/1.0/system/:factory-reset?dry-run=1", c.body)
		if (code == 200) != (c.code != 400) || len(d.since()) != 0 {
			t.Errorf("%s, dry run: %d %s, %q", name, code, answer, d.since())
		}
		if code, _, answer = d.raw(t, "/1.0/system/:factory-reset", c.body); code != c.code {
			t.Fatalf("%s: %d %s", name, code, answer)
		}
		if c.code == 200 {
			d.until(t, "reboot")
		}
		if diff := cmp.Diff(c.want, d.since()); diff != "" || len(d.resets.esp) != 0 {
			t.Errorf("%s: %s %q", name, diff, d.resets.esp)
		}
	}
}

// A machine that cannot do it says so.
func TestBackup_MachineWithout_IsNotImplemented(t *testing.T) {
	f := ready(t)
	for _, path := range []string{"system/:backup", "system/:restore", "system/:factory-reset", "applications/incus/:backup", "applications/incus/:restore", "applications/incus/:factory-reset"} {
		if code, message, _ := call(t, f, "POST", "/1.0/"+path, ""); code != 501 {
			t.Errorf("%s: %d %s", path, code, message)
		}
	}
}
