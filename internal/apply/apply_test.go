package apply_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/apply"
	"github.com/holdfast-os/holdfast/internal/plan"
)

// units notes what is asked of systemd.
type units struct{ did *[]string }

func (u units) note(verb, unit string) error { *u.did = append(*u.did, verb+" "+unit); return nil }

func (u units) Start(_ context.Context, unit string) error   { return u.note("start", unit) }
func (u units) Stop(_ context.Context, unit string) error    { return u.note("stop", unit) }
func (u units) Restart(_ context.Context, unit string) error { return u.note("restart", unit) }
func (u units) Reload(_ context.Context, unit string) error  { return u.note("reload", unit) }

var errTool = errors.New("the module is in use")

func world(t *testing.T) (apply.Executor, *[]string) {
	t.Helper()
	did := &[]string{}
	e := apply.Executor{
		Root: t.TempDir(), Units: units{did}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Tools: map[string]apply.Tool{
			"note": func(_ context.Context, args []string) error { *did = append(*did, "tool "+args[0]); return nil },
			"fail": func(context.Context, []string) error { return errTool },
		},
	}
	for path, text := range map[string]string{"etc/old": "old", "proc/sys/vm/nr_hugepages": "0", "sys/a": "x"} {
		full := filepath.Join(e.Root, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o755), os.WriteFile(full, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return e, did
}

func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := fs.WalkDir(os.DirFS(root), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(filepath.Join(root, path))
		info, statErr := entry.Info()
		files[path] = info.Mode().String() + " " + string(text)
		return errors.Join(err, statErr)
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestDo_EveryKind_InOrder(t *testing.T) {
	e, did := world(t)
	err := e.Do(context.Background(), plan.Plan{Steps: []plan.Step{
		{Kind: plan.WriteFile, Object: "/etc/new.d/a.conf", After: "a\n"},
		{Kind: plan.WriteFile, Object: "/etc/key", After: "secret\n", Mode: 0o600},
		{Kind: plan.WriteFile, Object: "/../../etc/inside", After: "b\n"},
		{Kind: plan.RemoveFile, Object: "/etc/old"},
		{Kind: plan.RemoveFile, Object: "/etc/never-there"},
		{Kind: plan.SetValue, Object: "/proc/sys/vm/nr_hugepages", After: "16"},
		{Kind: plan.UseTool, Object: "m", Tool: "fail", Optional: true},
		{Kind: plan.UseTool, Object: "m", Tool: "note", Args: []string{"swapon"}},
		{Kind: plan.StartUnit, Object: "a.service"}, {Kind: plan.StopUnit, Object: "b.service"},
		{Kind: plan.RestartUnit, Object: "c.service"}, {Kind: plan.ReloadUnit, Object: "d.service"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"etc/new.d/a.conf": "-rw-r--r-- a\n", "etc/key": "-rw------- secret\n", "etc/inside": "-rw-r--r-- b\n",
		"proc/sys/vm/nr_hugepages": "-rw-r--r-- 16", "sys/a": "-rw-r--r-- x",
	}
	if diff := cmp.Diff(want, tree(t, e.Root)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"tool swapon", "start a.service", "stop b.service", "restart c.service", "reload d.service"}, *did); diff != "" {
		t.Error(diff)
	}
}

func TestDo_AFailingStep_EndsThePlanAndIsNamed(t *testing.T) {
	e, did := world(t)
	err := e.Do(context.Background(), plan.Plan{Steps: []plan.Step{
		{Kind: plan.UseTool, Object: "dummy", Tool: "fail"}, {Kind: plan.StartUnit, Object: "a.service"},
	}})
	if !errors.Is(err, errTool) || err.Error() != "use tool dummy: the module is in use" || len(*did) != 0 {
		t.Errorf("error %v, did %v", err, *did)
	}
}

func TestDo_ValuesOutsideTheKernel_AreRefused(t *testing.T) {
	e, _ := world(t)
	for _, step := range []plan.Step{
		{Kind: plan.SetValue, Object: "/etc/old", After: "x"},
		{Kind: plan.SetValue, Object: "/sys/none", After: "x"},
		{Kind: plan.UseTool, Object: "x", Tool: "none"},
		{Kind: plan.CreateDevice, Object: "br0"},
	} {
		if err := e.Do(context.Background(), plan.Plan{Steps: []plan.Step{step}}); err == nil {
			t.Errorf("%v was done", step)
		}
	}
	if got := tree(t, e.Root)["etc/old"]; got != "-rw-r--r-- old" {
		t.Errorf("/etc/old is %q", got)
	}
}
