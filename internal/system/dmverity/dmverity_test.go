package dmverity

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

const plain = "0 1433600 verity 1 254:5 254:4 4096 4096 179200 1 sha256 " +
	"5aaa20a0f2ff1f6ba1b1d5be8be24ba1c11c2c0d7e5b4d7cd3b7d0c5d4a8e901 8f2c1c1e7d0e4f0b9a6b5d1f3a7c9e42"

// A system that runs with a block that cannot be read would run without what is in it, be it
// the file that keeps somebody out.
func TestRestartOnCorruption_EachTable_GetsTheWordOnce(t *testing.T) {
	for name, c := range map[string]struct {
		table string
		want  []string
		fails bool
	}{
		"as it is made":  {plain + "\n", []string{"dmsetup table usr", "dmsetup reload --readonly usr --table " + plain + " 1 restart_on_corruption", "dmsetup resume usr"}, false},
		"with options":   {plain + " 1 ignore_zero_blocks\n", []string{"dmsetup table usr", "dmsetup reload --readonly usr --table " + plain + " 2 ignore_zero_blocks restart_on_corruption", "dmsetup resume usr"}, false},
		"has it":         {plain + " 1 restart_on_corruption\n", []string{"dmsetup table usr"}, false},
		"another target": {strings.Replace(plain, "verity", "linear", 1), []string{"dmsetup table usr"}, true},
		"cut off":        {plain[:len(plain)-40], []string{"dmsetup table usr"}, true},
		"bad count":      {plain + " 3 ignore_zero_blocks", []string{"dmsetup table usr"}, true},
		"two targets":    {plain + "\n" + plain, []string{"dmsetup table usr"}, true},
	} {
		var did []string
		err := RestartOnCorruption(t.Context(), func(_ context.Context, cmd run.Command) (run.Result, error) {
			did = append(did, strings.Join(append([]string{cmd.Name}, cmd.Args...), " "))
			if cmd.Args[0] == "table" {
				return run.Result{Stdout: []byte(c.table)}, nil
			}
			return run.Result{}, nil
		}, "usr")
		if diff := cmp.Diff(c.want, did); diff != "" || (err != nil) != c.fails {
			t.Errorf("%s: %v %s", name, err, diff)
		}
	}
}

// A table that the kernel does not take is not switched to.
func TestRestartOnCorruption_KernelRefuses_IsAnErrorBeforeTheSwitch(t *testing.T) {
	refused := errors.New("ioctl failed")
	resumed := false
	err := RestartOnCorruption(t.Context(), func(_ context.Context, c run.Command) (run.Result, error) {
		switch c.Args[0] {
		case "table":
			return run.Result{Stdout: []byte(plain)}, nil
		case "reload":
			return run.Result{}, refused
		}
		resumed = true
		return run.Result{}, nil
	}, "usr")
	if !errors.Is(err, refused) || resumed {
		t.Errorf("got %v, resumed: %t", err, resumed)
	}
}
