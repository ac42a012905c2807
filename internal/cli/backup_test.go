package cli_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/backup"
	"github.com/holdfast-os/holdfast/internal/cli"
)

// keeper is a node that gives backups and takes them, on a socket.
type keeper struct {
	t       *testing.T
	archive []byte
	seals   bool // whether it knows recipients; IncusOS does not
	socket  string
	got     []string // requests, with the names in an archive
}

func newKeeper(t *testing.T, archive []byte) *keeper {
	t.Helper()
	dir, err := os.MkdirTemp("", "node") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	k := &keeper{t: t, archive: archive, seals: true, socket: filepath.Join(dir, "s")}
	listener, err := net.Listen("unix", k.socket)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(k)
	server.Listener.Close()
	server.Listener = listener
	server.Start()
	t.Cleanup(func() {
		server.Close()
		os.RemoveAll(dir)
	})
	return k
}

func (k *keeper) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		k.t.Error(err)
	}
	if r.Method == http.MethodGet {
		k.answer(w, "{}")
		return
	}
	line := r.URL.RequestURI()
	if strings.HasSuffix(r.URL.Path, "/:restore") {
		line += " " + r.Header.Get("Content-Type") + " " + strings.Join(names(k.t, body), " ")
	} else if len(body) > 0 {
		line += " " + string(body)
	}
	k.got = append(k.got, line)
	switch {
	case r.URL.Query().Get("dry-run") != "":
		k.answer(w, `{"changes":true,"steps":[{"action":"keep-document","object":"update"}],"may_disconnect":false}`)
	case strings.HasSuffix(r.URL.Path, "/:backup"):
		k.give(w, string(body))
	default:
		k.answer(w, "{}")
	}
}

func (k *keeper) give(w http.ResponseWriter, body string) {
	w.Header().Set("Content-Type", "application/gzip")
	_, recipient, found := strings.Cut(body, `"recipient":"`)
	if !found || !k.seals {
		if _, err := w.Write(k.archive); err != nil {
			log.Print(err)
		}
		return
	}
	recipient, _, _ = strings.Cut(recipient, `"`)
	to, err := backup.ParseRecipient(recipient)
	if err != nil {
		k.t.Error(err)
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	sealed, err := backup.Encrypt(w, to)
	if err != nil {
		k.t.Error(err)
	}
	if _, err := sealed.Write(k.archive); err != nil {
		k.t.Error(err)
	}
	if err := sealed.Close(); err != nil {
		k.t.Error(err)
	}
}

func (k *keeper) answer(w http.ResponseWriter, metadata string) {
	w.Header().Set("Content-Type", "application/json")
	if _, err := fmt.Fprintf(w, `{"type":"sync","status":"Success","status_code":200,"operation":"","error_code":0,"error":"","metadata":%s}`, metadata); err != nil {
		log.Print(err)
	}
}

// names are the members of an archive.
func names(t *testing.T, archive []byte) []string {
	t.Helper()
	unzipped, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		return []string{"no archive"}
	}
	var all []string
	for r := tar.NewReader(unzipped); ; {
		header, err := r.Next()
		if err != nil {
			return all
		}
		all = append(all, header.Name)
	}
}

// run types a command line and gives what is printed.
func (k *keeper) run(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	env := cli.Env{Getenv: func(string) string { return "" }, Dir: k.t.TempDir(), Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs}
	code = cli.Run(context.Background(), append(args, "--socket", k.socket), env)
	return code, out.String(), errs.String()
}

// systemArchive is a backup as a node makes it.
func systemArchive(t *testing.T) []byte {
	t.Helper()
	var archive bytes.Buffer
	s := backup.System{Files: map[string][]byte{
		"state/configuration.json": []byte(`{"version":1,"data":{"sections":{}}}`), "state/applications.json": []byte(`{"version":1,"data":{}}`),
	}}
	if err := s.Write(context.Background(), &archive, osapi.BackupManifest{Release: "202611220104", MachineID: "aa"}); err != nil {
		t.Fatal(err)
	}
	return archive.Bytes()
}

