package earlyboot

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/holdfast-os/holdfast/internal/bootinfo"
	"github.com/holdfast-os/holdfast/internal/system/luks"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

// Command is the whole of holdfast-initrd: args are "root", "etc" or "failed", as the
// units of the initrd call them.
func Command(ctx context.Context, args []string, out io.Writer) error {
	if len(args) != 1 {
		return errors.New("usage: holdfast-initrd root|etc|failed")
	}
	switch args[0] {
	case "root":
		return commandRoot(ctx, out)
	case "etc":
		info, err := bootinfo.Read("/")
		if err != nil {
			return err
		}
		return NewHost(HostOptions{}).MakeEtc(info)
	case "failed":
		return Failed(ctx, run.Host, out)
	default:
		return fmt.Errorf("unknown command %q: usage: holdfast-initrd root|etc|failed", args[0])
	}
}

func commandRoot(ctx context.Context, out io.Writer) error {
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return fmt.Errorf("reading the kernel's command line: %w", err)
	}
	signed, err := os.ReadFile(signedCommandLine)
	if err != nil {
		return fmt.Errorf("reading the signed command line: %w", err)
	}
	if err := CheckCommandLine(string(cmdline), string(signed)); err != nil {
		return err
	}
	host := NewHost(HostOptions{})
	say := func(line string) { fmt.Fprintln(out, line) }
	keys := Keys{RecoveryKey: func() (string, error) { return luks.NewRecoveryKey(rand.Reader) }, MachineID: NewMachineID}
	info, err := OpenRoot(ctx, host, keys, say)
	if err != nil {
		return err
	}
	info.UsrRootHash = option(string(cmdline), "usrhash")
	return bootinfo.Write("/", info)
}
