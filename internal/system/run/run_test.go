package run_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// An administrator who reads an error must see what was run and what it said.
func TestHost_FailedProgram_SaysArgumentsCodeAndOutput(t *testing.T) {
	_, err := run.Host(context.Background(), run.Command{Name: "ls", Args: []string{"/does/not/exist"}})
	var failed *run.Error
	if !errors.As(err, &failed) {
		t.Fatalf("got %v, want an *Error", err)
	}
	if failed.ExitCode != 2 || !strings.Contains(failed.Stderr, "/does/not/exist") {
		t.Errorf("got exit code %d and %q", failed.ExitCode, failed.Stderr)
	}
}

// Keys handed to a program as arguments must not reach a log.
func TestHost_SecretCommand_HidesItsArguments(t *testing.T) {
	_, err := run.Host(context.Background(), run.Command{Name: "false", Args: []string{"hunter2"}, Secret: true})
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v", err)
	}
}

func TestHost_MissingProgram_HasNoExitCode(t *testing.T) {
	_, err := run.Host(context.Background(), run.Command{Name: "/no/such/program"})
	if code, ok := run.ExitCode(err); ok || err == nil {
		t.Errorf("got code %d, error %v", code, err)
	}
}
