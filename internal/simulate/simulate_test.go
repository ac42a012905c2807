package simulate_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/client"
	"github.com/holdfast-os/holdfast/internal/simulate"
)

// folder is one whose path is short enough for a socket.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// start runs a node until the test ends.
func start(t *testing.T, o simulate.Options) *simulate.Node {
	t.Helper()
	up := make(chan struct{}, 16)
	o.Ready = func(string) { up <- struct{}{} }
	node, err := simulate.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- node.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the node ended with %v", err)
		}
	})
	<-up
	return node
}

// The command line and others find a node by the file env, over HTTPS with certificates.
func TestEnv_OfANode_LeadsAClientToIt(t *testing.T) {
	dir := folder(t)
	start(t, simulate.Options{Dir: dir, Listen: "127.0.0.1:0"})
	text, err := os.ReadFile(filepath.Join(dir, "env"))
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		values[key] = value
	}
	id, err := os.ReadFile(filepath.Join(dir, "machine-id"))
	if err != nil {
		t.Fatal(err)
	}
	for name, options := range map[string]client.Options{
		"https": client.OptionsFromEnv(func(name string) string { return values[name] }), "socket": {Endpoint: filepath.Join(dir, "unix.socket")},
	} {
		c, err := client.New(options)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		server, err := c.Server(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(strings.TrimSpace(string(id)), server.Environment.MachineID); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	delete(values, client.EnvCert)
	delete(values, client.EnvKey)
	c, err := client.New(client.OptionsFromEnv(func(name string) string { return values[name] }))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Server(context.Background()); err == nil {
		t.Error("a client without a certificate is let in")
	}
}

// Two nodes in one folder would write over each other's state.
func TestNew_FolderThatIsInUse_IsRefused(t *testing.T) {
	dir := folder(t)
	start(t, simulate.Options{Dir: dir})
	_, err := simulate.New(simulate.Options{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "another node runs there") {
		t.Errorf("%v", err)
	}
}

// Linux cuts off the paths of sockets; it is better to be told before.
func TestNew_PathTooLongForASocket_SaysSo(t *testing.T) {
	_, err := simulate.New(simulate.Options{Dir: "/tmp/" + strings.Repeat("d", 100)})
	if err == nil || !strings.Contains(err.Error(), "shorter path") {
		t.Errorf("%v", err)
	}
}

func TestParseFault_Words_AreReadOrRefused(t *testing.T) {
	for text, want := range map[string]simulate.Fault{
		"network.apply=no carrier":             {On: "network.apply", Error: "no carrier"},
		"network.apply@2s":                     {On: "network.apply", Delay: "2s"},
		"network.apply@2s#1=no carrier = none": {On: "network.apply", Delay: "2s", Times: 1, Error: "no carrier = none"},
	} {
		got, err := simulate.ParseFault(text)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v %s", text, err, diff)
		}
	}
	for text, want := range map[string]string{
		"network=no": "no such point", "network.apply": "needs an error", "network.apply@soon": "needs an error", "network.apply@-1s": "needs an error",
		"network.apply#x=no": "how often", "network.apply#-1=no": "not negative",
	} {
		if _, err := simulate.ParseFault(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

// A file of faults with a slip in it must not be taken for one without faults.
func TestNew_FaultsThatCannotBeRead_AreTold(t *testing.T) {
	for text, want := range map[string]string{
		"[": "unexpected EOF", `[{"on":"network.apply","eror":"x"}]`: `unknown field "eror"`, `[{"on":"nothing","error":"x"}]`: "no such point",
		strings.Repeat(" ", 70000): "more than 65536 bytes",
	} {
		dir := folder(t)
		if err := os.WriteFile(filepath.Join(dir, "faults.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := simulate.New(simulate.Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v, want %s", text, err, want)
		}
	}
}

func TestParseFlags_CommandLines_GiveFlagsOrExitCodes(t *testing.T) {
	for _, c := range []struct {
		args string
		want simulate.Flags
		code int
	}{
		{"", simulate.Flags{Listen: "127.0.0.1:0"}, 0},
		{"--simulate /tmp/n", simulate.Flags{Dir: "/tmp/n", Listen: "127.0.0.1:0"}, 0},
		{"--simulate=/tmp/n --listen [::1]:8443 --fault pools.ensure=gone", simulate.Flags{Dir: "/tmp/n", Listen: "[::1]:8443", Faults: []simulate.Fault{{On: "pools.ensure", Error: "gone"}}}, 0},
		{"--help", simulate.Flags{Listen: "127.0.0.1:0"}, 0},
		{"--nothing", simulate.Flags{Listen: "127.0.0.1:0"}, 2},
		{"--simulate /tmp/n more", simulate.Flags{Dir: "/tmp/n", Listen: "127.0.0.1:0"}, 2},
		{"--simulate=", simulate.Flags{Listen: "127.0.0.1:0"}, 2},
		{"--simulate", simulate.Flags{Listen: "127.0.0.1:0"}, 2},
		{"--listen 127.0.0.1:1", simulate.Flags{Listen: "127.0.0.1:1"}, 2},
		{"--simulate /tmp/n --listen here", simulate.Flags{Dir: "/tmp/n", Listen: "here"}, 2},
	} {
		var out, told bytes.Buffer
		got, err := simulate.ParseFlags(strings.Fields(c.args), &out)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", c.args, diff)
		}
		if code := simulate.ExitCode(err, &told); code != c.code {
			t.Errorf("%s: %d %s", c.args, code, told.String())
		}
		if help := errors.Is(err, flag.ErrHelp); help != (out.Len() > 0) || help != (c.args == "--help") {
			t.Errorf("%s: help %q", c.args, out.String())
		}
	}
}
