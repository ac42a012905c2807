package tooltree

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

func fakeTree(t *testing.T, files ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, name := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// A person without the tree has to be told what to do, not that a file is missing.
func TestOpen_UnfinishedTree_SaysSo(t *testing.T) {
	for name, files := range map[string][]string{
		"nothing there":       nil,
		"still being built":   {"lib64/ld-linux-x86-64.so.2"},
		"emptied by somebody": {".complete"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Open(fakeTree(t, files...)); !errors.Is(err, ErrMissing) {
				t.Errorf("got %v, want ErrMissing", err)
			}
		})
	}
}

// The programs must run on any distribution: only with the tree's own loader and
// libraries do they.
func TestCommand_AnyProgram_RunsUnderTheTreesOwnLoader(t *testing.T) {
	root := fakeTree(t, ".complete", "lib64/ld-linux-x86-64.so.2", "usr/bin/mcopy", "usr/sbin/mkfs.vfat")
	tree, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	lib := root + "/usr/lib/x86_64-linux-gnu"
	want := run.Command{
		Name: root + "/lib64/ld-linux-x86-64.so.2",
		Args: []string{
			"--library-path", lib + ":" + lib + "/swtpm:" + lib + "/systemd",
			root + "/usr/bin/mcopy", "-o", "a", "b",
		},
		Env: []string{"QEMU_MODULE_DIR=" + lib + "/qemu", "MTOOLSRC=/dev/null"},
	}
	if diff := cmp.Diff(want, tree.Command("mcopy", "-o", "a", "b")); diff != "" {
		t.Errorf("command (-want +got):\n%s", diff)
	}
	if got := tree.Command("mkfs.vfat").Args[2]; got != root+"/usr/sbin/mkfs.vfat" {
		t.Errorf("a program of usr/sbin is looked for as %s", got)
	}
}

func TestCacheDir_Environment_Decides(t *testing.T) {
	t.Setenv("HOME", "/home/me")
	for _, c := range []struct{ holdfast, xdg, want string }{
		{"", "", "/home/me/.cache/holdfast"},
		{"", "/var/cache/me", "/var/cache/me/holdfast"},
		{"/big/disk", "/var/cache/me", "/big/disk"},
	} {
		t.Setenv("HOLDFAST_CACHE", c.holdfast)
		t.Setenv("XDG_CACHE_HOME", c.xdg)
		if got, err := CacheDir(); err != nil || got != c.want {
			t.Errorf("HOLDFAST_CACHE=%q XDG_CACHE_HOME=%q: got %s, %v, want %s", c.holdfast, c.xdg, got, err, c.want)
		}
	}
}

// A machine that dies with the terminal is of no use.
func TestDetach_Program_RunsInItsOwnSession(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	process, err := Detach(run.Command{Name: "sh", Args: []string{"-c", "cut -d' ' -f6 /proc/$$/stat; echo $$; echo $WORD"}, Env: []string{"WORD=said"}}, log)
	if err != nil {
		t.Fatal(err)
	}
	<-process.Done
	raw, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	pid := strconv.Itoa(process.PID)
	if want := pid + "\n" + pid + "\nsaid\n"; string(raw) != want {
		t.Errorf("session, process and output: got %q, want %q", raw, want)
	}
}
