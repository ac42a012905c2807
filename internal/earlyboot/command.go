package earlyboot

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-os/holdfast/internal/bootinfo"
	"github.com/holdfast-os/holdfast/internal/system/consoles"
	"github.com/holdfast-os/holdfast/internal/system/dmverity"
	"github.com/holdfast-os/holdfast/internal/system/luks"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

const usage = "usage: holdfast-initrd medium|usr|root|etc|failed, or holdfast-initrd disk DEVICE"

// Command is the whole of holdfast-initrd: args are "medium", "usr", "root", "etc" or "failed", as
// the units of the initrd call them, or "disk" with a disk, as its rule for udev does.
func Command(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 2 && args[0] == "disk" {
		return commandDisk(args[1], os.Getenv("ID_SERIAL"), out)
	}
	if len(args) != 1 {
		return errors.New(usage)
	}
	switch args[0] {
	case "medium":
		return commandMedium(ctx, out)
	case "usr":
		return readUsr(usrMapping, usrBeginning)
	case "root":
		return commandRoot(ctx, out)
	case "etc":
		info, err := bootinfo.Read("/")
		if err != nil {
			return err
		}
		return commandEtc(ctx, info, out)
	case "failed":
		return commandFailed(ctx, out)
	default:
		return fmt.Errorf("unknown command %q: %s", args[0], usage)
	}
}

// commandDisk answers udev: a property for a disk that must not be read from as it is, and
// nothing for any other.
func commandDisk(device, wwid string, out io.Writer) error {
	place, err := NewHost(HostOptions{}).placeOf(device, wwid)
	if err != nil || place == ownDisk {
		return err
	}
	_, err = fmt.Fprintf(out, "%s=%s\n", placeProperty, place)
	return err
}

func commandMedium(ctx context.Context, out io.Writer) error {
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return fmt.Errorf("reading the kernel's command line: %w", err)
	}
	say := func(line string) { fmt.Fprintln(out, line) }
	return NewHost(HostOptions{}).FindMedium(ctx, option(string(cmdline), "usrhash"), AttachCD, say)
}

// commandEtc ends what early boot does. From here on a wrong block of /usr restarts the machine:
// until now it had to be an error that can be told, and in the system nothing must go on
// without the file that it belongs to.
func commandEtc(ctx context.Context, info bootinfo.Info, out io.Writer) error {
	host := NewHost(HostOptions{})
	if err := host.advanceClock(time.Now(), setClock); err != nil {
		fmt.Fprintln(out, "the clock stays as it is:", err) // a time server will set it
	}
	if err := host.MakeEtc(info); err != nil {
		return err
	}
	if err := host.doubtUsr(info, usrMapping, out); err != nil {
		return err
	}
	return dmverity.RestartOnCorruption(ctx, run.Host, "usr")
}

// failedWait is how long the disk of a start that failed may take to appear.
const failedWait = 30 * time.Second

func commandFailed(ctx context.Context, out io.Writer) (err error) {
	screens := Screens{Log: out}
	if all, openErr := consoles.Open("/sys", "/dev"); openErr == nil {
		defer func() { err = errors.Join(err, all.Close()) }()
		screens.Consoles = all
	} else if one, oneErr := os.OpenFile("/dev/console", os.O_WRONLY, 0); oneErr == nil {
		defer func() { err = errors.Join(err, one.Close()) }()
		screens.Consoles = one
	} else {
		screens.Consoles = io.Discard
		fmt.Fprintln(out, errors.Join(openErr, oneErr))
	}
	if quietErr := quietConsole(); quietErr != nil {
		fmt.Fprintln(out, "others write to the console too:", quietErr)
	}
	// systemd has Ctrl-Alt-Del, and does nothing at it here: the kernel restarts then.
	if cadErr := unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_ON); cadErr != nil {
		fmt.Fprintln(out, "Ctrl-Alt-Del does nothing:", cadErr)
	}
	return Failed(ctx, run.Host, NewHost(HostOptions{Wait: failedWait}).Failing(), screens)
}

// quietConsole keeps what systemd and the kernel would write between the lines that a person is
// to read: the jobs that systemd waits for, and each block that cannot be read.
func quietConsole() error {
	const (
		hideStatus   = unix.Signal(34 + 21) // SIGRTMIN+21 (systemd(1), Signals)
		consoleLevel = 8                    // SYSLOG_ACTION_CONSOLE_LEVEL (syslog(2))
		critical     = 2                    // the kernel's emergencies and alerts remain
	)
	errStatus := unix.Kill(1, hideStatus)
	var errKernel error
	if _, _, errno := unix.Syscall(unix.SYS_SYSLOG, consoleLevel, 0, critical); errno != 0 {
		errKernel = errno
	}
	return errors.Join(errStatus, errKernel)
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
	if errors.Is(err, ErrStartAgain) {
		say(err.Error())
		return restart()
	}
	if err != nil {
		return err
	}
	info.UsrRootHash = option(string(cmdline), "usrhash")
	return bootinfo.Write("/", info)
}

// restart is at once: nothing is mounted that is written to, and a start that ended as it
// should must not wait as one that failed does.
func restart() error {
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		return fmt.Errorf("restarting the machine: %w; restart it by hand", err)
	}
	return nil
}
