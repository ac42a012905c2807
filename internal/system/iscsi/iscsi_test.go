package iscsi_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/system/iscsi"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

// iscsiadm ends with a code for what a test says of its verb, and notes what was asked.
type iscsiadm struct {
	codes map[string]int
	got   []string
}

func (a *iscsiadm) run(_ context.Context, c run.Command) (run.Result, error) {
	line := strings.Join(append([]string{c.Name}, c.Args...), " ")
	a.got = append(a.got, line)
	for verb, code := range a.codes {
		if strings.HasSuffix(line, verb) {
			return run.Result{}, &run.Error{Args: []string{c.Name}, ExitCode: code, Err: errors.New("exit status")}
		}
	}
	return run.Result{}, nil
}

// What the node logs in to must be what was asked for, and nothing may log in by itself.
func TestLogin_Target_MakesAManualRecordFirst(t *testing.T) {
	var a iscsiadm
	if err := (iscsi.Host{Run: a.run}).Login(t.Context(), "iqn.2003-01.org.example:a", "2001:db8::1", 3260); err != nil {
		t.Fatal(err)
	}
	const node = "iscsiadm -m node -T iqn.2003-01.org.example:a -p [2001:db8::1]:3260 "
	if diff := cmp.Diff([]string{node + "-o new", node + "-o update -n node.startup -v manual", node + "--login"}, a.got); diff != "" {
		t.Error(diff)
	}
}

// A plan that was cut short is carried out again.
func TestLoginAndLogout_Again_AreNoErrors(t *testing.T) {
	a := iscsiadm{codes: map[string]int{"--login": 15, "--logout": 21, "delete": 21}}
	host := iscsi.Host{Run: a.run}
	if err := host.Login(t.Context(), "iqn.x", "192.0.2.1", 3260); err != nil {
		t.Error(err)
	}
	if err := host.Logout(t.Context(), "iqn.x", "192.0.2.1", 3260); err != nil {
		t.Error(err)
	}
}

// A target that refuses must not look connected; one that cannot be left keeps its record.
func TestLoginAndLogout_Refused_SayWhichTarget(t *testing.T) {
	a := iscsiadm{codes: map[string]int{"--login": 24, "--logout": 20}}
	host := iscsi.Host{Run: a.run}
	for want, err := range map[string]error{
		"logging in to iSCSI target iqn.x at 192.0.2.1:3260: iscsiadm: exit status":  host.Login(t.Context(), "iqn.x", "192.0.2.1", 3260),
		"logging out of iSCSI target iqn.x at 192.0.2.1:3260: iscsiadm: exit status": host.Logout(t.Context(), "iqn.x", "192.0.2.1", 3260),
	} {
		if err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if last := a.got[len(a.got)-1]; strings.HasSuffix(last, "delete") {
		t.Error("the record was deleted although the login is still there")
	}
}

func write(t *testing.T, root, name, text string) {
	t.Helper()
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// The folders are those of the kernel's iSCSI transport class.
func TestSessions_Sysfs_GivesTheLogins(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"iscsi_session/session12/targetname": "iqn.2003-01.org.example:b\n", "iscsi_session/session12/state": "FAILED\n",
		"iscsi_connection/connection12:0/persistent_address": "2001:db8::1\n", "iscsi_connection/connection12:0/persistent_port": "3260\n",
		"iscsi_connection/connection12:0/address": "192.0.2.77\n",
		"iscsi_session/session2/targetname":       "iqn.2003-01.org.example:a\n", "iscsi_session/session2/state": "LOGGED_IN\n",
		"iscsi_connection/connection2:0/persistent_address": "192.0.2.1\n", "iscsi_connection/connection2:0/persistent_port": "860\n",
		// This one ends while it is read.
		"iscsi_session/session3/targetname": "iqn.2003-01.org.example:c\n",
	} {
		write(t, root, "sys/class/"+name, text)
	}
	got, err := iscsi.Host{Root: root}.Sessions()
	if err != nil {
		t.Fatal(err)
	}
	want := []iscsi.Session{
		{Target: "iqn.2003-01.org.example:a", Address: "192.0.2.1", Port: 860, State: "LOGGED_IN"},
		{Target: "iqn.2003-01.org.example:b", Address: "2001:db8::1", Port: 3260, State: "FAILED"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A node without the kernel's modules has no logins and no name yet.
func TestSessionsAndNameFile_NothingThere_AreEmpty(t *testing.T) {
	host := iscsi.Host{Root: t.TempDir()}
	sessions, err := host.Sessions()
	if err != nil || sessions != nil {
		t.Errorf("got %v, %v", sessions, err)
	}
	if text, err := host.NameFile(); err != nil || text != "" {
		t.Errorf("got %q, %v", text, err)
	}
	write(t, host.Root, "etc/iscsi/initiatorname.iscsi", "InitiatorName=x\n")
	if text, err := host.NameFile(); err != nil || text != "InitiatorName=x\n" {
		t.Errorf("got %q, %v", text, err)
	}
}
