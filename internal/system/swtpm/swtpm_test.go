package swtpm

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/test/needs"
)

type fakeTools string

func (f fakeTools) Command(name string, args ...string) run.Command {
	return run.Command{Name: string(f) + "/ld.so", Args: append([]string{string(f) + "/" + name}, args...)}
}

// The firmware measures into every active bank: one bank keeps starts short.
func TestSetup_NewTPM_HasOneBankAndNoCertificates(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tpm")
	var got []run.Command
	runner := func(_ context.Context, c run.Command) (run.Result, error) {
		got = append(got, c)
		return run.Result{}, nil
	}
	if err := Setup(context.Background(), runner, fakeTools("/t"), TPM{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	want := []run.Command{{Name: "/t/ld.so", Args: []string{
		"/t/swtpm_setup", "--tpm2", "--tpmstate", dir, "--config", dir + "/setup.conf",
		"--pcr-banks", "sha256", "--createek", "--overwrite", "--tpm", "/t/ld.so /t/swtpm socket",
	}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("programs run (-want +got):\n%s", diff)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder of the TPM's keys: %v, %v, want mode 0700", info.Mode(), err)
	}
}

// swtpm_setup would take half of such a path for a program.
func TestSetup_PathWithSpace_IsRefused(t *testing.T) {
	runner := func(context.Context, run.Command) (run.Result, error) {
		t.Error("a program was run")
		return run.Result{}, nil
	}
	err := Setup(context.Background(), runner, fakeTools("/my tools"), TPM{Dir: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "HOLDFAST_CACHE") {
		t.Errorf("got %v, want a way on", err)
	}
}

// The real programs agree with what the other tests believe.
func TestTPM_RealPrograms_MakeAndServeOne(t *testing.T) {
	tools := needs.Tree(t, "swtpm")
	ctx, dir := context.Background(), t.TempDir()
	tpm := TPM{Dir: filepath.Join(dir, "tpm"), Socket: filepath.Join(dir, "s"), PIDFile: filepath.Join(dir, "pid")}
	if err := Setup(ctx, run.Host, tools, tpm); err != nil {
		t.Fatal(err)
	}
	if err := Start(ctx, run.Host, tools, tpm); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(tpm.Socket)
	if err != nil || info.Mode()&os.ModeSocket == 0 {
		t.Errorf("the control socket: %v", err)
	}
	endServer(t, tpm)
}
