package sysext_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/sysext"
)

// An update replaces the link in one step: a power cut leaves the old or the new one.
func TestLink_SecondVersion_ReplacesTheFirst(t *testing.T) {
	e := &sysext.Extensions{Directory: filepath.Join(t.TempDir(), "extensions")}
	for _, image := range []string{"/images/1/incus.raw", "/images/2/incus.raw", "/images/2/incus.raw"} {
		if err := e.Link("incus", image); err != nil {
			t.Fatal(err)
		}
		if got, err := e.Linked("incus"); err != nil || got != image {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	entries, err := os.ReadDir(e.Directory)
	if err != nil || len(entries) != 1 || entries[0].Name() != "incus.raw" {
		t.Errorf("got %v, %v", entries, err)
	}
	if err := errors.Join(e.Unlink("incus"), e.Unlink("incus")); err != nil {
		t.Error(err)
	}
}

// A name from the API must not lead out of the directory.
func TestLink_NameWithPath_IsRefused(t *testing.T) {
	e := &sysext.Extensions{Directory: t.TempDir()}
	for _, name := range []string{"", ".", "../incus", "a/b"} {
		if err := e.Link(name, "/x"); err == nil {
			t.Errorf("%q was accepted", name)
		}
	}
}

// Without the policy systemd would merge unsigned images; without the steps after it the
// merged services find neither users nor directories. What was unlinked has to go; where there
// never was anything, systemd is left alone.
func TestRefresh_AsksForSignedImagesAndPreparesTheSystem(t *testing.T) {
	all := []string{
		"systemd-sysext refresh --image-policy=root=signed+absent:usr=signed+absent:=ignore",
		"systemd-sysusers",
		"systemd-tmpfiles --create",
		"systemctl daemon-reload",
	}
	for name, c := range map[string]struct {
		linked bool
		merged string
		want   []string
	}{
		"linked":             {true, `"none"`, all},
		"merged, not linked": {false, `["incus"]`, all},
		"neither":            {false, `"none"`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var ran []string
			e := &sysext.Extensions{Directory: filepath.Join(t.TempDir(), "extensions"), Run: func(_ context.Context, command run.Command) (run.Result, error) {
				if slices.Contains(command.Args, "status") {
					return run.Result{Stdout: []byte(`[{"hierarchy":"/usr","extensions":` + c.merged + `}]`)}, nil
				}
				ran = append(ran, strings.Join(append([]string{command.Name}, command.Args...), " "))
				if command.Name == "systemd-tmpfiles" {
					return run.Result{}, &run.Error{ExitCode: 73, Err: errors.New("exit status 73")}
				}
				return run.Result{}, nil
			}}
			if c.linked {
				if err := e.Link("incus", "/images/incus.raw"); err != nil {
					t.Fatal(err)
				}
			}
			if err := e.Refresh(context.Background()); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, ran); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// The node blesses a new system only when its applications are part of it.
func TestMerged_StatusOfSystemd_GivesTheNamesUnderUsr(t *testing.T) {
	for text, want := range map[string][]string{
		`[{"hierarchy":"/opt","extensions":"none","since":null},{"hierarchy":"/usr","extensions":["debug","incus"],"since":1}]`: {"debug", "incus"},
		`[{"hierarchy":"/usr","extensions":"none","since":null}]`:                                                               {},
	} {
		e := &sysext.Extensions{Run: func(context.Context, run.Command) (run.Result, error) {
			return run.Result{Stdout: []byte(text)}, nil
		}}
		got, err := e.Merged(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
}
