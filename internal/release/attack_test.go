package release_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/fetch"
	"github.com/holdfast-os/holdfast/internal/release"
)

var errToken = errors.New("the token is locked")

type brokenSigner struct{}

func (brokenSigner) SignSMIME(context.Context, []byte) ([]byte, error) { return nil, errToken }

func checkErr(t *testing.T, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("got error %v, want %v", got, want)
	}
}

func oneUpdate(version, channel string, file api.File) api.Update {
	return api.Update{Format: "1.0", Channels: []string{channel}, Version: version, Files: []api.File{file}}
}

func fileOf(packed []byte) api.File {
	return api.File{
		Architecture: "x86_64", Component: "os", Filename: "x86_64/usr.raw.gz",
		SHA256: sumOf(packed), Size: int64(len(packed)), Type: api.TypeUpdateUsr,
	}
}

// Whoever can change what a node reads must not be able to choose what it runs.
func TestLatest_AttackedIndex_Refuses(t *testing.T) {
	ca, foreign := newIdentity(t, "update", nil), newIdentity(t, "update", nil)
	index := jsonOf(api.Index{Format: "1.0", Updates: []api.Update{oneUpdate(v1, "stable", fileOf([]byte("x")))}})
	signed := func(data []byte, signers ...*identity) []byte {
		out, err := smimeOf(data, signers...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	good := signed(index, ca)
	escape := fileOf([]byte("x"))
	escape.Filename = "x86_64/../../shadow"
	noSum := fileOf([]byte("x"))
	noSum.SHA256 = ""
	cases := map[string]struct {
		body    []byte
		running string
		want    error
	}{
		"changed byte":           {bytes.Replace(good, []byte("stable"), []byte("stabla"), 1), v1, release.ErrUntrusted},
		"foreign signature":      {signed(index, foreign), v1, release.ErrUntrusted},
		"two signers":            {signed(index, ca, foreign), v1, release.ErrUntrusted},
		"no signer":              {signed(index), v1, release.ErrUntrusted},
		"plain JSON":             {index, v1, release.ErrUntrusted},
		"captive portal":         {[]byte("<html>please log in</html>"), v1, release.ErrServer},
		"cut off":                {good[:len(good)/2], v1, release.ErrUntrusted},
		"text after the end":     {append(bytes.Clone(good), "more"...), v1, release.ErrUntrusted},
		"too long":               {bytes.Repeat([]byte("A"), 1<<20+1), v1, release.ErrLimit},
		"path out of the tree":   {signed(jsonOf(api.Index{Format: "1.0", Updates: []api.Update{oneUpdate(v1, "stable", escape)}}), ca), v1, release.ErrIndex},
		"file without a sum":     {signed(jsonOf(api.Index{Format: "1.0", Updates: []api.Update{oneUpdate(v1, "stable", noSum)}}), ca), v1, release.ErrIndex},
		"other format":           {signed([]byte(`{"format":"2.0"}`), ca), v1, release.ErrIndex},
		"older than the running": {good, v2, release.ErrOlder},
		"another channel":        {signed(bytes.ReplaceAll(index, []byte("stable"), []byte("daily")), ca), "", release.ErrNoUpdate},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = w.Write(c.body)
			}))
			defer server.Close()
			source := newSource(t, server.URL, ca.pem(), release.Limits{MaxIndex: 1 << 20, Attempts: 1})
			_, err := source.Latest(t.Context(), "stable", "x86_64", c.running)
			checkErr(t, err, c.want)
		})
	}
}

// zeros never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// A bad download must cost neither the disk nor the file that is there.
func TestFetch_AttackedFile_RefusesAndLeavesTheOldFile(t *testing.T) {
	packed := gz([]byte("the content"))
	bomb := gz(make([]byte, 100<<20))
	wrongSum, wrongSize, huge := fileOf(packed), fileOf(packed), fileOf(packed)
	wrongSum.SHA256 = sumOf([]byte("other"))
	wrongSize.Size--
	huge.Size = 100 << 20
	send := func(data []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(data) }
	}
	chunked := func(data []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.(http.Flusher).Flush()
			_, _ = w.Write(data)
		}
	}
	flipped := bytes.Clone(packed)
	flipped[len(flipped)-6] ^= 1
	cases := map[string]struct {
		file  api.File
		serve http.HandlerFunc
		want  error
	}{
		"changed byte":            {fileOf(packed), send(flipped), release.ErrMismatch},
		"wrong sum":               {wrongSum, send(packed), release.ErrMismatch},
		"wrong size":              {wrongSize, send(packed), release.ErrMismatch},
		"wrong size, not told":    {wrongSize, chunked(packed), release.ErrMismatch},
		"garbage after the end":   {fileOf(append(bytes.Clone(packed), "garbage"...)), send(append(bytes.Clone(packed), "garbage"...)), release.ErrMismatch},
		"not compressed":          {fileOf([]byte("the content, plain")), send([]byte("the content, plain")), release.ErrMismatch},
		"captive portal":          {fileOf(packed), send([]byte("<html>please log in</html>")), release.ErrServer},
		"not found":               {fileOf(packed), http.NotFound, release.ErrServer},
		"gzip bomb":               {fileOf(bomb), send(bomb), release.ErrLimit},
		"cut off, not told":       {fileOf(packed), chunked(packed[:20]), release.ErrMismatch},
		"cut off":                 {fileOf(packed), cutOff(packed), io.ErrUnexpectedEOF},
		"10 GB for 100 MB, told":  {huge, tenGB(true), release.ErrMismatch},
		"10 GB for 100 MB":        {huge, tenGB(false), release.ErrMismatch},
		"redirect to http":        {fileOf(packed), redirect("http://127.0.0.1:1/x"), release.ErrRedirect},
		"redirect to cloud data":  {fileOf(packed), redirect("http://169.254.169.254/x"), release.ErrRedirect},
		"redirect without end":    {fileOf(packed), redirect("/202611220104/x86_64/usr.raw.gz"), release.ErrRedirect},
		"no answer":               {fileOf(packed), hang(nil), fetch.ErrSlow},
		"no byte after the first": {fileOf(packed), hang(packed[:1]), fetch.ErrSlow},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(c.serve)
			defer server.Close()
			ca := newIdentity(t, "update", nil)
			limits := release.Limits{MaxExpanded: 64 << 20, Attempts: 1, Header: 300 * time.Millisecond, Stall: 300 * time.Millisecond}
			source := newSource(t, server.URL, ca.pem(), limits)
			dir := t.TempDir()
			dst := filepath.Join(dir, "usr.raw")
			if err := os.WriteFile(dst, []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
			checkErr(t, source.Fetch(t.Context(), oneUpdate(v1, "stable", c.file), c.file, dst, nil), c.want)
			if diff := cmp.Diff(map[string]string{"usr.raw": "old"}, snapshot(t, dir)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func redirect(to string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) }
}

func cutOff(data []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		_, _ = w.Write(data[:20])
	}
}

