package earlyboot_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/bootinfo"
	"github.com/holdfast-os/holdfast/internal/earlyboot"
)

var (
	errDisk = errors.New("the disk does not answer")
	all     = []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}
)

// Whatever an administrator plugs in and switches on, early boot does this and no
// more: each change it makes to the machine is listed, in its order.
func TestOpenRoot_EachKindOfStart_DoesTheseChanges(t *testing.T) {
	unfinished := func() *world {
		w := node()
		w.files = map[string]string{earlyboot.RecoveryKeyFile: "the recovery key"}
		return w
	}
	tests := map[string]struct {
		world *world
		with  func(*world)
		calls []string
		info  bootinfo.Info
		err   error
		parts []int
	}{
		"install medium: in memory, nothing is written": {
			world: medium(), with: func(w *world) { w.install = true },
			calls: []string{"tmpfs"},
			info:  bootinfo.Info{Mode: bootinfo.Install, BootDisk: "/dev/vda", ESP: "/dev/vda1"},
			parts: []int{1, 2, 3, 4, 5},
		},
		"a node that is given an install seed: in memory as well": {
			world: node(), with: func(w *world) { w.install = true },
			calls: []string{"tmpfs"},
			info:  bootinfo.Info{Mode: bootinfo.Install, BootDisk: "/dev/vda", ESP: "/dev/vda1"},
			parts: all,
		},
		"first boot: the machine id comes last": {
			world: medium(),
			calls: []string{
				"partition /dev/vda", "unlock /dev/vda10 ask=false",
				"write var/lib/incus-os/recovery.key", "write var/lib/incus-os/machine-id",
			},
			info:  bootinfo.Info{Mode: bootinfo.Node, RootUnlock: bootinfo.TPM, FirstBoot: true, BootDisk: "/dev/vda", ESP: "/dev/vda1"},
			parts: all,
		},
		"later boot: the TPM opens": {
			world: node(),
			calls: []string{"unlock /dev/vda10 ask=false"},
			info:  bootinfo.Info{Mode: bootinfo.Node, RootUnlock: bootinfo.TPM, BootDisk: "/dev/vda", ESP: "/dev/vda1"},
			parts: all,
		},
		"changed firmware: a person is asked, and the note says so": {
			world: node(), with: func(w *world) { w.firmwareChanged = true },
			calls: []string{"unlock /dev/vda10 ask=false", "unlock /dev/vda10 ask=true"},
			info:  bootinfo.Info{Mode: bootinfo.Node, RootUnlock: bootinfo.Recovery, BootDisk: "/dev/vda", ESP: "/dev/vda1"},
			parts: all,
		},
		"a volume with a fault: nobody is asked for a key that would not help": {
			world: node(), with: func(w *world) { w.unlockErr = errDisk },
			calls: []string{"unlock /dev/vda10 ask=false"},
			info:  bootinfo.Info{Mode: bootinfo.Node, BootDisk: "/dev/vda", ESP: "/dev/vda1"},
			err:   errDisk,
			parts: all,
		},
		"an unfinished first boot: cleared away, and again": {
			world: unfinished(),
			calls: []string{"unlock /dev/vda10 ask=false", "unmount", "remove /dev/vda [9 10 11]"},
			info:  bootinfo.Info{Mode: bootinfo.Node, RootUnlock: bootinfo.TPM, BootDisk: "/dev/vda", ESP: "/dev/vda1"},
			err:   earlyboot.ErrStartAgain,
			parts: []int{1, 2, 3, 4, 5, 6, 7, 8},
		},
		"an unfinished first boot without data: only what is there is removed": {
			world: unfinished(), with: func(w *world) { delete(w.parts, 11) },
			calls: []string{"unlock /dev/vda10 ask=false", "unmount", "remove /dev/vda [9 10]"},
			info:  bootinfo.Info{Mode: bootinfo.Node, RootUnlock: bootinfo.TPM, BootDisk: "/dev/vda", ESP: "/dev/vda1"},
			err:   earlyboot.ErrStartAgain,
			parts: []int{1, 2, 3, 4, 5, 6, 7, 8},
		},
		"a new disk with an unreadable seed: nothing is written": {
			world: medium(), with: func(w *world) { w.seedErr = errDisk },
			info:  bootinfo.Info{Mode: bootinfo.Node, BootDisk: "/dev/vda", ESP: "/dev/vda1"},
			err:   errDisk,
			parts: []int{1, 2, 3, 4, 5},
		},
		"a node with an unreadable seed: it starts": {
			world: node(), with: func(w *world) { w.seedErr = errDisk },
			calls: []string{"unlock /dev/vda10 ask=false"},
			info:  bootinfo.Info{Mode: bootinfo.Node, RootUnlock: bootinfo.TPM, BootDisk: "/dev/vda", ESP: "/dev/vda1"},
			parts: all,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if test.with != nil {
				test.with(test.world)
			}
			info, err := test.world.boot(-1)
			if !errors.Is(err, test.err) {
				t.Errorf("got error %v, want %v", err, test.err)
			}
			if diff := cmp.Diff(test.info, info); diff != "" {
				t.Errorf("note (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.calls, test.world.calls); diff != "" {
				t.Errorf("changes (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.parts, test.world.numbers()); diff != "" {
				t.Errorf("partitions (-want +got):\n%s", diff)
			}
		})
	}
}

// A disk that is too full for a root partition must not be taken for a node.
func TestOpenRoot_RepartMakesNoRoot_SaysWhichIsMissing(t *testing.T) {
	w := medium()
	w.repartMakes = []int{6, 7, 8}
	_, err := w.boot(-1)
	if want := "systemd-repart made no partition 10 on /dev/vda"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// Somebody trips over the cable during the first boot, and again during the second:
// the node comes up by itself, with a recovery key that opens it, and asks for nothing.
func TestOpenRoot_PowerCutAfterAnyChange_LaterBootEndsInAUsableNode(t *testing.T) {
	cuts := 0
	for first := range 5 {
		for second := range 5 {
			t.Run(fmt.Sprintf("after %d, then after %d", first, second), func(t *testing.T) {
				w := medium()
				for _, cut := range []int{first, second} {
					if _, err := w.boot(cut); errors.Is(err, errPower) {
						cuts++
					}
				}
				w.bootUntilUp(t)
			})
		}
	}
	// 4 changes in a first boot: the cuts after 0 to 3 of them must all have happened.
	if cuts < 20 {
		t.Errorf("only %d cuts happened: the table tests too little", cuts)
	}
}

// bootUntilUp boots with power, at most three times, and checks what a node needs.
func (w *world) bootUntilUp(t *testing.T) {
	t.Helper()
	var info bootinfo.Info
	err := earlyboot.ErrStartAgain
	for range 3 {
		if !errors.Is(err, earlyboot.ErrStartAgain) {
			break
		}
		info, err = w.boot(-1)
		if w.tpmOpens != 1 {
			t.Errorf("the TPM opened the root %d times in one boot", w.tpmOpens)
		}
	}
	if err != nil || info.Mode != bootinfo.Node || info.RootUnlock != bootinfo.TPM || !w.mounted {
		t.Fatalf("got %+v, %v, mounted %t; said %q", info, err, w.mounted, w.said)
	}
	want := map[string]string{
		"var/lib/incus-os/machine-id":   "0123456789abcdef0123456789abcdef\n",
		"var/lib/incus-os/recovery.key": "the recovery key",
	}
	if diff := cmp.Diff(want, w.files); diff != "" {
		t.Error(diff)
	}
	if w.volumeKey != "the recovery key" {
		t.Errorf("the volume opens with %q", w.volumeKey)
	}
	if diff := cmp.Diff(all, w.numbers()); diff != "" {
		t.Error(diff)
	}
}

// Whoever swaps the root volume for one of their own must not get the TPM to open the
// true one afterwards: once a boot is all it does. The fake is checked here too, for
// the crash table leans on it.
func TestUnlock_SecondTimeInOneBoot_TPMRefuses(t *testing.T) {
	w := node()
	if _, err := w.boot(-1); err != nil {
		t.Fatal(err)
	}
	w.mounted = false
	if err := w.Unlock(t.Context(), "/dev/vda10", false); !errors.Is(err, earlyboot.ErrLocked) {
		t.Errorf("got %v, want ErrLocked", err)
	}
}
