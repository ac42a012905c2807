package sysupdate

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hf") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// The transfers of the last update must not be mixed with those of this one, and their
// source is nobody's business.
func TestDefine_AfterAnotherUpdate_ReplacesAllFiles(t *testing.T) {
	s := Sysupdate{Dir: filepath.Join(shortDir(t), "run")}
	for _, files := range []map[string]string{{"10-a.transfer": "old", "20-b.transfer": "old"}, {"10-a.transfer": "new"}} {
		if err := s.Define(files); err != nil {
			t.Fatal(err)
		}
	}
	got := map[string]string{}
	err := fs.WalkDir(os.DirFS(s.Dir), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		got[path] = info.Mode().String()
		return err
	})
	want := map[string]string{".": "drwx------", "transfers": "drwx------", "transfers/10-a.transfer": "-rw-------"}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	text, err := os.ReadFile(filepath.Join(s.Dir, "transfers/10-a.transfer"))
	if string(text) != "new" || err != nil {
		t.Errorf("got %q, %v", text, err)
	}
	if err := s.Define(map[string]string{"../x.transfer": ""}); err == nil || err.Error() != `defining the transfers of an update: "../x.transfer" is not the name of one` {
		t.Errorf("got %v", err)
	}
}

// Two updates at once would take each other's slot.
func TestUpdate_WhileAnotherRuns_IsRefused(t *testing.T) {
	s := Sysupdate{Dir: shortDir(t)}
	var inner error
	s.Run = func(ctx context.Context, _ run.Command) (run.Result, error) {
		if inner == nil {
			inner = s.Update(ctx, "2", nil)
		}
		return run.Result{}, nil
	}
	if err := s.Update(t.Context(), "1", nil); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(inner, ErrBusy) {
		t.Errorf("got %v", inner)
	}
	if err := s.Vacuum(t.Context()); err != nil {
		t.Errorf("after the end: %v", err)
	}
}

// A proxy of the node must not get what is fetched from the node itself, and the token
// of the source must not get into a log.
func TestUpdate_Failure_HidesTheToken(t *testing.T) {
	s := Sysupdate{Dir: shortDir(t), Hide: "0123abcd"}
	var env []string
	s.Run = func(_ context.Context, c run.Command) (run.Result, error) {
		env = c.Env
		return run.Result{}, &run.Error{Args: []string{"systemd-sysupdate"}, ExitCode: 1, Stderr: "GET http://127.0.0.1:1/0123abcd/x failed", Err: errors.New("exit status 1")}
	}
	err := s.Update(t.Context(), "1", nil)
	if err == nil || err.Error() != "updating to 1: systemd-sysupdate: exit status 1: GET http://127.0.0.1:1/.../x failed" {
		t.Errorf("got %v", err)
	}
	if !strings.Contains(strings.Join(env, " "), "no_proxy=* NO_PROXY=*") {
		t.Errorf("got %v", env)
	}
}

// The percents come from a program; what makes no sense changes nothing.
func TestParse_Messages_TakeWhatMakesSense(t *testing.T) {
	start := Progress{Percent: 10, Done: 1, Left: 3, Status: "before"}
	for message, want := range map[string]Progress{
		"X_SYSUPDATE_PROGRESS=37\nX_SYSUPDATE_TRANSFERS_LEFT=2\nX_SYSUPDATE_TRANSFERS_DONE=2\nSTATUS=Updating to '2' (37% complete).": {37, 2, 2, "Updating to '2' (37% complete)."},
		"READY=1\nX_SYSUPDATE_VERSION=2\n":         start,
		"X_SYSUPDATE_PROGRESS=101\n":               start,
		"X_SYSUPDATE_PROGRESS=-1\nSTATUS":          {10, 1, 3, ""},
		"X_SYSUPDATE_TRANSFERS_LEFT=x\n":           start,
		"STATUS=" + strings.Repeat("a", 300):       {10, 1, 3, strings.Repeat("a", 256)},
		"STATUS=" + strings.Repeat("a", 255) + "ä": {10, 1, 3, strings.Repeat("a", 255)},
	} {
		if diff := cmp.Diff(want, parse(start, message)); diff != "" {
			t.Errorf("%q: %s", message, diff)
		}
	}
}

func FuzzParse_AnyMessage_StaysInBounds(f *testing.F) {
	f.Add("X_SYSUPDATE_PROGRESS=37\nX_SYSUPDATE_TRANSFERS_LEFT=2\nSTATUS=x")
	f.Fuzz(func(t *testing.T, message string) {
		p := parse(Progress{}, message)
		if p.Percent < 0 || p.Percent > 100 || p.Done < 0 || p.Left < 0 || len(p.Status) > maxStatus {
			t.Errorf("got %+v", p)
		}
	})
}

