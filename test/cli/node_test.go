package cli_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	stdsync "sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/release"
)

// fakeNode is a node as the network sees it: TLS, client certificates, the envelope.
type fakeNode struct {
	dir     string // the script's folder
	client  []byte // the one trusted client certificate, DER
	mu      stdsync.Mutex
	pending bool // a change waits to be confirmed
}

func startNode(env *testscript.Env) error {
	work := env.WorkDir
	trusted, err := writePair(work, "client")
	if err != nil {
		return err
	}
	if _, err := writePair(work, "stranger"); err != nil {
		return err
	}
	node := &fakeNode{dir: work, client: trusted}
	server := httptest.NewUnstartedServer(node)
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS13}
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // refused handshakes are part of the scripts
	server.StartTLS()
	env.Defer(server.Close)
	if err := writePEM(filepath.Join(work, "server.crt"), "CERTIFICATE", server.Certificate().Raw, 0o644); err != nil {
		return err
	}
	env.Setenv("HOLDFAST_ENDPOINT", server.URL)
	// Otherwise each command waits a second for the race detector before it ends.
	env.Setenv("GORACE", "atexit_sleep_ms=0")
	// What git writes down does not depend on whose computer this is.
	for name, value := range map[string]string{"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1",
		"GIT_AUTHOR_NAME": "Alex", "GIT_AUTHOR_EMAIL": "alex@example.org", "GIT_COMMITTER_NAME": "Alex", "GIT_COMMITTER_EMAIL": "alex@example.org"} {
		env.Setenv(name, value)
	}
	env.Setenv("HOLDFAST_CERT", filepath.Join(work, "client.crt"))
	env.Setenv("HOLDFAST_KEY", filepath.Join(work, "client.key"))
	env.Setenv("HOLDFAST_SERVER_CERT", filepath.Join(work, "server.crt"))
	if err := serveTree(env); err != nil {
		return err
	}
	if err := serveSocket(env, node); err != nil {
		return err
	}
	// The address changes from run to run; a script that needs a lab finds one here.
	lab := filepath.Join(work, ".lab", "try")
	if err := os.MkdirAll(lab, 0o755); err != nil {
		return err
	}
	text := fmt.Sprintf("HOLDFAST_ENDPOINT=%s\nHOLDFAST_CERT=%[2]s/client.crt\nHOLDFAST_KEY=%[2]s/client.key\nHOLDFAST_SERVER_CERT=%[2]s/server.crt\n", server.URL, work)
	return os.WriteFile(filepath.Join(lab, "env"), []byte(text), 0o600)
}

// serveSocket serves the same node at $SOCKET, as a node on this computer has it: without
// prefix and certificates.
func serveSocket(env *testscript.Env, node http.Handler) error {
	dir, err := os.MkdirTemp("", "node") // the path of a socket must be short
	if err != nil {
		return err
	}
	socket := filepath.Join(dir, "unix.socket")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := httptest.NewUnstartedServer(node)
	if err := server.Listener.Close(); err != nil {
		return err
	}
	server.Listener = listener
	server.Start()
	env.Defer(func() {
		server.Close()
		if err := os.RemoveAll(dir); err != nil {
			log.Print(err)
		}
	})
	env.Setenv("SOCKET", socket)
	return nil
}

// serveTree serves the script's folder "tree" at $RELEASES, as `holdfast release serve`
// does, but on a port that the script knows.
func serveTree(env *testscript.Env) error {
	tree := filepath.Join(env.WorkDir, "tree")
	if err := os.MkdirAll(tree, 0o755); err != nil {
		return err
	}
	handler, err := release.Serve(tree)
	if err != nil {
		return err
	}
	server := httptest.NewServer(handler)
	env.Defer(func() {
		server.Close()
		if err := handler.Close(); err != nil {
			log.Print(err)
		}
	})
	env.Setenv("RELEASES", server.URL)
	return nil
}

// writePair makes NAME.crt and NAME.key and gives the certificate's DER.
func writePair(dir, name string) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	if err := writePEM(filepath.Join(dir, name+".key"), "PRIVATE KEY", keyDER, 0o600); err != nil {
		return nil, err
	}
	return der, writePEM(filepath.Join(dir, name+".crt"), "CERTIFICATE", der, 0o644)
}

func writePEM(file, kind string, der []byte, mode os.FileMode) error {
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode)
}

func (n *fakeNode) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	path, found := r.URL.Path, true
	if r.TLS != nil {
		if len(r.TLS.PeerCertificates) == 0 || string(r.TLS.PeerCertificates[0].Raw) != string(n.client) {
			refuse(w, http.StatusForbidden, "not authorized")
			return
		}
		path, found = strings.CutPrefix(r.URL.Path, "/os")
	}
	if !found {
		refuse(w, http.StatusNotFound, "not found")
		return
	}
	if r.Method == http.MethodGet {
		n.answer(w, r, path)
		return
	}
	n.change(w, r, path)
}

func (n *fakeNode) answer(w http.ResponseWriter, r *http.Request, path string) {
	if n.answerSpecial(w, r, path) {
		return
	}
	data, known := n.canned(path)
	if !known {
		refuse(w, http.StatusNotFound, "not found")
		return
	}
	if path == "/1.0/debug/log" && r.URL.RawQuery != "" {
		if err := n.note("GET " + path + "?" + r.URL.RawQuery); err != nil {
			refuse(w, http.StatusInternalServerError, err.Error())
			return
		}
	}
	w.Header().Set("ETag", `"canned"`)
	sync(w, string(data))
}

// change knows the few refusals that the scripts show, and writes down all else.
func (n *fakeNode) change(w http.ResponseWriter, r *http.Request, path string) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	if n.changeSpecial(w, r, path, body) {
		return
	}
	name := strings.Split(strings.TrimPrefix(path, "/1.0/applications/"), "/")[0]
	_, installed := world["/1.0/applications/"+name]
	switch {
	case strings.HasPrefix(path, "/1.0/applications/") && !installed:
		refuse(w, http.StatusNotFound, "not found")
		return
	case path == "/1.0/applications" && strings.Contains(string(body), `"incus"`):
		refuse(w, http.StatusConflict, "application incus is already installed")
		return
	case path == "/1.0/system/update" && strings.Contains(string(body), "chanel"):
		refuse(w, http.StatusBadRequest, `config.chanel: unknown field, did you mean "channel"?`)
		return
	}
	n.noted(w, r, path, body, "{}")
}

func (n *fakeNode) note(line string) error {
	f, err := os.OpenFile(filepath.Join(n.dir, "requests.txt"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, line)
	if closing := f.Close(); err == nil {
		err = closing
	}
	return err
}

func refuse(w http.ResponseWriter, code int, message string) {
	send(w, code, api.Response{Type: "error", ErrorCode: code, Error: message, Metadata: json.RawMessage("null")})
}

func send(w http.ResponseWriter, code int, r api.Response) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	if err := json.NewEncoder(w).Encode(r); err != nil {
		log.Print(err)
	}
}
