package updater_test

import (
	"bytes"
	"compress/gzip"
	"crypto"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/fetch"
	"github.com/holdfast-os/holdfast/internal/operationscenter"
	"github.com/holdfast-os/holdfast/internal/operationscenter/octest"
	node "github.com/holdfast-os/holdfast/internal/release"
	"github.com/holdfast-os/holdfast/internal/tuf"
	"github.com/holdfast-os/holdfast/internal/update"
	"github.com/holdfast-os/holdfast/internal/updater"
)

const (
	uuid  = "00000000-0000-4000-8000-000000000001"
	older = "00000000-0000-4000-8000-000000000002"
)

func packed(t *testing.T, content string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := io.WriteString(w, content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// file is one of a release.
func file(component, kind, name string, content []byte) octest.File {
	return octest.File{Filename: "x86_64/" + name, Component: component, Type: kind, Architecture: "x86_64", Content: content}
}

// managed is the source of a node whose manager is behind a socket.
func managed(t *testing.T, running string, releases ...octest.Release) (*updater.Managed, *octest.Server) {
	t.Helper()
	manager := octest.New("")
	for _, r := range releases {
		manager.Publish(r)
	}
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: manager}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() {
		_ = server.Close()
		for _, complaint := range manager.Complaints() {
			t.Error("the manager complains: ", complaint)
		}
	})
	client, err := operationscenter.New(operationscenter.Options{Socket: socket})
	if err != nil {
		t.Fatal(err)
	}
	return updater.OpenManaged(updater.ManagedOptions{Client: client, Architecture: "x86_64", Running: running}), manager
}

// A node takes system and applications from its manager's list, each as a whole packed file.
func TestManaged_Newest_IsAManifestOfWholeFiles(t *testing.T) {
	source, manager := managed(t, "202611220104", octest.Release{UUID: uuid, Version: "202611290104", Channels: []string{"stable"}, Files: []octest.File{
		file("os", "update-usr", "Holdfast_202611290104.usr.raw.gz", []byte("usr")),
		file("os", "image-raw", "Holdfast_202611290104.img.gz", []byte("img")),
		file("incus", "application", "incus.raw.gz", []byte("incus")),
		{Filename: "aarch64/incus.raw.gz", Component: "incus", Type: "application", Architecture: "aarch64", Content: []byte("other")},
	}})
	found, err := source.Newest(t.Context(), "stable", false)
	if err != nil {
		t.Fatal(err)
	}
	want := []release.Part{
		{Name: "Holdfast_202611290104.usr.raw", Component: "os", Type: "update-usr", Full: release.Blob{
			Path: uuid + "/x86_64/Holdfast_202611290104.usr.raw.gz", Size: 3, SHA256: "7ee4c3ec0b4ee3b9fd76755e03fc705c96866c89a610ccf10080a37899744a5b"}},
		{Name: "incus.raw", Component: "incus", Type: "application", Full: release.Blob{
			Path: uuid + "/x86_64/incus.raw.gz", Size: 5, SHA256: "4938ab1fdfcd7ad2d99e23cdbce039860d31a5d47365317ee4ea78a73d5f544f"}},
	}
	if diff := cmp.Diff(want, found.Manifest.Parts); diff != "" || found.Manifest.Version != "202611290104" || found.Manifest.Architecture != "x86_64" || found.Digest == "" {
		t.Errorf("%+v %s", found, diff)
	}
	// A second question within the hour, as for each application, is not asked of the manager.
	asked := len(manager.Requests())
	if _, err := source.Newest(t.Context(), "stable", false); err != nil || len(manager.Requests()) != asked {
		t.Errorf("%q, %v", manager.Requests()[asked:], err)
	}
	if _, err := source.Newest(t.Context(), "stable", true); err != nil || len(manager.Requests()) == asked {
		t.Errorf("a fresh answer came from memory, %v", err)
	}
}

// The agent tells "nothing for you" from "cannot be reached" and from "do not trust this".
func TestManaged_NewestThatCannotBe_HasTheAgentsName(t *testing.T) {
	one := octest.Release{UUID: older, Version: "202611150104", Channels: []string{"stable"}, Files: []octest.File{file("incus", "application", "incus.raw.gz", []byte("incus"))}}
	strange := octest.Release{UUID: "../../etc", Version: "202612010104", Channels: []string{"odd"}, Files: one.Files}
	source, manager := managed(t, "202611220104", one, strange)
	for channel, want := range map[string]error{"stable": update.ErrOlder, "testing": update.ErrNoRelease, "odd": update.ErrUntrusted} {
		if _, err := source.Newest(t.Context(), channel, true); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", channel, err, want)
		}
	}
	manager.Fail(octest.Fault{Status: http.StatusForbidden, Body: `{"type":"error","error":"no","error_code":403}`})
	if _, err := source.Newest(t.Context(), "stable", true); !errors.Is(err, update.ErrUnreachable) {
		t.Errorf("%v", err)
	}
}