// The kernel finds /usr by these.
func TestUUIDs_RootHash_AreItsHalves(t *testing.T) {
	data, verity := UUIDs("00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef")
	if data != "00112233-4455-6677-8899-aabbccddeeff" || verity != "01234567-89ab-cdef-0123-456789abcdef" {
		t.Errorf("got %s and %s", data, verity)
	}
	for _, hash := range []string{"", "00", "x0112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef"} {
		if data, verity := UUIDs(hash); data != "" || verity != "" {
			t.Errorf("%s: got %s and %s", hash, data, verity)
		}
	}
}

func labelled(version string, active bool) Slot {
	n := "Holdfast_" + version
	return Slot{Version: version, Active: active, Labels: [3]string{n + "_verity_sig", n + "_verity", n}, Parts: Parts{6, 7, 8}}
}

// systemd-sysupdate goes by labels: with wrong ones it would write over the /usr that is
// mounted.
func TestCheck_EveryPairOfSlots_AllowsOnlyTheSafe(t *testing.T) {
	empty := Slot{Empty: true, Labels: [3]string{"_empty", "_empty", "_empty"}}
	partly := Slot{Problem: "x", Labels: [3]string{"Holdfast_2_verity_sig", "_empty", "_empty"}}
	foreign := Slot{Problem: "x", Labels: [3]string{"_empty", "backup", "_empty"}, Parts: Parts{6, 7, 8}}
	unlabelled := empty
	unlabelled.Active = true
	for name, c := range map[string]struct {
		slots []Slot
		want  string
	}{
		"installed":             {[]Slot{labelled("1", true), empty}, ""},
		"after an update":       {[]Slot{labelled("1", true), labelled("2", false)}, ""},
		"in the second slot":    {[]Slot{labelled("2", false), labelled("1", true)}, ""},
		"after a cut":           {[]Slot{labelled("1", true), partly}, ""},
		"the active is free":    {[]Slot{unlabelled, labelled("2", false)}, "the active slot is labelled _empty, _empty, _empty, not 1: repair its labels before any update"},
		"the active is another": {[]Slot{labelled("2", true), empty}, "the active slot is labelled Holdfast_2_verity_sig, Holdfast_2_verity, Holdfast_2, not 1: repair its labels before any update"},
		"both are the same":     {[]Slot{labelled("1", true), labelled("1", false)}, ErrLabels.Error() + ": both slots are labelled 1: free the one of partition 8 before any update"},
		"a foreign label":       {[]Slot{labelled("1", true), foreign}, ErrLabels.Error() + `: a partition is labelled "backup": free the slot of partition 8 before any update`},
		"none is active":        {[]Slot{labelled("1", false), empty}, "0 slots are active, want 1: no update is possible until the machine was started again"},
		"both are active":       {[]Slot{labelled("1", true), labelled("1", true)}, "2 slots are active, want 1: no update is possible until the machine was started again"},
		"a single slot":         {[]Slot{labelled("1", true)}, "there is no second slot: start the machine from an installed disk"},
	} {
		got := ""
		if err := Check(c.slots, "1"); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: got %q", name, got)
		}
	}
}

