package cli_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"

	api "github.com/holdfast-os/holdfast/api/os"
)

// deadline is when the canned node takes a change back that nobody confirms.
const deadline = "2026-11-22T01:06:00Z"

// answerSpecial answers what depends on more than the path. It reports false for the rest.
func (n *fakeNode) answerSpecial(w http.ResponseWriter, r *http.Request, path string) bool {
	switch path {
	case "/1.0/system/config":
		n.configuration(w)
	case "/1.0/events":
		n.events(w, r)
	case "/1.0/audit":
		n.audit(w, r)
	case "/1.0/operations":
		n.operations(w, r)
	case "/1.0/metrics", "/1.0/openapi.yaml":
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		fmt.Fprint(w, world[path])
	default:
		return false
	}
	return true
}

// configuration is the canned document with the change that waits, if one does.
func (n *fakeNode) configuration(w http.ResponseWriter) {
	text, _ := n.canned("/1.0/system/config")
	var document api.ConfigurationDocument
	if err := json.Unmarshal(text, &document); err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	if n.pending {
		until, err := time.Parse(time.RFC3339, deadline)
		if err != nil {
			refuse(w, http.StatusInternalServerError, err.Error())
			return
		}
		document.State.Pending = &api.PendingChange{Who: "application", What: "PUT /1.0/system/config",
			Since: until.Add(-2 * time.Minute), Sections: []string{"network"}, Deadline: &until}
	}
	metadata, err := json.Marshal(document)
	if err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.Header().Set("ETag", `"canned"`)
	sync(w, string(metadata))
}

// canned is what the script, or else the world, has for a path.
func (n *fakeNode) canned(path string) ([]byte, bool) {
	data, err := os.ReadFile(filepath.Join(n.dir, "node", path+".json"))
	if err == nil {
		return data, true
	}
	text, known := world[path]
	return []byte(text), known
}

// events sends the canned ones of the types asked for. It then ends the stream, or says
// what stands in the script's file node/goodbye.
func (n *fakeNode) events(w http.ResponseWriter, r *http.Request) {
	types := r.URL.Query().Get("type")
	if types == "" {
		types = "logging,operation,lifecycle"
	}
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	var all []api.Event
	if err := json.Unmarshal([]byte(world["/1.0/events"]), &all); err != nil {
		panic(err)
	}
	for _, e := range all {
		if !strings.Contains(","+types+",", ","+e.Type+",") {
			continue
		}
		text, err := json.Marshal(e)
		if err != nil {
			panic(err)
		}
		if conn.Write(r.Context(), websocket.MessageText, text) != nil {
			return // the listener has gone
		}
	}
	code, reason := websocket.StatusNormalClosure, ""
	if goodbye, err := os.ReadFile(filepath.Join(n.dir, "node", "goodbye")); err == nil {
		code, reason = websocket.StatusGoingAway, strings.TrimSpace(string(goodbye))
	}
	_ = conn.Close(code, reason) // the listener may have gone already
}

func (n *fakeNode) audit(w http.ResponseWriter, r *http.Request) {
	text, _ := n.canned("/1.0/audit")
	var log api.Audit
	if err := json.Unmarshal(text, &log); err != nil {
		panic(err)
	}
	since := number(r, "since", 0)
	kept := log.Entries
	log.Entries = []api.AuditEntry{}
	for _, e := range kept {
		if e.Number > uint64(since) && len(log.Entries) < number(r, "limit", 100) {
			log.Entries = append(log.Entries, e)
		}
	}
	metadata, err := json.Marshal(log)
	if err != nil {
		panic(err)
	}
	sync(w, string(metadata))
}

func number(r *http.Request, name string, otherwise int) int {
	value, err := strconv.Atoi(cmp.Or(r.URL.Query().Get(name), strconv.Itoa(otherwise)))
	if err != nil {
		panic(err)
	}
	return value
}

// operations lists the canned ones in the shape of Incus.
func (n *fakeNode) operations(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("recursion") != "1" {
		refuse(w, http.StatusBadRequest, "the canned node lists operations with recursion=1 alone")
		return
	}
	sync(w, fmt.Sprintf(`{"running":[%s],"failure":[%s]}`, world["/1.0/operations/download"], world["/1.0/operations/broken"]))
}

