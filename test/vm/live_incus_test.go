package vm

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/test/vm/forge"
)

// incus is Debian's unchanged client with a configuration of its own.
type incus struct {
	home string
}

// stockClient gives a client that knows the node as "node".
func stockClient(t *testing.T, n *node) incus {
	t.Helper()
	c := incus{home: t.TempDir()}
	for _, name := range []string{"client.crt", "client.key"} {
		if err := copyFile(filepath.Join(c.home, name), n.file(name)); err != nil {
			t.Fatal(err)
		}
	}
	c.run(t, time.Minute, "remote", "add", "node", n.endpoint, "--accept-certificate")
	return c
}

// run gives what the client writes; an exit code other than 0 ends the test.
func (c incus) run(t *testing.T, limit time.Duration, args ...string) string {
	t.Helper()
	out, err := c.try(t.Context(), limit, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (c incus) try(ctx context.Context, limit time.Duration, args ...string) (string, error) {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	command := machines.tools.Command("incus", args...)
	command.Env = append(command.Env, "HOME="+c.home, "INCUS_CONF="+c.home)
	result, err := run.Host(limited, command)
	return string(result.Stdout), err
}

func parse[T any](t *testing.T, decode func([]byte, any) error, text string) T {
	t.Helper()
	var value T
	if err := decode([]byte(text), &value); err != nil {
		t.Fatalf("reading what incus wrote: %v\n%s", err, text)
	}
	return value
}

func fromYAML(text []byte, into any) error { return yaml.Unmarshal(text, into) }

// Whoever knows Incus needs nothing new: the client that Debian has works, unchanged.
func TestStockClient_TalksToTheNode(t *testing.T) {
	n := shared(t)
	c := stockClient(t, n)
	show := c.run(t, time.Minute, "admin", "os", "show", "node:")
	server := parse[struct {
		Environment api.Environment `yaml:"environment"`
	}](t, fromYAML, show)
	type facts struct{ Name, Version string }
	want := facts{"Holdfast", machines.version}
	if diff := cmp.Diff(want, facts{server.Environment.OSName, server.Environment.OSVersion}); diff != "" {
		t.Errorf("admin os show (-want +got):\n%s", diff)
	}
	if len(server.Environment.Hostname) == 0 {
		t.Error("admin os show: the node has no name")
	}

	if list := c.run(t, time.Minute, "admin", "os", "application", "list", "node:", "-f", "csv"); !strings.Contains(list, "incus") {
		t.Errorf("admin os application list: %q does not name incus", list)
	}

	security := parse[api.Security](t, json.Unmarshal, c.run(t, time.Minute, "admin", "os", "system", "security", "show", "node:", "-f", "json"))
	if len(security.Config.EncryptionRecoveryKeys) == 0 || !security.State.SecureBootEnabled || !security.State.SystemStateIsTrusted {
		t.Errorf("admin os system security show: %d recovery keys, secure boot %v, trusted %v",
			len(security.Config.EncryptionRecoveryKeys), security.State.SecureBootEnabled, security.State.SystemStateIsTrusted)
	}

	if list := parse[[]any](t, json.Unmarshal, c.run(t, time.Minute, "list", "node:", "-f", "json")); len(list) != 0 {
		t.Errorf("list: a new node has %d instances", len(list))
	}
}

// The node exists to run this: an instance with a limit that it sees itself, which
// comes back with its data after a reboot without anybody's doing. The tests of updates have
// a container like this one, through four restarts, so that it is made here only without them.
func TestContainer_LaunchExecLimitReboot(t *testing.T) {
	if !*quick {
		longOnly(t)
	}
	n := fresh(t)
	c := stockClient(t, n)
	c.launch(t)
	events := n.listen(t)
	if err := n.api.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitReset(t, events, 5*time.Minute)
	until(t, bootLimit, "waiting for the node after its reboot", n.ready)
	until(t, 5*time.Minute, "waiting for the container after the reboot", func(ctx context.Context) (bool, error) {
		list, err := c.try(ctx, shortLimit, "list", "node:", "-f", "csv", "-c", "ns")
		return strings.TrimSpace(list) == "c1,RUNNING", err
	})
	c.expectContainer(t)
}

// launch makes a container with a limit and a file of its own, and looks at both.
func (c incus) launch(t *testing.T) {
	t.Helper()
	c.run(t, 5*time.Minute, "image", "import", containerImage(t), "node:", "--alias", "tiny")
	c.run(t, 5*time.Minute, "launch", "node:tiny", "node:c1", "-c", "limits.memory=128MiB", "-c", "boot.autostart=true")
	c.inside(t, "/bin/put", "/root/note", "kept")
	c.expectContainer(t)
}

// expectContainer fails unless the container that launch made has its file and its limit.
func (c incus) expectContainer(t *testing.T) {
	t.Helper()
	if got := c.inside(t, "/bin/cat", "/root/note"); got != "kept" {
		t.Errorf("the file in the container is now %q", got)
	}
	c.expectLimit(t)
}

// inside runs a program in the container and gives what it writes. Incus gives up on a client that
// takes more than five seconds to connect, and one beside an emulated processor may: it is asked
// again, as a person would. So the program must be one that may run twice.
func (c incus) inside(t *testing.T, argv ...string) (out string) {
	t.Helper()
	until(t, 2*time.Minute, "running "+argv[0]+" in the container", func(ctx context.Context) (bool, error) {
		var err error
		out, err = c.try(ctx, shortLimit, append([]string{"exec", "node:c1", "--"}, argv...)...)
		return err == nil, err
	})
	return out
}

// expectLimit looks at the memory that the container believes to have.
func (c incus) expectLimit(t *testing.T) {
	t.Helper()
	meminfo := c.inside(t, "/bin/cat", "/proc/meminfo")
	for line := range strings.Lines(meminfo) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			got, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			if err != nil || got != 131072 {
				t.Errorf("the container sees %s of memory, want 131072 kB", strings.TrimSpace(rest))
			}
			return
		}
	}
	t.Errorf("the container's meminfo has no MemTotal: %q", meminfo)
}

// containerImage builds an image of one small static program.
func containerImage(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	binary, image := filepath.Join(dir, "init"), filepath.Join(dir, "tiny.tar.gz")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary, "./test/vm/guest")
	build.Dir, build.Env = machines.root, append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the container's program: %v\n%s", err, out)
	}
	program, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := forge.Container(file, program, time.Now(), "cat", "put"); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	return image
}

// A virtual machine needs KVM. Where the node has it, emulated or not, an instance starts;
// where it has none, the person who asks for one must be told exactly that.
func TestVirtualMachine_StartsOrSaysWhy(t *testing.T) {
	n := fresh(t)
	c := stockClient(t, n)
	out, err := c.try(t.Context(), 5*time.Minute, "launch", "node:v1", "--empty", "--vm")
	if err == nil {
		info := c.run(t, time.Minute, "list", "node:", "-f", "csv", "-c", "ns")
		if strings.TrimSpace(info) != "v1,RUNNING" {
			t.Errorf("the virtual machine was started and is now %q", info)
		}
		t.Log("the node has KVM: the instance runs")
		return
	}
	if text := out + err.Error(); !strings.Contains(text, "KVM") && !strings.Contains(text, "kvm") {
		t.Errorf("the refusal does not name KVM: %s", text)
	}
	t.Logf("the node has no KVM: %v", err)
}
