package simulate

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-os/holdfast/internal/listener"
)

// closeTimeout is how long requests over HTTPS may take when the node goes down.
const closeTimeout = 5 * time.Second

// identity is who the node and its client are.
type identity struct {
	server tls.Certificate
	client listener.Fingerprint
}

// newIdentity reads the certificates of a folder and makes those that are missing.
func newIdentity(dir string) (identity, error) {
	server, err := pair(dir, "server", x509.ExtKeyUsageServerAuth)
	if err != nil {
		return identity{}, err
	}
	client, err := pair(dir, "client", x509.ExtKeyUsageClientAuth)
	if err != nil {
		return identity{}, err
	}
	return identity{server: server, client: sha256.Sum256(client.Certificate[0])}, nil
}

func pair(dir, name string, use x509.ExtKeyUsage) (tls.Certificate, error) {
	certFile, keyFile := filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	found, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return found, err
	}
	cert, key, err := makePair("simulated "+name, use, time.Now())
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("making the certificate of the %s: %w", name, err)
	}
	if err := errors.Join(os.WriteFile(keyFile, key, 0o600), os.WriteFile(certFile, cert, 0o600)); err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(cert, key)
}

// makePair makes a key and its own certificate: ECDSA P-256, ten years.
func makePair(name string, use x509.ExtKeyUsage, now time.Time) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name, Organization: []string{"Holdfast simulated node"}},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{use}, BasicConstraintsValid: true,
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		return nil, nil, err
	}
	text, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text}), nil
}

// front is the node over HTTPS.
type front struct{ server *listener.Server }

func (f front) close() error {
	if f.server == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return f.server.Close(ctx)
}

// serve opens HTTPS, where it is wanted, and writes where it is. After a restart of the
// node it is at the port of before.
func (n *Node) serve() (front, error) {
	if n.o.Listen == "" {
		return front{}, nil
	}
	server, err := listener.Listen(n.o.Listen, listener.Options{
		Handler: n.proxy(), Certificate: n.identity.Certificate, Log: n.log,
		Trusted: func() []listener.Fingerprint { return []listener.Fingerprint{n.identity.client} },
	})
	if err != nil {
		return front{}, err
	}
	n.o.Listen = server.Addr().String()
	n.mu.Lock()
	n.endpoint = "https://" + n.o.Listen
	n.mu.Unlock()
	env := fmt.Sprintf("HOLDFAST_ENDPOINT=%s\nHOLDFAST_CERT=%s\nHOLDFAST_KEY=%s\nHOLDFAST_SERVER_CERT=%s\n",
		n.endpoint, n.path("client.crt"), n.path("client.key"), n.path("server.crt"))
	if err := os.WriteFile(n.path("env"), []byte(env), 0o600); err != nil {
		return front{}, errors.Join(err, front{server}.close())
	}
	n.log.Info("serving the API", "endpoint", n.endpoint, "socket", n.path(socketLink), "env", n.path("env"))
	return front{server}, nil
}

// proxy hands requests to the socket. listener has put the header of an application in.
func (n *Node) proxy() http.Handler {
	dialer := net.Dialer{}
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: "node"})
			r.Out.Host = r.In.Host
			r.SetXForwarded()
		},
		Transport: &http.Transport{
			MaxIdleConnsPerHost: 32, IdleConnTimeout: time.Minute, DisableCompression: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return dialer.DialContext(ctx, "unix", n.Socket())
			},
		},
		ErrorLog: slog.NewLogLogger(n.log.Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			n.log.Debug("handing a request on", "path", r.URL.Path, "error", err)
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusServiceUnavailable)
			// A caller that has gone is the only one who does not get this.
			_, _ = fmt.Fprintf(w, "{\"type\":\"error\",\"status\":\"\",\"status_code\":0,\"operation\":\"\",\"error_code\":503,\"error\":\"the simulated node is starting or going down\",\"metadata\":null}\n")
		},
	}
}
