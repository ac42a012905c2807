package qemu

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

const (
	// probeLimit is how long the test program may take: on working KVM it takes
	// less than a second.
	probeLimit = 5 * time.Second
	// probeExit is what QEMU ends with when the program has run: the value 0x2a
	// written to the exit device, doubled, plus one.
	probeExit = 0x2a*2 + 1
)

// probeProgram is a boot sector that counts down from ten million and then ends
// QEMU. A /dev/kvm that opens but emulates each instruction, as on some nested
// hosts, does not get there in time.
func probeProgram() []byte {
	code := []byte{
		0x66, 0xb9, 0x80, 0x96, 0x98, 0x00, // mov ecx, 10000000
		0x66, 0x49, // dec ecx
		0x75, 0xfc, // jnz -4
		0xba, 0x01, 0x05, // mov dx, 0x501
		0xb0, 0x2a, // mov al, 0x2a
		0xee,       // out dx, al
		0xf4,       // hlt
		0xeb, 0xfd, // jmp -3
	}
	disk := make([]byte, 1<<20) // the firmware reads no disk of one sector
	copy(disk, code)
	disk[510], disk[511] = 0x55, 0xaa
	return disk
}

// Probe finds the accelerator that works by running a small guest under KVM for at
// most five seconds, and says why. scratch is a folder for the guest's boot sector.
func Probe(ctx context.Context, runner run.Runner, tools Tools, scratch string) (Accel, string, error) {
	if _, err := os.Stat("/dev/kvm"); err != nil {
		return TCG, "there is no /dev/kvm", nil
	}
	image, err := writeProbe(scratch)
	if err != nil {
		return TCG, "", err
	}
	limited, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	_, err = runner(limited, probeCommand(tools, KVM, image))
	if removeErr := os.Remove(image); removeErr != nil {
		return TCG, "", fmt.Errorf("removing the test program for KVM: %w", removeErr)
	}
	if ctx.Err() != nil {
		return TCG, "", fmt.Errorf("trying KVM: %w", ctx.Err())
	}
	accel, why := decide(err, limited.Err() != nil)
	return accel, why, nil
}

func writeProbe(scratch string) (string, error) {
	image := filepath.Join(scratch, "probe.img")
	if err := os.WriteFile(image, probeProgram(), 0o600); err != nil {
		return "", fmt.Errorf("writing the test program for KVM: %w", err)
	}
	return image, nil
}

func probeCommand(tools Tools, accel Accel, image string) run.Command {
	return tools.Command("qemu-system-x86_64",
		"-L", tools.File("usr/share/qemu"), "-L", tools.File("usr/share/seabios"),
		"-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35",
		"-accel", string(accel), "-cpu", "max", "-m", "64", "-no-reboot",
		"-device", "isa-debug-exit,iobase=0x501,iosize=1",
		"-drive", "if=none,id=probe,format=raw,readonly=on,file="+comma(image),
		"-device", "virtio-blk-pci,drive=probe,bootindex=0")
}

// decide turns how the test guest ended into an accelerator and the reason.
func decide(err error, late bool) (Accel, string) {
	code, ended := run.ExitCode(err)
	switch {
	case late:
		return TCG, "a test guest under KVM did not finish in time"
	case ended && code == probeExit:
		return KVM, "a test guest under KVM finished"
	case ended:
		return TCG, fmt.Sprintf("a test guest under KVM ended with code %d", code)
	}
	return TCG, "KVM did not run a test guest"
}
