package release

import (
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// A release server with a certificate of the owner's own authority is trusted once that is
// configured, without a restart, and not before.
func TestClient_Roots_AreAskedForAtEachConnection(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	defer server.Close()
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	pool := x509.NewCertPool()
	client := newClient(Options{ServerURL: server.URL, Roots: func() (*x509.CertPool, error) { return pool, nil }})
	var unknown x509.UnknownAuthorityError
	if _, err := client.Get(server.URL); !errors.As(err, &unknown) {
		t.Errorf("without its authority: %v", err)
	}
	pool = x509.NewCertPool()
	pool.AddCert(server.Certificate())
	response, err := client.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusNoContent {
		t.Errorf("status %d", response.StatusCode)
	}
	var name x509.HostnameError
	if _, err := client.Get(strings.Replace(server.URL, "127.0.0.1", "localhost", 1)); !errors.As(err, &name) {
		t.Errorf("under another name: %v", err)
	}
}

// A URL with an address is checked like one with a name: any certificate of the authority
// would do otherwise.
func TestClient_AddressThatTheCertificateIsNotFor_IsRefused(t *testing.T) {
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	listener, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Listener.Close(); err != nil {
		t.Fatal(err)
	}
	server.Listener = listener
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	client := newClient(Options{ServerURL: server.URL, Roots: func() (*x509.CertPool, error) { return pool, nil }})
	var name x509.HostnameError
	if _, err := client.Get(server.URL); !errors.As(err, &name) {
		t.Errorf("a certificate for 127.0.0.1 at 127.0.0.2: %v", err)
	}
}
