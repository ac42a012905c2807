//go:build linux

package host

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Incus does not flush the file with the process of a network's dnsmasq, and refuses the
// network when a power cut has left it empty. What the image runs before Incus removes such
// files, and no others.
func TestIncus_PidFileEmptyAfterAPowerCut_IsRemovedBeforeItStarts(t *testing.T) {
	const data = "/var/lib/incus"
	text, err := os.ReadFile("../../image/incus/usr/lib/systemd/system/incus.service.d/50-holdfast.conf")
	if err != nil {
		t.Fatal(err)
	}
	dir, ran := t.TempDir(), 0
	for name, content := range map[string]string{
		"networks/incusbr0/dnsmasq.pid": "", "networks/incusbr1/dnsmasq.pid": "pid: 912\n", "networks/incusbr0/dnsmasq.leases": "",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for line := range strings.Lines(string(text)) {
		command, ok := strings.CutPrefix(line, "ExecStartPre=-")
		if !ok {
			continue
		}
		// systemd knows no wildcards: each word goes to the program as it is.
		words := strings.Fields(strings.ReplaceAll(command, data, dir))
		ran++
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v: %s", words, err, out)
		}
	}
	if ran == 0 {
		t.Fatal("nothing runs before Incus")
	}
	left, err := filepath.Glob(dir + "/networks/*/*")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{dir + "/networks/incusbr0/dnsmasq.leases", dir + "/networks/incusbr1/dnsmasq.pid"}, left); diff != "" {
		t.Error(diff)
	}
}
