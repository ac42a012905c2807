package tpm2clear_test

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/tpm2clear"
	"github.com/holdfast-os/holdfast/test/needs"
)

// software starts a TPM that swtpm plays, until the test ends, and gives the way to it.
func software(t *testing.T) func() (transport.TPMCloser, error) {
	t.Helper()
	tools := needs.Tree(t, "swtpm")
	socket, pidFile := filepath.Join(t.TempDir(), "s"), filepath.Join(t.TempDir(), "pid")
	if _, err := run.Host(context.Background(), tools.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+t.TempDir(), "--daemon",
		"--pid", "file="+pidFile, "--server", "type=unixio,path="+socket, "--flags", "not-need-init,startup-clear")); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil || pid <= 1 {
		t.Fatalf("the pid file says %q", raw)
	}
	t.Cleanup(func() {
		// swtpm ends by itself when its last caller has gone.
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Errorf("switching off the TPM: %v", err)
		}
	})
	return func() (transport.TPMCloser, error) {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			return nil, err
		}
		return transport.FromReadWriteCloser(conn), nil
	}
}

// parent is the name of the storage key of the owner's hierarchy: it is made of a seed that
// a clear exchanges.
func parent(t *testing.T, open func() (transport.TPMCloser, error)) string {
	t.Helper()
	device, err := open()
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	made, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate),
	}.Execute(device)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (tpm2.FlushContext{FlushHandle: made.ObjectHandle}).Execute(device); err != nil {
		t.Fatal(err)
	}
	return string(made.Name.Buffer)
}

// What was bound to the TPM before a reset must not be opened by it again.
func TestClear_TPM_HasOtherKeysAfterwards(t *testing.T) {
	open := software(t)
	before := parent(t, open)
	if again := parent(t, open); again != before {
		t.Fatal("the TPM gives another key each time, so the test shows nothing")
	}
	if err := (tpm2clear.TPM{Open: open}).Clear(); err != nil {
		t.Fatal(err)
	}
	if parent(t, open) == before {
		t.Error("the TPM still has the key of before")
	}
}

// An owner's password keeps a stranger from clearing the TPM, and the platform's is the
// firmware's: with both set the answer says what is left to do.
func TestClear_PasswordsSet_IsRefused(t *testing.T) {
	open := software(t)
	device, err := open()
	if err != nil {
		t.Fatal(err)
	}
	for _, hierarchy := range []tpm2.TPMHandle{tpm2.TPMRHLockout, tpm2.TPMRHPlatform} {
		_, err := tpm2.HierarchyChangeAuth{
			AuthHandle: tpm2.AuthHandle{Handle: hierarchy, Auth: tpm2.PasswordAuth(nil)}, NewAuth: tpm2.TPM2BAuth{Buffer: []byte("secret")},
		}.Execute(device)
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := device.Close(); err != nil {
		t.Fatal(err)
	}
	err = tpm2clear.TPM{Open: open}.Clear()
	if !errors.Is(err, tpm2.TPMRCAuthFail) || !errors.Is(err, tpm2.TPMRCBadAuth) {
		t.Errorf("error %v", err)
	}
}

func TestClear_NoTPM_IsErrNone(t *testing.T) {
	err := tpm2clear.TPM{Open: func() (transport.TPMCloser, error) {
		return nil, &fs.PathError{Op: "open", Path: "/dev/tpmrm0", Err: fs.ErrNotExist}
	}}.Clear()
	if !errors.Is(err, tpm2clear.ErrNone) {
		t.Errorf("error %v", err)
	}
}
