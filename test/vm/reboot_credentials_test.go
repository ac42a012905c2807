package vm

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/lab"
)

// Whoever runs the hypervisor, or can set firmware tables, must not get a program or
// a shell into the node by that: the node comes up as usual, and nothing of what the
// tables ask for is there.
func TestCredentials_FromOutside_HaveNoEffect(t *testing.T) {
	slow(t)
	_, h := hostileNode(t)
	if !h.security.State.SystemStateIsTrusted {
		t.Errorf("the node does not trust itself: %s", h.security.State.SystemStateStatus)
	}
	for _, p := range h.processes {
		for what, mark := range map[string]string{"an SMBIOS string": smbiosMark, "fw_cfg": fwcfgMark, "the lab's own credential": "lab-exec"} {
			if strings.Contains(p.Command, mark) {
				t.Errorf("%s started process %d: %s", what, p.PID, p.Command)
			}
		}
	}
	expectClosed(t, h.processes)
}

// Another command line from outside must not run: sd-stub may take it over from the
// firmware's tables, but then the start is refused. It must never end in a shell.
func TestCommandLine_FromOutside_IsNotStarted(t *testing.T) {
	slow(t)
	extra := "io.systemd.stub.kernel-cmdline-extra=systemd.import_credentials=yes rd.systemd.debug_shell=ttyS0 init=/bin/sh"
	n := clone(t, baseName+"-cmdline", lab.Hardware{SMBIOS: []string{extra}})
	got := n.observe(t, bootLimit, func(s seen) bool { return s.Ready || s.ResetsAfter > 0 })
	switch {
	case got.ResetsAfter > 0 && !got.Ready:
		return // refused: the initrd found a word that was not signed
	case !got.Ready:
		t.Fatalf("the node neither came up nor started again: %+v", got)
	}
	security, err := n.api.Security(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !security.State.SystemStateIsTrusted {
		t.Errorf("the node came up with another command line: %s", security.State.SystemStateStatus)
	}
	expectClosed(t, n.processes(t))
}

// A thief with the disk alone must not get at the data; the owner with the recovery
// key must, for example after the board was replaced.
func TestDisk_MovedToAnotherMachine_AsksForRecoveryKey(t *testing.T) {
	slow(t)
	before, err := shared(t).api.Security(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(before.Config.EncryptionRecoveryKeys) == 0 {
		t.Fatal("the node gives no recovery key")
	}
	n := clone(t, baseName+"-moved", lab.Hardware{})
	n.newTPM(t)
	n.openByKey(t, before.Config.EncryptionRecoveryKeys[0])
	after, err := n.api.Security(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	type volumes = map[string]string
	got := volumes{}
	for _, v := range after.State.EncryptedVolumes {
		got[v.Volume] = v.State
	}
	if diff := cmp.Diff(volumes{"root": "unlocked (recovery passphrase)"}, volumes{"root": got["root"]}); diff != "" {
		t.Error(diff)
	}
	if after.State.TPMStatus == "ok" {
		t.Error("the node says that the TPM of another machine is its own")
	}
}

// openByKey starts a machine that asks for its recovery key, and types it until the node is
// ready.
func (n *node) openByKey(t *testing.T, key string) {
	t.Helper()
	since := n.serialSize(t)
	n.powerOn(t)
	port := n.typeOnSerial(t)
	n.saysOnSerial(t, since, bootLimit, "recovery key", "Please enter passphrase")
	// A line that goes wrong on the serial port is answered with the same question.
	tries := 0
	until(t, bootLimit, "waiting for the node to come up with its recovery key", func(ctx context.Context) (bool, error) {
		if tries++; tries%5 == 1 {
			if _, err := port.Write([]byte(key + "\n")); err != nil {
				return false, err
			}
		}
		return n.ready(ctx)
	})
}
