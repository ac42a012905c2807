package incus_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/holdfast-os/holdfast/internal/system/incus"
)

// daemon is a small Incus: it keeps what it is told, refuses what Incus refuses (a name
// that exists, a volume without its pool, an unknown server key), and answers the
// creation of a volume with an operation.
type daemon struct {
	mu      sync.Mutex
	config  map[string]string
	keys    []string // server keys that it knows
	objects map[string]map[string]any
	writes  int
	// dieAfter is how many writes it answers before it dies; negative for ever.
	dieAfter int
	// notReady is how many times it says that it is still starting.
	notReady  int
	operation map[string]any
}

func newDaemon(t *testing.T) (*daemon, *incus.Client) {
	d := &daemon{
		config: map[string]string{}, dieAfter: -1,
		keys:    []string{"core.https_address", "storage.backups_volume", "storage.images_volume", "storage.logs_volume"},
		objects: map[string]map[string]any{"/1.0/profiles/default": {"name": "default", "config": map[string]any{}, "devices": map[string]any{}}},
	}
	d.objects["/1.0/networks/eth0"] = map[string]any{"name": "eth0", "managed": false}
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: d}}
	server.Start()
	t.Cleanup(server.Close)
	return d, incus.New(socket)
}

// snapshot is everything that was set up, for a comparison by eye.
func (d *daemon) snapshot() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	lines := []string{}
	for key, value := range d.config {
		lines = append(lines, key+"="+value)
	}
	for path, o := range d.objects {
		text, err := json.Marshal(map[string]any{"config": o["config"], "devices": o["devices"]})
		if err != nil {
			panic(err)
		}
		lines = append(lines, strings.TrimPrefix(path, "/1.0/")+" "+string(text))
	}
	slices.Sort(lines)
	return lines
}

func (d *daemon) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r.Method != http.MethodGet {
		if d.dieAfter == 0 {
			panic(http.ErrAbortHandler)
		}
		d.dieAfter--
		d.writes++
	}
	path := r.URL.Path
	if p := r.URL.Query().Get("project"); p != "" && p != "default" {
		path = "/1.0/in/" + p + strings.TrimPrefix(path, "/1.0")
	}
	var body map[string]any
	if r.Body != http.NoBody {
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			d.fail(w, 400, err.Error())
			return
		}
	}
	switch {
	case path == "/internal/ready":
		d.notReady--
		if d.notReady >= 0 {
			d.fail(w, 503, "still starting")
			return
		}
		d.answer(w, map[string]any{})
	case path == "/1.0":
		d.server(w, r, body)
	case strings.HasPrefix(path, "/1.0/operations/"):
		d.answer(w, d.operation)
	case r.Method == http.MethodPost:
		d.create(w, path, body)
	default:
		d.item(w, r, path, body)
	}
}

func (d *daemon) server(w http.ResponseWriter, r *http.Request, body map[string]any) {
	if r.Method == http.MethodPatch {
		for key, value := range body["config"].(map[string]any) {
			if !slices.Contains(d.keys, key) {
				d.fail(w, 400, "unknown key "+key)
				return
			}
			d.config[key] = value.(string)
		}
	}
	d.answer(w, map[string]any{"config": d.config, "environment": map[string]any{"server_version": "7.0.2"}})
}

func (d *daemon) create(w http.ResponseWriter, collection string, body map[string]any) {
	name, _ := body["name"].(string)
	if collection == "/1.0/certificates" {
		der, err := base64.StdEncoding.DecodeString(body["certificate"].(string))
		if err != nil {
			d.fail(w, 400, "not base64")
			return
		}
		sum := sha256.Sum256(der)
		name = hex.EncodeToString(sum[:])
	}
	path := collection + "/" + name
	parent, _, isVolume := strings.Cut(collection, "/volumes/")
	switch {
	case d.objects[path] != nil:
		d.fail(w, 409, "already exists")
		return
	case isVolume && d.objects[parent] == nil:
		d.fail(w, 404, "no such pool")
		return
	case body["driver"] == "nonsense":
		d.fail(w, 400, "unknown driver")
		return
	}
	stored := maps.Clone(body)
	for _, key := range []string{"config", "devices"} {
		if stored[key] == nil {
			stored[key] = map[string]any{}
		}
	}
	stored["managed"] = true
	d.objects[path] = stored
	if isVolume {
		d.operation = map[string]any{"status_code": 200}
		if body["size"] == "broken" {
			d.operation = map[string]any{"status_code": 400, "err": "out of space"}
		}
		d.write(w, 202, map[string]any{"type": "async", "operation": "/1.0/operations/1", "metadata": map[string]any{}})
		return
	}
	d.answer(w, map[string]any{})
}

func (d *daemon) item(w http.ResponseWriter, r *http.Request, path string, body map[string]any) {
	if r.URL.Query().Get("recursion") == "1" {
		list := []any{}
		for key, o := range d.objects {
			if rest, ok := strings.CutPrefix(key, path+"/"); ok && !strings.Contains(rest, "/") {
				list = append(list, o)
			}
		}
		d.answer(w, list)
		return
	}
	o := d.objects[path]
	if o == nil {
		d.fail(w, 404, "not found")
		return
	}
	switch r.Method {
	case http.MethodPut:
		maps.Copy(o, body)
	case http.MethodDelete:
		delete(d.objects, path)
	}
	d.answer(w, o)
}

func (d *daemon) answer(w http.ResponseWriter, metadata any) {
	d.write(w, 200, map[string]any{"type": "sync", "metadata": metadata})
}

func (d *daemon) fail(w http.ResponseWriter, code int, message string) {
	d.write(w, code, map[string]any{"type": "error", "error_code": code, "error": message})
}

func (d *daemon) write(w http.ResponseWriter, code int, answer any) {
	w.WriteHeader(code)
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		panic(fmt.Sprint("writing the answer: ", err))
	}
}