func tenGB(told bool) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if told {
			w.Header().Set("Content-Length", "10737418240")
		}
		_, _ = io.Copy(w, io.LimitReader(zeros{}, 10<<30))
	}
}

// hang sends a beginning and then nothing, until the client gives up.
func hang(beginning []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if beginning != nil {
			_, _ = w.Write(beginning)
			w.(http.Flusher).Flush()
		}
		<-r.Context().Done()
	}
}

// Someone who may answer for the server's name must not make a node knock at the
// address where clouds keep a machine's secrets.
func TestNewSource_BadServerURL_Refuses(t *testing.T) {
	ca := newIdentity(t, "update", nil)
	for _, url := range []string{"http://169.254.169.254/os", "http://[fe80::1]/os", "http://[::ffff:169.254.0.1]/"} {
		_, err := release.NewSource(release.Options{ServerURL: url, UpdateCA: ca.pem()})
		checkErr(t, err, release.ErrAddress)
	}
	for _, url := range []string{"", "ftp://x/", "https://", "/os", "https://x/os?token=1"} {
		if _, err := release.NewSource(release.Options{ServerURL: url, UpdateCA: ca.pem()}); err == nil {
			t.Errorf("%q was accepted", url)
		}
	}
}

// A publisher's signing certificate changes more often than the CA that nodes know.
func TestVerify_SignerBelowTheCA_IsTrustedWithinItsDates(t *testing.T) {
	root := newIdentity(t, "root", nil)
	signer := newIdentity(t, "signer", root)
	message, err := smimeOf([]byte("{\n}\n"), signer)
	if err != nil {
		t.Fatal(err)
	}
	anchors, err := release.ParseCA(root.pem())
	if err != nil {
		t.Fatal(err)
	}
	text, err := release.Verify(message, anchors, time.Now())
	if err != nil || string(text) != "{\n}\n" {
		t.Errorf("got %q, %v", text, err)
	}
	_, err = release.Verify(message, anchors, time.Now().AddDate(1, 0, 0))
	checkErr(t, err, release.ErrUntrusted)
}

// A tree lies beside other files of a publisher, and its keys perhaps.
func TestServe_AnythingButAFileOfTheTree_IsNotGivenOut(t *testing.T) {
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	if err := errors.Join(os.MkdirAll(filepath.Join(tree, v1), 0o755), os.WriteFile(filepath.Join(dir, "key"), []byte("secret"), 0o600),
		os.WriteFile(filepath.Join(tree, "index.json"), []byte("{}"), 0o644), os.WriteFile(filepath.Join(tree, ".new-x"), nil, 0o644),
		os.Symlink("../key", filepath.Join(tree, "link"))); err != nil {
		t.Fatal(err)
	}
	handler, err := release.Serve(tree)
	if err != nil {
		t.Fatal(err)
	}
	defer handler.Close()
	got := map[string]int{}
	for _, request := range []string{"GET /index.json", "HEAD /index.json", "GET /", "GET /" + v1, "GET /" + v1 + "/", "GET /.new-x", "GET /link", "GET /../key", "GET //index.json", "POST /index.json"} {
		method, path, _ := bytes.Cut([]byte(request), []byte(" "))
		r := httptest.NewRequest(string(method), "/", nil)
		r.URL.Path = string(path)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		got[request] = w.Code
	}
	want := map[string]int{
		"GET /index.json": 200, "HEAD /index.json": 200, "GET /": 404, "GET /" + v1: 404, "GET /" + v1 + "/": 404,
		"GET /.new-x": 404, "GET /link": 404, "GET /../key": 404, "GET //index.json": 404, "POST /index.json": 405,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
