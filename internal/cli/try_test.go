package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// tryNode is a node whose network can be broken by a change.
type tryNode struct {
	mu      sync.Mutex
	asked   []string
	pending string // state.pending of the configuration, as JSON
	after   string // what pending becomes with the change
	deaf    int    // how many looks it does not answer, once changed; -1 is all
	cutOff  bool   // the answer to the change is lost
	changed bool
}

func (n *tryNode) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	request := r.Method + " " + r.URL.RequestURI()
	n.asked = append(n.asked, request)
	switch {
	case r.Method == http.MethodGet:
		if n.changed && n.deaf != 0 {
			n.deaf--
			hangUp(w)
			return
		}
		fmt.Fprintf(w, `{"type":"sync","metadata":{"config":{},"state":{"number":4,"pending":%s}}}`, n.pending)
	case r.URL.Query().Has("dry-run"):
		fmt.Fprint(w, `{"type":"sync","metadata":{"changes":true,"steps":[],"may_disconnect":true}}`)
	case r.Method == http.MethodPut:
		n.changed, n.pending = true, n.after
		if n.cutOff {
			hangUp(w)
			return
		}
		fmt.Fprint(w, `{"type":"sync","metadata":{}}`)
	case n.pending == "null":
		fmt.Fprint(w, `{"type":"error","error_code":400,"error":"no configuration is pending a confirmation"}`)
	default:
		n.pending = "null"
		fmt.Fprint(w, `{"type":"sync","metadata":{"number":5}}`)
	}
}

// hangUp ends a connection without an answer.
func hangUp(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err == nil {
		err = conn.Close()
	}
	if err != nil {
		panic(err)
	}
}

func (n *tryNode) serve(t *testing.T) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: n}
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
	return socket
}

const waiting = `{"deadline":"2026-11-22T01:06:00Z"}`

