package qemu

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
)

// leaveMain is set for a process that gives up its first thread, and goes on with another until
// its input ends.
const leaveMain = "QEMU_TEST_LEAVE_MAIN"

func init() {
	if os.Getenv(leaveMain) == "" {
		return
	}
	runtime.LockOSThread() // init runs on the first thread
	gone := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		<-gone
		for { // until the first thread is a zombie
			if stat, err := os.ReadFile("/proc/self/cmdline"); err != nil || len(stat) == 0 {
				break
			}
		}
		fmt.Println("left")
		_, _ = bufio.NewReader(os.Stdin).ReadByte()
		os.Exit(0)
	}()
	close(gone)
	_, _, _ = syscall.RawSyscall(syscall.SYS_EXIT, 0, 0, 0)
}

// A machine that is killed keeps its port until its last thread has ended: whoever starts it anew
// before that finds the port taken.
func TestRunning_ProcessThatIsEnding_HasNotEnded(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "qemu.pid")
	c := exec.CommandContext(t.Context(), os.Args[0], pidFile)
	c.Env = append(os.Environ(), leaveMain+"=1")
	input, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(pidFile, []byte(strconv.Itoa(c.Process.Pid)), 0o600); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(output).ReadString('\n'); err != nil || line != "left\n" {
		t.Fatalf("the process says %q, %v", line, err)
	}
	if pid, running := Running(pidFile); !running || pid != c.Process.Pid {
		t.Errorf("process %d is taken for ended while a thread of it runs", c.Process.Pid)
	}
	if err := input.Close(); err != nil {
		t.Fatal(err)
	}
	if err := WaitEnd(t.Context(), pidFile); err != nil { // nobody has asked for it yet: it is a zombie
		t.Errorf("the process has ended, and nobody sees it: %v", err)
	}
	if err := c.Wait(); err != nil {
		t.Fatal(err)
	}
}