// On a disk that is reached over several paths, partitions are mapped as well.
func TestActive_PartitionsOfAMap_AreFoundByTheirUUID(t *testing.T) {
	root := t.TempDir()
	for name, content := range map[string]string{
		"dev/dm-0": "", "sys/block/dm-5/dm/name": "usr\n", "sys/block/dm-5/slaves/dm-3/x": "", "sys/block/dm-5/slaves/dm-4/x": "",
		"sys/class/block/dm-3/dm/uuid": "part4-mpath-3600a\n", "sys/class/block/dm-3/slaves/dm-0/x": "",
		"sys/class/block/dm-4/dm/uuid": "part5-mpath-3600a\n", "sys/class/block/dm-4/slaves/dm-0/x": "",
	} {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("dm-0", filepath.Join(root, "dev/disk")); err != nil {
		t.Fatal(err)
	}
	active, err := Slots{Disk: filepath.Join(root, "dev/disk"), Root: root}.active()
	if err != nil {
		t.Fatal(err)
	}
	if !active(Slot{Parts: Parts{3, 4, 5}}) || active(Slot{Parts: Parts{6, 7, 8}}) {
		t.Error("the slot of partition 5 is the active one")
	}
}

// Without a mapping (a /usr that was mounted in another way) the command line says what
// runs; a mapping on another disk is not this disk's.
func TestActive_NoMappingOnThisDisk_CommandLineDecides(t *testing.T) {
	hash := strings.Repeat("ab", 16) + strings.Repeat("cd", 16)
	root := t.TempDir()
	for name, content := range map[string]string{
		"proc/cmdline": "quiet usrhash=" + hash + " rw\n", "disk": "",
		"sys/block/dm-0/dm/name": "usr\n", "sys/devices/vdb/vdb5/partition": "5\n",
		"sys/block/dm-1/dm/name": "swap\n",
	} {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Mkdir(filepath.Join(root, "sys/block/dm-0/slaves"), 0o755),
		os.Symlink("../../../devices/vdb/vdb5", filepath.Join(root, "sys/block/dm-0/slaves/vdb5"))); err != nil {
		t.Fatal(err)
	}
	active, err := Slots{Disk: filepath.Join(root, "disk"), Root: root}.active()
	if err != nil {
		t.Fatal(err)
	}
	data, verity := UUIDs(hash)
	for name, c := range map[string]struct {
		uuids [3]string
		want  bool
	}{
		"this hash":       {[3]string{"", verity, data}, true},
		"another tree":    {[3]string{"", data, data}, false},
		"another content": {[3]string{"", verity, verity}, false},
	} {
		if got := active(Slot{Parts: Parts{3, 4, 5}, UUIDs: c.uuids}); got != c.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

func sections(contents ...[]byte) (out [3]*io.SectionReader) {
	for i, data := range contents {
		out[i] = io.NewSectionReader(bytes.NewReader(data), 0, int64(len(data)))
	}
	return out
}

// A slot counts as whole only when its three parts belong together.
func TestReadContent_PartsOfOneRelease_AreWanted(t *testing.T) {
	hash := strings.Repeat("ab", 16) + strings.Repeat("cd", 16)
	data, verity := UUIDs(hash)
	sig := []byte(`{"rootHash":"` + hash + `"}` + "\x00\x00")
	tree, content := []byte("verity\x00\x00"), append(make([]byte, 1024), "\xe2\xe1\xf5\xe0"...)
	for name, c := range map[string]struct {
		parts [3]*io.SectionReader
		uuids [3]string
		want  string
	}{
		"whole":           {sections(sig, tree, content), [3]string{"", verity, data}, ""},
		"no signature":    {sections(make([]byte, 512), tree, content), [3]string{"", verity, data}, "the signature is not readable"},
		"other signature": {sections([]byte(`{"rootHash":"`+strings.Repeat("00", 32)+`"}`), tree, content), [3]string{"", verity, data}, "the signature is for another release than the UUIDs"},
		"old UUID":        {sections(sig, tree, content), [3]string{"", verity, verity}, "the signature is for another release than the UUIDs"},
		"old tree's UUID": {sections(sig, tree, content), [3]string{"", data, data}, "the signature is for another release than the UUIDs"},
		"no tree":         {sections(sig, make([]byte, 8), content), [3]string{"", verity, data}, "the hash tree is none"},
		"no content":      {sections(sig, tree, make([]byte, 1028)), [3]string{"", verity, data}, "the content is no file system"},
	} {
		_, problem, err := readContent(c.parts, c.uuids)
		if problem != c.want || err != nil {
			t.Errorf("%s: got %q, %v", name, problem, err)
		}
	}
}

// What lies in a slot is foreign bytes until it is checked.
func FuzzRead_AnySignature_OnlyTheOneOfTheUUIDsPasses(f *testing.F) {
	hash := strings.Repeat("ab", 16) + strings.Repeat("cd", 16)
	data, verity := UUIDs(hash)
	f.Add([]byte(`{"rootHash":"` + hash + `"}` + "\x00\x00"))
	f.Add([]byte(`{"rootHash":1}`))
	f.Add([]byte("\x00"))
	content := make([]byte, 1028)
	copy(content, "verity\x00\x00")
	copy(content[1024:], "\xe2\xe1\xf5\xe0")
	f.Fuzz(func(t *testing.T, signature []byte) {
		got, problem, err := readContent(sections(signature, content, content), [3]string{"", verity, data})
		if err != nil {
			t.Fatal(err)
		}
		raw, _ := hex.DecodeString(got)
		if problem == "" && hex.EncodeToString(raw) != hash {
			t.Errorf("root hash %q", got)
		}
	})
}
