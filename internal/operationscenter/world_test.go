package operationscenter_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/holdfast-os/holdfast/internal/operationscenter"
	"github.com/holdfast-os/holdfast/internal/operationscenter/octest"
)

// The token of most tests; it must never be seen in an error.
const token = "7d0c2a9e-secret+token/5b1f"

// identity is a certificate with its key.
type identity struct {
	tls  tls.Certificate
	leaf *x509.Certificate
	pem  string
}

// newIdentity makes a certificate for the names; by is nil for one that signs itself.
func newIdentity(t *testing.T, by *identity, names ...string) *identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true, IsCA: by == nil}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.leaf, by.tls.PrivateKey.(*ecdsa.PrivateKey)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &identity{tls: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, leaf: leaf,
		pem: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

// world is a manager, and how a node reaches it.
type world struct {
	*octest.Server
	url   string
	shown *identity
	node  *identity
	// granted is what the manager gives to nodes that register.
	granted *identity
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{shown: newIdentity(t, nil, "127.0.0.1"), node: newIdentity(t, nil, "node1"), granted: newIdentity(t, nil, "manager")}
	w.Server = octest.New(w.granted.pem)
	w.AddToken(token)
	w.url = serve(t, w.Server, octest.TLSConfig(w.shown.tls))
	return w
}

func serve(t *testing.T, handler http.Handler, config *tls.Config) string {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.TLS = config
	server.Config.ErrorLog = quiet
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL
}

// options are those of a node that was told all it needs.
func (w *world) options() operationscenter.Options {
	return operationscenter.Options{ServerURL: w.url, Token: token, Certificate: w.shown.pem, UserAgent: "Holdfast/202611220104",
		ClientCertificate: func() (*tls.Certificate, error) { return &w.node.tls, nil },
		Roots:             func() (*x509.CertPool, error) { return x509.NewCertPool(), nil },
		Wait:              func(ctx context.Context, _ time.Duration) error { return ctx.Err() }}
}

func (w *world) client(t *testing.T) *operationscenter.Client {
	t.Helper()
	return newClient(t, w.options())
}

func newClient(t *testing.T, o operationscenter.Options) *operationscenter.Client {
	t.Helper()
	client, err := operationscenter.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// strict fails the test when the manager had to complain.
func (w *world) strict(t *testing.T) {
	t.Helper()
	for _, complaint := range w.Complaints() {
		t.Error("the manager complains: ", complaint)
	}
}

func checkErr(t *testing.T, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("got error %v, want %v", got, want)
	}
}

func packed(t *testing.T, content []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

var self = operationscenter.Self{Name: "node1", ConnectionURL: "https://[2001:db8::7]:8443",
	MachineID: "0123456789abcdef0123456789abcdef", SystemUUID: "11111111-2222-3333-4444-555555555555"}
