package softtpm

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

type deadTPM struct{}

func (deadTPM) Send([]byte) ([]byte, error) { return nil, errors.New("not asked") }
func (deadTPM) Close() error                { return nil }

// The state folder is made, the kernel gets its module, and nobody goes on before the TPM is there.
func TestStart_MachineWithoutTPM_ServesOneAndWaitsForIt(t *testing.T) {
	dir, opened := t.TempDir(), 0
	var ran []string
	served := TPM{State: filepath.Join(dir, "esp/swtpm"), PIDFile: "/run/pid",
		Run: func(_ context.Context, c run.Command) (run.Result, error) {
			ran = append(ran, c.Name)
			return run.Result{}, nil
		},
		Open: func() (transport.TPMCloser, error) {
			if opened++; opened < 3 {
				return nil, fs.ErrNotExist
			}
			return deadTPM{}, nil
		}}
	if err := served.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"modprobe", "swtpm"}, ran); diff != "" || opened != 3 {
		t.Errorf("opened %d times\n%s", opened, diff)
	}
	if info, err := os.Stat(served.State); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the state folder: %v, %v", info, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	opened = -1 << 30
	if err := served.Start(ctx); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a TPM that does not come: %v", err)
	}
}

func TestStop_NothingServedOrAStrangeFile_IsToldApart(t *testing.T) {
	pid := filepath.Join(t.TempDir(), "pid")
	if err := (TPM{PIDFile: pid}).Stop(t.Context()); err != nil {
		t.Error(err)
	}
	for _, text := range []string{"", "1", "-1", "one"} {
		if err := os.WriteFile(pid, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := (TPM{PIDFile: pid}).Stop(t.Context()); err == nil {
			t.Errorf("%q was taken for a process", text)
		}
	}
}

func TestDigests_FileThatIsNoKernelImage_IsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image.efi")
	if err := os.WriteFile(path, []byte("no program"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := Digests(path); err == nil {
		t.Errorf("got %x", got)
	}
}
