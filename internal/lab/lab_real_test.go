package lab

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-os/holdfast/internal/system/qemu"
	"github.com/holdfast-os/holdfast/test/needs"
)

// realLab opens a lab in a new folder with the programs of the tools tree.
func realLab(t *testing.T) *Lab {
	t.Helper()
	if testing.Short() {
		t.Skip("qemu: it starts a virtual machine")
	}
	root, err := os.MkdirTemp("", "lab") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	needs.Tree(t, "qemu-system-x86_64")
	l, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	l.cache = root
	return l
}

// A person, and every VM test, relies on this: a machine started once can be put
// back to where it was within seconds, with firmware, TPM and disk.
func TestLab_RunningMachineSaved_ComesBackFromItsSnapshot(t *testing.T) {
	l := realLab(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	d, err := l.dir("tiny")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Remove(context.WithoutCancel(ctx), "tiny") })
	check := func(err error) {
		t.Helper()
		if err != nil {
			log, _ := os.ReadFile(d.file("qemu.log"))
			t.Fatalf("%v\nqemu.log: %s", err, log)
		}
	}

	var said bytes.Buffer
	info, err := l.Up(ctx, Options{
		Name: "tiny", NoWait: true, Progress: &said,
		Hardware: Hardware{NoMedium: true, DiskGiB: []int{1}, MemoryMiB: 128, Accel: qemu.TCG, SMBIOS: execSMBIOS()},
	})
	check(err)
	if !info.Running {
		t.Fatalf("the machine does not run; said:\n%s", said.String())
	}
	shot := filepath.Join(string(d), "shot.png")
	check(l.Screenshot(ctx, "tiny", shot))
	if raw, err := os.ReadFile(shot); err != nil || !bytes.HasPrefix(raw, []byte("\x89PNG")) {
		t.Errorf("the screenshot is no PNG: %v", err)
	}

	s, err := loadState(d.file("state.json"))
	check(err)
	saved, err := l.snapshot(ctx, d, s)
	check(err)
	checkStatus(t, ctx, d, "running")
	if got := saved.Machine.Disks[0]; got.Format != "qcow2" || got.Path != d.file("disk0.qcow2") {
		t.Errorf("after its snapshot the machine writes to %s (%s): the snapshot is not safe", got.Path, got.Format)
	}
	check(l.Power(ctx, "tiny", Cut))
	restored, err := l.restore(ctx, d, "")
	check(err)
	checkStatus(t, ctx, d, "running")
	if got := restored.Machine.Disks[0]; got.Format != "qcow2" || got.Path != d.file("disk0.qcow2") {
		t.Errorf("the restored machine writes to %s (%s): the snapshot is not safe", got.Path, got.Format)
	}
}

func checkStatus(t *testing.T, ctx context.Context, d dir, want string) {
	t.Helper()
	client, done, err := connect(ctx, d)
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	if got, err := client.Status(ctx); err != nil || got != want {
		t.Fatalf("the machine is %q (%v), want %q", got, err, want)
	}
}
