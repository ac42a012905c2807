package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fakeQEMU greets one client and answers each command with what script gives.
func fakeQEMU(t *testing.T, script func(command string, arguments json.RawMessage) []string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qmp")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		fmt.Fprintln(conn, `{"QMP": {"version": {}, "capabilities": []}}`)
		requests := bufio.NewScanner(conn)
		for requests.Scan() {
			var request struct {
				Execute   string
				Arguments json.RawMessage
				ID        int
			}
			if err := json.Unmarshal(requests.Bytes(), &request); err != nil {
				return
			}
			if request.Execute == "qmp_capabilities" {
				fmt.Fprintf(conn, `{"return": {}, "id": %d}`+"\n", request.ID)
				continue
			}
			answers := script(request.Execute, request.Arguments)
			if answers == nil {
				return
			}
			for _, answer := range answers {
				fmt.Fprintln(conn, strings.ReplaceAll(answer, "ID", strconv.Itoa(request.ID)))
			}
		}
	}()
	return path
}

func dial(t *testing.T, path string) *Client {
	t.Helper()
	client, err := Dial(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// Events arrive between a command and its answer; neither may be taken for the other.
func TestClient_EventBeforeAnswer_BothArrive(t *testing.T) {
	client := dial(t, fakeQEMU(t, func(string, json.RawMessage) []string {
		return []string{`{"event": "RESET", "data": {"guest": true}}`, `{"return": {"status": "running"}, "id": ID}`}
	}))
	if status, err := client.Status(context.Background()); err != nil || status != "running" {
		t.Errorf("got status %q, %v", status, err)
	}
	want := Event{Name: "RESET", Data: json.RawMessage(`{"guest": true}`)}
	if diff := cmp.Diff(want, <-client.Events()); diff != "" {
		t.Errorf("event (-want +got):\n%s", diff)
	}
}

// A refusal has to say which command was refused and why.
func TestClient_RefusedCommand_IsACommandError(t *testing.T) {
	client := dial(t, fakeQEMU(t, func(string, json.RawMessage) []string {
		return []string{`{"error": {"class": "GenericError", "desc": "no such thing"}, "id": ID}`}
	}))
	err := client.Reset(context.Background())
	var refused *CommandError
	if !errors.As(err, &refused) {
		t.Fatalf("got %v, want a *CommandError", err)
	}
	if diff := cmp.Diff(CommandError{"system_reset", "GenericError", "no such thing"}, *refused); diff != "" {
		t.Errorf("refusal (-want +got):\n%s", diff)
	}
}

// QEMU that ends in the middle must not leave a caller waiting for ever.
func TestClient_QEMUEnds_CallerHearsOfIt(t *testing.T) {
	client := dial(t, fakeQEMU(t, func(string, json.RawMessage) []string { return nil }))
	if err := client.Stop(context.Background()); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
	if _, open := <-client.Events(); open {
		t.Error("the events go on after the end")
	}
}

// quit may end QEMU before its answer is out: that is success.
func TestClient_QuitWithoutAnswer_IsNoError(t *testing.T) {
	client := dial(t, fakeQEMU(t, func(string, json.RawMessage) []string { return nil }))
	if err := client.Quit(context.Background()); err != nil {
		t.Errorf("got %v", err)
	}
}

// A caller's time limit ends the wait for an answer that does not come.
func TestClient_NoAnswer_EndsWithTheContext(t *testing.T) {
	client := dial(t, fakeQEMU(t, func(string, json.RawMessage) []string { return []string{} }))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := client.Stop(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

// A snapshot that QEMU could not write must not be taken for one.
func TestSaveMemory_FailedMigration_SaysWhy(t *testing.T) {
	var commands []string
	client := dial(t, fakeQEMU(t, func(command string, arguments json.RawMessage) []string {
		commands = append(commands, command+string(arguments))
		if command == "query-migrate" {
			return []string{`{"return": {"status": "failed", "error-desc": "disk full"}, "id": ID}`}
		}
		return []string{`{"return": {}, "id": ID}`}
	}))
	err := client.SaveMemory(context.Background(), "/s/state.bin")
	if err == nil || err.Error() != "saving the memory to /s/state.bin: QEMU says failed: disk full" {
		t.Errorf("got %v", err)
	}
	want := []string{
		"stop", `migrate-set-parameters{"max-bandwidth":1099511627776}`,
		`migrate{"uri":"file:/s/state.bin"}`, "query-migrate",
	}
	if diff := cmp.Diff(want, commands); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
}