func textFile(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// A backup that was encrypted on the way is restored with the same key, and the node never
// learns the passphrase.
func TestBackup_PassphraseOrRecipient_IsRestoredWithIt(t *testing.T) {
	archive := systemArchive(t)
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		seals         bool
		backup, again []string
		request       string
	}{
		"passphrase":             {true, []string{"--passphrase-file", textFile(t, "correct horse\n")}, []string{"--passphrase-file", textFile(t, "correct horse")}, "/1.0/system/:backup {}"},
		"recipient":              {true, []string{"--recipient", identity.Recipient().String()}, []string{"--identity", textFile(t, identity.String()+"\n")}, `/1.0/system/:backup {"recipient":"` + identity.Recipient().String() + `"}`},
		"recipient, an old node": {false, []string{"--recipient", identity.Recipient().String()}, []string{"--identity", textFile(t, identity.String()+"\n")}, `/1.0/system/:backup {"recipient":"` + identity.Recipient().String() + `"}`},
		"in clear":               {true, nil, nil, "/1.0/system/:backup {}"},
	} {
		k := newKeeper(t, archive)
		k.seals = c.seals
		file := filepath.Join(t.TempDir(), "node1.backup")
		if code, out, errs := k.run(append([]string{"node", "system", "backup", file}, c.backup...)...); code != 0 || strings.Contains(out, "not encrypted") != (name == "in clear") {
			t.Fatalf("%s: %d %s%s", name, code, out, errs)
		}
		text, err := os.ReadFile(file)
		if err != nil || backup.IsEncrypted(text) == (name == "in clear") {
			t.Errorf("%s: %v", name, err)
		}
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, info.Mode(), err)
		}
		args := append([]string{"node", "system", "restore", file, "--force", "--skip", "network-macs"}, c.again...)
		if code, out, errs := k.run(args...); code != 0 {
			t.Fatalf("%s: %d %s%s", name, code, out, errs)
		}
		want := []string{c.request, "/1.0/system/:restore?skip=network-macs application/octet-stream holdfast-backup.json state/applications.json state/configuration.json"}
		if diff := cmp.Diff(want, k.got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// What cannot be restored is not even sent; what is there is not written over.
func TestRestore_WrongFile_IsRefusedBeforeItIsSent(t *testing.T) {
	k := newKeeper(t, systemArchive(t))
	sealed := filepath.Join(t.TempDir(), "sealed")
	if code, _, errs := k.run("node", "system", "backup", sealed, "--passphrase-file", textFile(t, "one")); code != 0 {
		t.Fatal(errs)
	}
	plain := textFile(t, string(systemArchive(t)))
	k.got = nil
	for name, c := range map[string]struct {
		args []string
		code int
		want string
	}{
		"no passphrase":    {[]string{"system", "restore", sealed, "--force"}, 1, "try: --passphrase-file FILE or --identity FILE"},
		"wrong passphrase": {[]string{"system", "restore", sealed, "--force", "--passphrase-file", textFile(t, "two")}, 1, "neither passphrase nor identity opens it"},
		"no archive":       {[]string{"system", "restore", textFile(t, "hello, this is no archive"), "--force"}, 1, "not a tar file packed with gzip"},
		"another kind":     {[]string{"application", "restore", "incus", plain, "--force"}, 1, `"application" is wanted`},
		"unknown part":     {[]string{"system", "restore", plain, "--skip", "all"}, 2, `"all" is none of`},
		"nobody to ask":    {[]string{"application", "restore", "incus", textFile(t, string(appArchive(t)))}, 1, "nobody is here to be asked: Stop the application incus"},
		"file is there":    {[]string{"system", "backup", plain}, 1, "is there already"},
		"both":             {[]string{"system", "backup", plain + "2", "--recipient", "age1", "--passphrase-file", plain}, 2, "exclude each other"},
		"wrong recipient":  {[]string{"system", "backup", plain + "2", "--recipient", "ssh-ed25519"}, 1, "no public key of age"},
		"wrong reset":      {[]string{"system", "factory-reset", "--force", "-d", `{"seed":{}}`}, 2, `unknown field "seed"`},
	} {
		code, _, errs := k.run(append([]string{"node"}, c.args...)...)
		if code != c.code || !strings.Contains(errs, c.want) {
			t.Errorf("%s: %d %s", name, code, errs)
		}
	}
	if diff := cmp.Diff([]string(nil), k.got); diff != "" {
		t.Error(diff)
	}
}

// appArchive is a backup of Incus as IncusOS makes it.
func appArchive(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	zipped := gzip.NewWriter(&b)
	archive := tar.NewWriter(zipped)
	if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "server.crt", Mode: 0o600}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(archive.Close(), zipped.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Whoever asks first sees the plan, and nothing is done.
func TestDangerous_DryRun_ShowsThePlanAlone(t *testing.T) {
	k := newKeeper(t, nil)
	system, app := textFile(t, string(systemArchive(t))), textFile(t, string(appArchive(t)))
	for _, args := range [][]string{
		{"system", "restore", system}, {"system", "factory-reset", "-d", `{"wipe_existing_seeds":true}`},
		{"application", "restore", "incus", app}, {"application", "factory-reset", "incus"},
	} {
		code, out, errs := k.run(append(append([]string{"node"}, args...), "--dry-run")...)
		if diff := cmp.Diff("1. keep the configuration of update\n", out); diff != "" || code != 0 {
			t.Errorf("%s: %d %s %s", args, code, errs, diff)
		}
	}
	want := []string{
		"/1.0/system/:restore?dry-run=1 application/octet-stream holdfast-backup.json state/applications.json state/configuration.json",
		`/1.0/system/:factory-reset?dry-run=1 {"wipe_existing_seeds":true}`,
		"/1.0/applications/incus/:restore?dry-run=1 application/octet-stream server.crt",
		"/1.0/applications/incus/:factory-reset?dry-run=1",
	}
	if diff := cmp.Diff(want, k.got); diff != "" {
		t.Error(diff)
	}
}
