package fetch_test

import (
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/holdfast-os/holdfast/internal/fetch"
)

// A server whose URL has an address is checked like one with a name: any certificate of a
// trusted authority would do otherwise.
func TestSmall_AddressThatTheCertificateIsNotFor_IsRefused(t *testing.T) {
	for address, fits := range map[string]bool{"127.0.0.1:0": true, "127.0.0.2:0": false} {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
		listener, err := net.Listen("tcp", address)
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
		pool.AddCert(server.Certificate()) // it is for 127.0.0.1
		d, err := fetch.New(fetch.Options{
			Mirrors: []string{server.URL}, Limits: fetch.Limits{Attempts: 1}, Roots: func() (*x509.CertPool, error) { return pool, nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		got, err := d.Small(t.Context(), "x", 100)
		if fits && (err != nil || string(got) != "hello") {
			t.Errorf("%s: %q, %v", address, got, err)
		}
		var name x509.HostnameError
		if !fits && !errors.As(err, &name) {
			t.Errorf("%s: %q, %v", address, got, err)
		}
	}
}