// A file gets its name when it is what the list promises, and is not fetched twice.
func TestManaged_File_IsKeptWholeOrNotAtAll(t *testing.T) {
	content := packed(t, "the image of incus")
	good := file("incus", "application", "incus.raw.gz", content)
	wrong := file("incus", "application", "wrong.raw.gz", content)
	wrong.SHA256 = strings.Repeat("0", 64)
	source, manager := managed(t, "", octest.Release{UUID: uuid, Version: "202611290104", Channels: []string{"stable"}, Files: []octest.File{good, wrong}})
	found, err := source.Newest(t.Context(), "stable", true)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	get := func(i int, progress func(fetch.Progress)) error {
		return source.Downloads().File(t.Context(), found.Manifest.Parts[i].Full, fetch.Folder(root), "r.gz", progress)
	}
	if err := get(1, nil); !errors.Is(err, node.ErrMismatch) {
		t.Errorf("another sum: %v", err)
	}
	var heard fetch.Progress
	if err := get(0, func(p fetch.Progress) { heard = p }); err != nil || heard.Done != int64(len(content)) || heard.Total != int64(len(content)) {
		t.Errorf("%v, heard %+v", err, heard)
	}
	asked := len(manager.Requests())
	if err := get(0, nil); err != nil || len(manager.Requests()) != asked {
		t.Errorf("it is fetched again, %v", err)
	}
	if err := get(1, nil); !errors.Is(err, node.ErrMismatch) {
		t.Errorf("another sum over a good file: %v", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("%v, %v", entries, err)
	}
	info, err := entries[0].Info()
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "r.gz")); err != nil || !bytes.Equal(text, content) {
		t.Errorf("%q, %v", text, err)
	}
	if err := source.Downloads().Ranges(t.Context(), found.Manifest.Parts[0].Full, nil, nil, nil); !errors.Is(err, fetch.ErrNoRanges) {
		t.Errorf("pieces: %v", err)
	}
}

// A server that asks who its nodes are is told with each request: for the index, and for files.
func TestAccess_Authorize_SaysWhoAsksWithEachRequest(t *testing.T) {
	var without []string
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		if r.Header.Get("X-Who") != "node1" {
			without = append(without, r.URL.Path)
		}
		http.Error(w, "there is nothing", http.StatusNotFound)
	}))
	t.Cleanup(server.Close)
	access := updater.Access{Servers: []string{server.URL + "/os"}, UserAgent: "Holdfast/202611220104", Authorize: func(r *http.Request) error {
		r.Header.Set("X-Who", "node1")
		return nil
	}}
	ca, root := trustAnchors(t)
	indexed, err := updater.OpenIndexed(updater.IndexedOptions{Access: access, UpdateCA: ca, Architecture: "x86_64"})
	if err != nil {
		t.Fatal(err)
	}
	trusted, err := updater.OpenTrusted(updater.TrustedOptions{Access: access, Root: root, StateDir: t.TempDir(), Architecture: "x86_64", Clock: systemClock})
	if err != nil {
		t.Fatal(err)
	}
	for name, source := range map[string]updater.Source{"the index": indexed, "the metadata": trusted} {
		before := asked
		if _, err := source.Newest(t.Context(), "stable", true); err == nil || asked == before {
			t.Errorf("%s: %d requests, %v", name, asked-before, err)
		}
		if err := source.Close(); err != nil {
			t.Error(err)
		}
	}
	if len(without) > 0 {
		t.Errorf("nobody said who asks for %q", without)
	}
}

func systemClock() (time.Time, bool) { return time.Now(), true }

// trustAnchors are a certificate and a root document of somebody who publishes nothing.
func trustAnchors(t *testing.T) (ca, root []byte) {
	t.Helper()
	server := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	signers, err := tuf.GenerateKeys(t.TempDir(), "root", "targets", "snapshot", "timestamp", "stable")
	if err != nil {
		t.Fatal(err)
	}
	store, err := tuf.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	role := func(i int) tuf.Role { return tuf.Role{Threshold: 1, Keys: []crypto.PublicKey{signers[i].Public()}} }
	p := &tuf.Publisher{Store: store, Signers: signers, Now: time.Now}
	if err := p.Init(t.Context(), tuf.Roles{
		Root: role(0), Targets: role(1), Snapshot: role(2), Timestamp: role(3), Channels: map[string]tuf.Role{"stable": role(4)}}); err != nil {
		t.Fatal(err)
	}
	if root, err = store.Read("1.root.json"); err != nil {
		t.Fatal(err)
	}
	return ca, root
}
