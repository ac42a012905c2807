//go:build linux

package host

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/tooltree"
	"github.com/holdfast-os/holdfast/test/needs"
)

// twoPorts gives a free port whose successor is free as well: systemd's TPM library
// looks for swtpm's control channel there.
func twoPorts(t *testing.T) int {
	t.Helper()
	for range 20 {
		first, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := first.Addr().(*net.TCPAddr).Port
		second, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+1))
		if err == nil {
			err = second.Close()
		}
		if closed := first.Close(); closed != nil {
			t.Fatal(closed)
		}
		if err == nil {
			return port
		}
	}
	t.Fatal("no two free ports beside each other")
	return 0
}

// bootTPM switches on the TPM whose state is in dir, PCRs at zero, and gives its name
// for systemd and the function that switches it off.
func bootTPM(t *testing.T, tree tooltree.Tree, dir string) (device string, off func()) {
	t.Helper()
	port, pidFile := twoPorts(t), filepath.Join(t.TempDir(), "pid")
	if _, err := runTool(t, tree.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir, "--daemon", "--pid", "file="+pidFile,
		"--server", fmt.Sprintf("type=tcp,port=%d,bindaddr=127.0.0.1,disconnect", port),
		"--ctrl", fmt.Sprintf("type=tcp,port=%d,bindaddr=127.0.0.1", port+1),
		"--flags", "not-need-init,startup-clear")); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	running := true
	off = func() {
		if running {
			running = false
			if err := killed(pid); err != nil {
				t.Errorf("switching off the TPM: %v", err)
			}
		}
	}
	t.Cleanup(off)
	return fmt.Sprintf("swtpm:host=127.0.0.1,port=%d", port), off
}

// killed ends a process that is nobody's child and waits until it holds nothing any more.
func killed(pid int) (err error) {
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(process)) }()
	if err := unix.PidfdSendSignal(process, unix.SIGKILL, nil, 0); err != nil {
		return err
	}
	for {
		ended, err := unix.Poll([]unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}}, 10_000)
		switch {
		case err == nil && ended == 0:
			return fmt.Errorf("process %d is still there 10 s after it was killed", pid)
		case !errors.Is(err, unix.EINTR):
			return err
		}
	}
}

// opens tells whether the TPM opens the volume, by adding a recovery key with its help.
func opens(t *testing.T, tree tooltree.Tree, device, volume string) bool {
	t.Helper()
	_, err := runTool(t, tree.Command("systemd-cryptenroll", "--unlock-tpm2-device="+device, "--wipe-slot=recovery", "--recovery-key", volume))
	if code, ran := run.ExitCode(err); err != nil && (!ran || code != 1) {
		t.Fatal(err)
	}
	return err == nil
}

// Somebody puts a root volume of their own into a node: it may well start, but once a
// volume was opened the TPM opens none until the machine starts again.
func TestTPM_VolumeBoundToPCR15AtZero_OpensUntilAVolumeKeyIsMeasured(t *testing.T) {
	tree := needs.Tree(t, "swtpm", "systemd-cryptenroll", "cryptsetup", "tpm2_pcrextend")
	dir := t.TempDir()
	volume, key, state := filepath.Join(dir, "volume"), filepath.Join(dir, "key"), filepath.Join(dir, "tpm")
	writeFile(t, key, "the recovery key")
	writeFile(t, volume, "")
	if err := os.Truncate(volume, 32<<20); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	device, off := bootTPM(t, tree, state)
	for _, command := range []run.Command{
		tree.Command("cryptsetup", "luksFormat", "--type=luks2", "--batch-mode", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", volume, key),
		tree.Command("systemd-cryptenroll", "--unlock-key-file="+key, "--tpm2-device="+device, "--tpm2-pcrlock=", "--tpm2-public-key=",
			"--tpm2-pcrs=7+15:sha256=0000000000000000000000000000000000000000000000000000000000000000", volume),
	} {
		if _, err := runTool(t, command); err != nil {
			t.Fatal(err)
		}
	}
	if !opens(t, tree, device, volume) {
		t.Fatal("the TPM does not open the volume at all")
	}
	if _, err := runTool(t, tree.Command("tpm2_pcrextend", "-T", device, "15:sha256=1111111111111111111111111111111111111111111111111111111111111111")); err != nil {
		t.Fatal(err)
	}
	if opens(t, tree, device, volume) {
		t.Error("the TPM opens the volume after PCR 15 was extended")
	}
	off()
	device, _ = bootTPM(t, tree, state)
	if !opens(t, tree, device, volume) {
		t.Error("the TPM does not open the volume after a new start")
	}
}
