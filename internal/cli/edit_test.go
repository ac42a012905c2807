package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// editNode is a node with one resource. It refuses the channel "bad".
func editNode(t *testing.T) (socket string, puts *[]string) {
	t.Helper()
	puts = &[]string{}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /1.0/system/update", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("ETag", `"one"`)
		fmt.Fprint(w, `{"type":"sync","metadata":{"config":{"channel":"stable","check_frequency":"6h"},"state":{"status":"ok"}}}`)
	})
	mux.HandleFunc("PUT /1.0/system/update", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		*puts = append(*puts, r.Header.Get("If-Match")+" "+string(body))
		if strings.Contains(string(body), "bad") {
			fmt.Fprint(w, `{"type":"error","error_code":400,"error":"config.channel: no such channel"}`)
			return
		}
		fmt.Fprint(w, `{"type":"sync","metadata":{}}`)
	})
	socket = filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: mux}
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return socket, puts
}

// What is typed into the editor reaches the node once, and is never lost when the node
// says no.
func TestEdit_InAnEditor_SendsWhatWasTypedAndKeepsWhatWasRefused(t *testing.T) {
	const shown = "config:\n  channel: stable\n  check_frequency: 6h\n"
	for name, test := range map[string]struct {
		typed string // empty: the editor is left without a change
		puts  []string
		out   string
		err   string
		kept  bool
	}{
		"changed": {typed: "config: {channel: testing}\n", puts: []string{`"one" {"config":{"channel":"testing"}}`}, out: "Changed\n"},
		"left":    {out: "No change\n"},
		"refused": {typed: "config: {channel: bad}\n", puts: []string{`"one" {"config":{"channel":"bad"}}`},
			err: "error: /1.0/system/update: config.channel: no such channel (400)\n", kept: true},
		"no YAML": {typed: "config: [\n",
			err: "error: the input is not YAML: line 2: did not find expected node content\n", kept: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("TMPDIR", t.TempDir())
			socket, puts := editNode(t)
			env, stdout, stderr := testEnv(t, "")
			env.StdinTerminal = true
			var file string
			env.Run = func(_ context.Context, c run.Command) (run.Result, error) {
				file = c.Args[len(c.Args)-1]
				before, err := os.ReadFile(file)
				if err != nil {
					return run.Result{}, err
				}
				if diff := cmp.Diff(shown, string(before)); diff != "" {
					t.Error(diff)
				}
				if test.typed == "" {
					return run.Result{}, nil
				}
				return run.Result{}, os.WriteFile(file, []byte(test.typed), 0o600)
			}
			Run(t.Context(), []string{"node", "system", "update", "edit", "--endpoint", socket}, *env)
			if diff := cmp.Diff(test.puts, append([]string(nil), *puts...)); diff != "" {
				t.Error(diff)
			}
			said, try, _ := strings.Cut(stderr.String(), "try: ")
			if stdout.String() != test.out || said != test.err {
				t.Errorf("stdout %q, stderr %q", stdout, stderr)
			}
			_, err := os.Stat(file)
			if (err == nil) != test.kept || test.kept != strings.Contains(try, file) {
				t.Errorf("file kept: %v, want %v; way on %q", err == nil, test.kept, try)
			}
		})
	}
}

// Commands work from every folder of the clone, and say so outside of it.
func TestFindRoot_FolderWithin_IsTheProject(t *testing.T) {
	root := t.TempDir()
	inner := filepath.Join(root, "docs", "how-to")
	other := filepath.Join(root, "other")
	for _, dir := range []string{inner, other} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for path, text := range map[string]string{
		filepath.Join(root, "go.mod"):  moduleLine + "\ngo 1.26.0\n",
		filepath.Join(other, "go.mod"): "module example.org/other\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{root, inner, other} {
		if got, err := findRoot(dir); err != nil || got != root {
			t.Errorf("%s: got %s, %v", dir, got, err)
		}
	}
	if got, err := findRoot(os.TempDir()); err == nil {
		t.Errorf("outside: got %s", got)
	}
}
