package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// rawTerminal gives a pair of connected files, as the guest's port and this
// computer's socket are.
func rawTerminal(t *testing.T) (*os.File, string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("no pseudo terminal: ", err)
	}
	t.Cleanup(func() { _ = master.Close() })
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	settings, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	settings.Iflag, settings.Oflag, settings.Lflag = 0, 0, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, settings); err != nil {
		t.Fatal(err)
	}
	return master, fmt.Sprintf("/dev/pts/%d", number)
}

// The script that runs in a guest must hand over arguments, both outputs and the
// exit code unharmed: every VM test stands on it.
func TestExecScript_Commands_ComeBackUnharmed(t *testing.T) {
	master, port := rawTerminal(t)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	script := strings.ReplaceAll(execScript, "/dev/virtio-ports/lab.exec", port)
	script = strings.ReplaceAll(script, "/run/lab-exec.", filepath.Join(t.TempDir(), "x."))
	guest := exec.CommandContext(ctx, "bash", "-c", script)
	if err := guest.Start(); err != nil {
		t.Skip("bash: ", err)
	}
	t.Cleanup(func() { cancel(); _ = guest.Wait() })
	for i, c := range []struct {
		argv []string
		want ExecResult
	}{
		{[]string{"printf", `%s|`, "a b", "", `"$x"`, "new\nline"}, ExecResult{Stdout: []byte("a b||\"$x\"|new\nline|"), Stderr: []byte{}}},
		{[]string{"bash", "-c", "echo no >&2; exit 7"}, ExecResult{Stdout: []byte{}, Stderr: []byte("no\n"), Code: 7}},
		{[]string{"printf", `\0\377`}, ExecResult{Stdout: []byte{0, 255}, Stderr: []byte{}}},
		{[]string{"cat"}, ExecResult{Stdout: []byte{}, Stderr: []byte{}}},
	} {
		got, err := exchange(master, fmt.Sprint("id", i), c.argv)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", c.argv, diff)
		}
	}
}