// changeSpecial answers changes of the configuration, and what goes on behind an answer.
// It reports false for the rest.
func (n *fakeNode) changeSpecial(w http.ResponseWriter, r *http.Request, path string, body []byte) bool {
	query := r.URL.Query()
	rollback := strings.HasSuffix(path, "/:rollback")
	section := r.Method == http.MethodPut && (strings.HasPrefix(path, "/1.0/system/") || strings.HasPrefix(path, "/1.0/services/"))
	switch {
	case strings.HasPrefix(path, "/1.0/services/") && world[strings.TrimSuffix(path, "/:reset")] == "":
		refuse(w, http.StatusNotFound, "not found")
	case rollback && !strings.Contains(path, "/history/3/") && !strings.Contains(path, "/history/4/"):
		refuse(w, http.StatusNotFound, "change "+strings.Split(path, "/")[4]+": there is none: those from 0 to 4 can be gone back to")
	case strings.Contains(string(body), "nobody's"):
		refuse(w, http.StatusBadRequest, "config.network.interfaces[0].name: \"nobody's\" is not a name (rule name)")
	case section && shapeOf(path, body) != nil:
		refuse(w, http.StatusBadRequest, shapeOf(path, body).Error())
	case (section || rollback) && query.Get("dry-run") == "1":
		text, known := n.canned(path + "?dry-run")
		if strings.Contains(path, "/history/4/") {
			text, known = []byte(`{"changes":false,"steps":[],"may_disconnect":false}`), true
		}
		if !known {
			return false
		}
		sync(w, string(text))
	case (section || rollback) && n.pending:
		refuse(w, http.StatusConflict, "another change is going on: PUT /1.0/system/config by application since 2026-11-22T01:04:00Z waits to be confirmed for 1m30s more; confirm it, take it back, or wait")
	case section || rollback:
		n.pending = query.Get("confirmation_timeout") != ""
		if !rollback {
			return false
		}
		n.noted(w, r, path, body, map[bool]string{true: `{"number":0}`, false: `{"number":5}`}[n.pending])
	case path == "/1.0/system/config/:confirm", path == "/1.0/system/config/:revert", path == "/1.0/system/network/:confirm":
		if !n.pending {
			refuse(w, http.StatusBadRequest, "no configuration is pending a confirmation")
			return true
		}
		n.pending = false
		n.noted(w, r, path, body, `{"number":5}`)
	default:
		return n.changeObserved(w, r, path, body)
	}
	return true
}

// shapeOf says what is wrong with the shape of a change: a field that the node does not know.
func shapeOf(path string, body []byte) error {
	shapes := map[string]any{
		"config": &api.Configuration{}, "kernel": &api.KernelConfig{}, "network": &api.NetworkConfig{},
		"logging": &api.LoggingConfig{}, "provider": &api.ProviderConfig{}, "security": &api.SecurityConfig{},
		"fallback-listener": &api.FallbackListenerConfig{},
	}
	into, known := shapes[strings.TrimPrefix(path, "/1.0/system/")]
	if !known {
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	return decoder.Decode(&struct {
		Config any `json:"config"`
	}{into})
}

func (n *fakeNode) changeObserved(w http.ResponseWriter, r *http.Request, path string, body []byte) bool {
	switch path {
	case "/1.0/audit/:verify":
		text, _ := n.canned(path)
		sync(w, string(text))
	case "/1.0/debug/:support-bundle":
		w.Header().Set("Content-Type", "application/gzip")
		fmt.Fprint(w, "\x1f\x8bcanned")
	case "/1.0/debug/secureboot/:update":
		if r.URL.Query().Get("dry-run") != "" {
			sync(w, `{"changes":true,"steps":[{"action":"use-tool","object":"db","why":"db does not have the certificate yet"}],"may_disconnect":false,"needs_reboot":"the next variable is written after a start that measured this one"}`)
			return true
		}
		n.noted(w, r, path, fmt.Appendf(nil, "%d bytes", len(body)), `{"version":"","fully_applied":false,"needs_reboot":true,"stage":"restart","status":"db does not have the certificate yet","notes":["KEK_1.auth is passed over"]}`)
	case "/1.0/services/ovn/:reset", "/1.0/services/lvm/:reset":
		// Behind this answer an operation goes on; that of ovn does not end well.
		operation := map[bool]string{true: "broken", false: "download"}[strings.Contains(path, "ovn")]
		send(w, http.StatusAccepted, api.Response{Type: "async", Status: "Operation created", StatusCode: 100,
			Operation: "/os/1.0/operations/" + operation, Metadata: json.RawMessage(world["/1.0/operations/"+operation])})
	case "/1.0/operations/download", "/1.0/operations/broken":
		n.noted(w, r, path, body, `{}`)
	default:
		if strings.HasPrefix(path, "/1.0/operations/") {
			refuse(w, http.StatusNotFound, "not found")
			return true
		}
		return false
	}
	return true
}

// noted writes a change down and answers it.
func (n *fakeNode) noted(w http.ResponseWriter, r *http.Request, path string, body []byte, metadata string) {
	if err := n.note(requestText(r, path, body)); err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	sync(w, metadata)
}

// requestText is a request as requests.txt has it.
func requestText(r *http.Request, path string, body []byte) string {
	text := r.Method + " " + path
	if r.URL.RawQuery != "" {
		text += "?" + r.URL.RawQuery
	}
	if match := r.Header.Get("If-Match"); match != "" {
		text += " if " + match
	}
	return strings.TrimSpace(text + " " + string(body))
}

func sync(w http.ResponseWriter, metadata string) {
	send(w, http.StatusOK, api.Response{Type: "sync", Status: "Success", StatusCode: 200, Metadata: json.RawMessage(metadata)})
}
