package vm

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/holdfast-os/holdfast/client"
)

// A person or a program that asks wrongly must be told what was wrong, with the status
// that clients act upon, through the whole way: TLS, Incus' proxy, the node's table.
// (A body that is too large is answered by Incus before it gets here; internal/httpapi
// has that case.)
func TestAPI_DocumentedErrors(t *testing.T) {
	n := shared(t)
	for name, c := range map[string]struct {
		request client.Request
		code    int
		says    string
	}{
		"malformed JSON":        {client.Request{Method: "POST", Path: "/1.0/applications", Body: []byte(`{"name": `)}, 400, "JSON"},
		"not an object":         {client.Request{Method: "POST", Path: "/1.0/applications", Body: []byte(`[1]`)}, 400, ""},
		"wrong type":            {client.Request{Method: "POST", Path: "/1.0/applications", Body: []byte(`{"name": 7}`)}, 400, "name"},
		"unknown field":         {client.Request{Method: "POST", Path: "/1.0/applications", Body: []byte(`{"naem": "incus"}`)}, 400, `did you mean "name"?`},
		"field given twice":     {client.Request{Method: "POST", Path: "/1.0/applications", Body: []byte(`{"name": "a", "name": "b"}`)}, 400, "name"},
		"missing name":          {client.Request{Method: "POST", Path: "/1.0/applications", Body: []byte(`{}`)}, 400, "name"},
		"no body at all":        {client.Request{Method: "POST", Path: "/1.0/applications"}, 400, "name"},
		"unknown path":          {client.Request{Method: "GET", Path: "/1.0/nothing"}, 404, "/1.0/nothing"},
		"unknown version":       {client.Request{Method: "GET", Path: "/2.0"}, 404, "/2.0"},
		"unknown action":        {client.Request{Method: "POST", Path: "/1.0/system/:dance"}, 501, ":dance"},
		"wrong method":          {client.Request{Method: "PUT", Path: "/1.0", Body: []byte(`{}`)}, 501, "PUT"},
		"delete":                {client.Request{Method: "DELETE", Path: "/1.0/applications/incus"}, 501, "DELETE"},
		"comes later":           {client.Request{Method: "POST", Path: "/1.0/system/storage/:create-volume"}, 501, "later"},
		"bad dry run":           {client.Request{Method: "PUT", Path: "/1.0/system/kernel", Query: map[string][]string{"dry-run": {"x"}}, Body: []byte(`{"config": {}}`)}, 400, "dry-run"},
		"nothing to confirm":    {client.Request{Method: "POST", Path: "/1.0/system/network/:confirm"}, 400, "pending"},
		"unknown change":        {client.Request{Method: "GET", Path: "/1.0/system/history/999"}, 404, "999"},
		"unknown application":   {client.Request{Method: "GET", Path: "/1.0/applications/nothing"}, 404, "nothing"},
		"restart of an unknown": {client.Request{Method: "POST", Path: "/1.0/applications/nothing/:restart"}, 404, "nothing"},
		"adding an unknown":     {client.Request{Method: "POST", Path: "/1.0/applications", Body: []byte(`{"name": "nothing"}`)}, 400, "nothing"},
		"adding it twice":       {client.Request{Method: "POST", Path: "/1.0/applications", Body: []byte(`{"name": "incus"}`)}, 409, "incus"},
		"removing the primary":  {client.Request{Method: "POST", Path: "/1.0/applications/incus/:remove"}, 400, "primary"},
		"config is missing":     {client.Request{Method: "PUT", Path: "/1.0/system/update", Body: []byte(`{}`)}, 400, "config"},
		"bad value":             {client.Request{Method: "PUT", Path: "/1.0/system/update", Body: []byte(`{"config": {"check_frequency": "soon"}}`)}, 400, "check_frequency"},
		"changed in between":    {client.Request{Method: "PUT", Path: "/1.0/system/update", Body: []byte(`{"config": {}}`), ETag: `"old"`}, 412, ""},
		"the socket's own path": {client.Request{Method: "POST", Path: "/internal/tui/:write-message", Body: []byte(`{"message": "x"}`)}, 403, "socket"},
		"log: not a number":     {client.Request{Method: "GET", Path: "/1.0/debug/log", Query: map[string][]string{"entries": {"many"}}}, 400, "entries"},
	} {
		t.Run(name, func(t *testing.T) {
			limited, cancel := context.WithTimeout(t.Context(), shortLimit)
			defer cancel()
			_, err := n.api.Do(limited, c.request)
			var refused *client.Error
			if !errors.As(err, &refused) {
				t.Fatalf("got %v, want a refusal with %d", err, c.code)
			}
			if refused.Code != c.code || !strings.Contains(refused.Message, c.says) {
				t.Errorf("got %d %q, want %d and %q", refused.Code, refused.Message, c.code, c.says)
			}
		})
	}
}

// The API has the recovery keys in it: nobody without a certificate that the node was
// told may read a word.
func TestAPI_WithoutCertificate_IsRefused(t *testing.T) {
	n := shared(t)
	stranger, err := client.New(client.Options{Endpoint: n.endpoint, ServerCertFile: n.file("server.crt")})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	for _, path := range []string{"/1.0", "/1.0/system/security", "/1.0/debug/log"} {
		limited, cancel := context.WithTimeout(t.Context(), shortLimit)
		answer, err := stranger.Raw(limited, "GET", path, nil)
		cancel()
		if !client.IsCode(err, 403) {
			t.Errorf("%s: got %d bytes and %v, want 403", path, len(answer.Metadata), err)
		}
	}
}

// The exporter is started by who first asks; what it knows of the machine is there beside
// what holdfastd knows of itself.
func TestMetrics_OfTheMachine_AreThereWhenAskedFor(t *testing.T) {
	n := shared(t)
	limited, cancel := context.WithTimeout(t.Context(), shortLimit)
	defer cancel()
	text, err := n.api.Metrics(limited)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"node_memory_MemTotal_bytes ", "node_boot_time_seconds ", "node_zfs_zpool_state{"} {
		if !strings.Contains(text, "\n"+name) {
			t.Errorf("%s is not among %d bytes of metrics", strings.TrimRight(name, " {"), len(text))
		}
	}
}
