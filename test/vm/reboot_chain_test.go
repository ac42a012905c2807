package vm

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/test/vm/forge"
)

// refusalTime is how long a machine that shall not start is looked at: twice as long as the
// right bytes took to get into the kernel, and at least a minute.
func (h hostile) refusalTime() time.Duration {
	return max(2*h.control.KernelAfter, time.Minute)
}

// expectNoKernel starts the machine and fails if a kernel gets to run.
func (n *node) expectNoKernel(t *testing.T, h hostile) {
	t.Helper()
	got := n.observe(t, h.refusalTime(), func(s seen) bool { return s.Kernel || s.Ready })
	if got.Kernel || got.Ready {
		t.Errorf("the firmware started it: %+v (the right kernel ran after %s)", got, h.control.KernelAfter)
	}
	if got.Off {
		t.Error("the machine switched itself off: nothing was shown")
	}
}

// Whoever can write to the ESP (a thief, another system on the same disk) must not
// get to change the kernel or the initrd, not even by one byte.
func TestUKI_OneChangedByte_IsRefused(t *testing.T) {
	slow(t)
	n, h := hostileNode(t)
	n.putKernel(t, changedKernel(t, func(image []byte) []byte {
		image[len(image)/2] ^= 0xff
		return image
	}))
	n.expectNoKernel(t, h)
}

// A kernel image that anybody else built and signed is not ours. That the way of
// signing is right shows the same image, signed in the same way by our own key.
func TestUKI_OtherKey_IsRefused(t *testing.T) {
	slow(t)
	n, h := hostileNode(t)
	bare := changedKernel(t, func(image []byte) []byte {
		unsigned, err := forge.Unsigned(image)
		if err != nil {
			t.Fatal(err)
		}
		return unsigned
	})
	sign := func(key, cert string) string {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		signed := filepath.Join(t.TempDir(), "signed.efi")
		if _, err := machines.run(ctx, "sbsign", "--key", key, "--cert", cert, "--output", signed, bare); err != nil {
			t.Fatal(err)
		}
		return signed
	}
	other, err := forge.NewPair("somebody else", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	key, cert := filepath.Join(t.TempDir(), "other.key"), filepath.Join(t.TempDir(), "other.crt")
	if err := forge.WritePEM(other, key, cert); err != nil {
		t.Fatal(err)
	}

	n.putKernel(t, sign(filepath.Join(machines.root, ".keys", "secureboot.key"), filepath.Join(machines.root, ".keys", "secureboot.crt")))
	if got := n.observe(t, h.refusalTime(), func(s seen) bool { return s.Kernel }); !got.Kernel {
		t.Fatalf("signed again by our own key it does not start either: %+v", got)
	}
	if err := machines.cut(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.putKernel(t, sign(key, cert))
	n.expectNoKernel(t, h)
}

// What runs must be what was published, bit for bit: a disk that rots, or that
// somebody wrote to, must not run. The byte lies before the file system's own
// header, where only dm-verity looks. With no other release to start the machine says
// so, and stays to be helped.
func TestUsr_OneChangedByte_IsRefused(t *testing.T) {
	slow(t)
	n, _ := hostileNode(t)
	n.spoil(t, layout.Start(layout.UsrA))
	n.expectRecovery(t, "holdfast-usr.service")
}

// spoil changes one byte of a stopped machine's disk until the test ends.
func (n *node) spoil(t *testing.T, at int64) {
	t.Helper()
	if err := forge.FlipByte(n.disk(), at); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := machines.cut(context.Background()); err != nil {
			t.Error(err)
		}
		if err := forge.FlipByte(n.disk(), at); err != nil {
			t.Error(err)
		}
	})
}

// A wrong byte that early boot does not come across restarts the system as soon as that reads
// it. After two such starts the third reads all of /usr, and says what is wrong.
func TestUsr_OneChangedByteThatOnlyTheSystemReads_IsFoundByTheThirdStart(t *testing.T) {
	slow(t)
	longOnly(t)
	n, _ := hostileNode(t)
	unit, err := os.ReadFile(filepath.Join(machines.root, "image/base/usr/lib/systemd/system/holdfastd.service"))
	if err != nil {
		t.Fatal(err)
	}
	at, err := forge.Find(n.disk(), layout.Start(layout.UsrA), layout.Size(layout.UsrA), unit)
	if err != nil {
		t.Fatal(err)
	}
	n.spoil(t, at)
	since := n.serialSize(t)
	n.powerOn(t)
	events := n.listen(t)
	for range 2 {
		awaitReset(t, events, bootLimit)
	}
	n.saysOnSerial(t, since, bootLimit, append([]string{"did not end in a ready node", "it is damaged"}, recoveryPhrases...)...)
}

// recoveryPhrases are on the console of a node that no restart helps.
var recoveryPhrases = []string{"there is no other release to start", "RESCUE_DATA", "starts again by itself in"}

// expectRecovery starts the machine and fails unless it says what is wrong and waits for a
// medium, the API never answers, and the power button restarts it.
func (n *node) expectRecovery(t *testing.T, phrases ...string) {
	t.Helper()
	since := n.serialSize(t)
	n.powerOn(t)
	events := n.listen(t)
	n.saysOnSerial(t, since, bootLimit, append(phrases, recoveryPhrases...)...)
	asked, cancel := context.WithTimeout(t.Context(), shortLimit)
	defer cancel()
	if ready, _ := n.ready(asked); ready {
		t.Error("the node came up as if nothing were wrong")
	}
	ctx, cancel := context.WithTimeout(t.Context(), shortLimit)
	defer cancel()
	control, err := n.control(ctx, "qmp.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	if err := control.PowerDown(ctx); err != nil {
		t.Fatal(err)
	}
	awaitReset(t, events, time.Minute)
}

// A failure in the initrd must never leave a machine that nobody can reach standing
// still, and never give whoever stands in front of it a shell: it says what is wrong, waits for
// a rescue medium where nothing else is left, and starts again. What is broken here is the
// partition table: the seed's partition and the root volume are gone from it, and without both
// the disk is left alone.
func TestInitrd_Failure_SaysWhyAndRestarts(t *testing.T) {
	slow(t)
	n, _ := hostileNode(t)
	keepTable(t, n)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := machines.run(ctx, "sfdisk", "--no-reread", "--no-tell-kernel", "--delete", n.disk(), "2", "10"); err != nil {
		t.Fatal(err)
	}
	n.expectRecovery(t, "could not start", "seed")
}

// keepTable puts both copies of the partition table back at the end of the test.
func keepTable(t *testing.T, n *node) {
	t.Helper()
	const length = 1 << 20
	info, err := os.Stat(n.disk())
	if err != nil {
		t.Fatal(err)
	}
	saved := map[int64][]byte{0: make([]byte, length), info.Size() - length: make([]byte, length)}
	file, err := os.OpenFile(n.disk(), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	for at, part := range saved {
		if _, err := file.ReadAt(part, at); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		defer file.Close()
		if err := machines.cut(context.Background()); err != nil {
			t.Error(err)
		}
		for at, part := range saved {
			if _, err := file.WriteAt(part, at); err != nil {
				t.Error(err)
			}
		}
	})
}
