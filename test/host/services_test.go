//go:build linux

package host

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/system/iscsi"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/test/needs"
)

// privateISCSI runs iscsiadm with a folder of the test in the place of this machine's
// records. A login itself needs iscsid and the kernel's iSCSI, and is not tested here.
func privateISCSI(t *testing.T) run.Runner {
	t.Helper()
	needs.Programs(t, "iscsiadm", "unshare", "mount")
	if os.Getuid() != 0 {
		t.Skip("missing: root")
	}
	if _, err := os.Stat("/etc/iscsi"); err != nil {
		needs.Missing(t, "/etc/iscsi, of open-iscsi")
	}
	folder := t.TempDir()
	writeFile(t, filepath.Join(folder, "iscsid.conf"), "node.startup = automatic\niscsid.startup = /bin/false\n")
	writeFile(t, filepath.Join(folder, "initiatorname.iscsi"), "InitiatorName=iqn.2003-01.org.example:node\n")
	const script = `for place in /etc/iscsi /var/lib/iscsi; do test ! -d $place || mount --bind "$0" $place || exit 99; done; exec "$@"`
	return func(ctx context.Context, c run.Command) (run.Result, error) {
		args := append([]string{"--mount", "sh", "-c", script, folder, c.Name}, c.Args...)
		return run.Host(ctx, run.Command{Name: "unshare", Args: args})
	}
}

// The codes of the real iscsiadm are what the adapter goes by: without iscsid a login must
// be an error, its record must not log in at the next start, and a logout ends well.
func TestISCSI_RecordsOfIscsiadm_AreManualAndGoAwayWithTheLogout(t *testing.T) {
	iscsiadm := privateISCSI(t)
	host := iscsi.Host{Run: iscsiadm}
	const target = "iqn.2003-01.org.example:disk1"
	for _, address := range []string{"127.0.0.1", "::1"} {
		for range 2 {
			const noDaemon = 20
			if code, _ := run.ExitCode(host.Login(t.Context(), target, address, 3260)); code != noDaemon {
				t.Errorf("login at %s: got code %d, want %d", address, code, noDaemon)
			}
		}
		result, err := iscsiadm(t.Context(), run.Command{Name: "iscsiadm", Args: []string{"-m", "node", "-T", target}})
		if err != nil {
			t.Fatal(err)
		}
		var startup []string
		for line := range strings.Lines(string(result.Stdout)) {
			if strings.HasPrefix(line, "node.startup") {
				startup = append(startup, strings.TrimSpace(line))
			}
		}
		if diff := cmp.Diff([]string{"node.startup = manual"}, startup); diff != "" {
			t.Errorf("at %s: %s", address, diff)
		}
		for range 2 {
			if err := host.Logout(t.Context(), target, address, 3260); err != nil {
				t.Error(err)
			}
		}
		const noRecords = 21
		_, err = iscsiadm(t.Context(), run.Command{Name: "iscsiadm", Args: []string{"-m", "node"}})
		if code, _ := run.ExitCode(err); code != noRecords {
			t.Errorf("the record at %s is still there: %v", address, err)
		}
	}
}
