package swtpm

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// endServer ends the server that a test started.
func endServer(t *testing.T, tpm TPM) {
	t.Helper()
	raw, err := os.ReadFile(tpm.PIDFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil || pid <= 1 {
		t.Fatalf("the pid file says %q", raw)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
}
