package qemu

import (
	"context"
	"errors"
	"testing"

	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/test/needs"
)

// A /dev/kvm that opens but does not work would make every boot a hundred times
// slower: only a guest that really ran counts.
func TestDecide_OnlyAGuestThatFinished_MeansKVM(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		late bool
		want Accel
	}{
		{"the program ran", &run.Error{ExitCode: 85, Err: errors.New("exit status 85")}, false, KVM},
		{"it ran, but too slowly", &run.Error{ExitCode: 85, Err: errors.New("exit status 85")}, true, TCG},
		{"it was killed", &run.Error{ExitCode: -1, Err: errors.New("signal: killed")}, true, TCG},
		{"KVM was refused", &run.Error{ExitCode: 1, Err: errors.New("exit status 1")}, false, TCG},
		{"QEMU ended as if all was well", nil, false, TCG},
		{"QEMU could not be started", errors.New("no such file"), false, TCG},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, why := decide(c.err, c.late); got != c.want || why == "" {
				t.Errorf("got %s (%q), want %s with a reason", got, why, c.want)
			}
		})
	}
}

// The test program itself must be right: under software emulation, which always
// works, it has to end with its code.
func TestProbeProgram_SoftwareEmulation_RunsToItsEnd(t *testing.T) {
	tools := needs.Tree(t, "qemu-system-x86_64")
	image, err := writeProbe(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	_, err = run.Host(context.Background(), probeCommand(tools, TCG, image))
	if code, _ := run.ExitCode(err); code != 85 {
		t.Errorf("got %v, want exit code 85", err)
	}
}