// A change on trial is kept only when the node answers, and a person who has cut off the
// way to a node, or has gone, is not left with it.
func TestTry_WhateverHappens_KeepsOnlyWhatAnswers(t *testing.T) {
	for name, test := range map[string]struct {
		node  *tryNode
		yes   bool
		stdin string
		code  int
		done  string // the last request that changes something
		says  string // the last line on stderr that is no hint
	}{
		"answers at once": {node: &tryNode{after: waiting}, yes: true,
			done: "POST /1.0/system/config/:confirm", says: "The node answers over a new connection."},
		"answers after a while": {node: &tryNode{after: waiting, deaf: 20}, yes: true,
			done: "POST /1.0/system/config/:confirm", says: "The node answers over a new connection."},
		"answer to the change is lost": {node: &tryNode{after: waiting, cutOff: true, deaf: 3}, yes: true,
			done: "POST /1.0/system/config/:confirm", says: "The node answers over a new connection."},
		"never answers again": {node: &tryNode{after: waiting, deaf: -1}, yes: true, code: 1,
			done: "PUT /1.0/system/config?confirmation_timeout=1m0s",
			says: "error: the node did not answer in time and takes the change back by itself: asking unix://SOCKET: EOF"},
		"never done applying": {node: &tryNode{after: `{"deadline":null}`}, yes: true, code: 1,
			done: "PUT /1.0/system/config?confirmation_timeout=1m0s",
			says: "error: the node did not answer in time and takes the change back by itself: the change is still being applied"},
		"has gone back already": {node: &tryNode{after: "null"}, yes: true, code: 1,
			done: "PUT /1.0/system/config?confirmation_timeout=1m0s",
			says: "error: the node answers, but the change is not in effect: it has gone back, or never reached the node"},
		"a person says yes": {node: &tryNode{after: waiting}, stdin: "y\n",
			done: "POST /1.0/system/config/:confirm", says: "Keep the change? [y/N] "},
		"a person says no": {node: &tryNode{after: waiting}, stdin: "\n", code: 1,
			done: "POST /1.0/system/config/:revert", says: "Keep the change? [y/N] error: not confirmed: the change is taken back"},
		"a person has gone": {node: &tryNode{after: waiting}, stdin: "never", code: 1,
			done: "PUT /1.0/system/config?confirmation_timeout=1m0s",
			says: "error: nobody has confirmed the change in time: the node takes it back by itself"},
	} {
		t.Run(name, func(t *testing.T) {
			node := test.node
			node.pending = "null"
			socket := node.serve(t)
			env, _, stderr := testEnv(t, "config: {network: {}}\n")
			file := filepath.Join(env.Dir, "new.yaml")
			writeFile(t, file, "config: {network: {}}\n")
			env.StdinTerminal = true
			env.Stdin = strings.NewReader(test.stdin)
			if test.stdin == "never" {
				reader, writer := io.Pipe()
				defer writer.Close()
				env.Stdin = reader
			}
			clock(env, test.stdin == "y\n" || test.stdin == "\n")
			command := []string{"node", "config", "try", file, "--within", "1m", "--socket", socket}
			if test.yes {
				command = append(command, "--yes")
			}
			if code := Run(t.Context(), command, *env); code != test.code {
				t.Errorf("exit code %d, %s", code, stderr)
			}
			if diff := cmp.Diff(test.done, lastChange(node)); diff != "" {
				t.Error(diff)
			}
			said, _, _ := strings.Cut(strings.ReplaceAll(stderr.String(), socket, "SOCKET"), "try: ")
			lines := strings.Split(strings.TrimSuffix(said, "\n"), "\n")
			if diff := cmp.Diff(test.says, lines[len(lines)-1]); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Ctrl-C between the change and the yes takes the change back at once.
func TestTry_Interrupted_TakesTheChangeBack(t *testing.T) {
	node := &tryNode{pending: "null", after: waiting, deaf: 2}
	socket := node.serve(t)
	env, _, stderr := testEnv(t, "")
	file := filepath.Join(env.Dir, "new.yaml")
	writeFile(t, file, "config: {network: {}}\n")
	ctx, cancel := context.WithCancel(t.Context())
	clock(env, false)
	env.Wait = func(ctx context.Context, _ time.Duration) error {
		cancel()
		return ctx.Err()
	}
	code := Run(ctx, []string{"node", "config", "try", file, "--yes", "--socket", socket}, *env)
	if code != ExitError || !strings.HasSuffix(stderr.String(), "error: interrupted: the change is taken back\n") {
		t.Errorf("exit code %d, %s", code, stderr)
	}
	if diff := cmp.Diff("POST /1.0/system/config/:revert", lastChange(node)); diff != "" {
		t.Error(diff)
	}
}

// A node that moves is looked for where it will be.
func TestTry_NewEndpoint_IsWhereTheNodeIsLookedFor(t *testing.T) {
	before := &tryNode{pending: "null", after: waiting, deaf: -1}
	after := &tryNode{pending: waiting}
	env, _, stderr := testEnv(t, "")
	file := filepath.Join(env.Dir, "new.yaml")
	writeFile(t, file, "config: {network: {}}\n")
	clock(env, false)
	code := Run(t.Context(), []string{"node", "config", "try", file, "--yes", "--socket", before.serve(t),
		"--new-endpoint", after.serve(t)}, *env)
	if code != ExitOK {
		t.Errorf("exit code %d, %s", code, stderr)
	}
	want := []string{"PUT /1.0/system/config?confirmation_timeout=2m0s", "POST /1.0/system/config/:confirm"}
	if diff := cmp.Diff(want, []string{lastChange(before), lastChange(after)}); diff != "" {
		t.Error(diff)
	}
}

// clock gives env a time that moves when somebody waits. With blocked nobody waits to the
// end, as when an answer comes first.
func clock(env *Env, blocked bool) {
	var mu sync.Mutex
	now := time.Date(2026, 11, 22, 1, 4, 0, 0, time.UTC)
	env.Now = func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return now
	}
	env.Wait = func(ctx context.Context, d time.Duration) error {
		if blocked {
			<-ctx.Done()
			return ctx.Err()
		}
		mu.Lock()
		defer mu.Unlock()
		now = now.Add(d)
		return ctx.Err()
	}
}

func lastChange(n *tryNode) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	last := ""
	for _, request := range n.asked {
		if !strings.HasPrefix(request, "GET") && !strings.Contains(request, "dry-run") {
			last = request
		}
	}
	return last
}
