package fetch_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/fetch"
)

// serveTLS is serve with TLS, for a host of any name. The certificate is for example.com.
func (w *world) serveTLS(host string, config *tls.Config, handler http.Handler) (string, *x509.Certificate) {
	l := &listener{host: host + ":443", conns: make(chan net.Conn), closed: make(chan struct{})}
	server := &httptest.Server{Listener: l, TLS: config, Config: &http.Server{Handler: handler, ErrorLog: log.New(io.Discard, "", 0)}}
	server.StartTLS()
	w.t.Cleanup(server.Close)
	w.mu.Lock()
	w.hosts[l.host] = l
	w.mu.Unlock()
	return "https://" + host, server.Certificate()
}

// identity is a certificate of a node.
func identity(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// Operations Center knows its nodes by their certificates, and they know it by its own,
// under whatever name it is reached.
func TestPeer_PinnedServer_IsTalkedToWithTheNodesCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var seen []string
		base, certificate := w.serveTLS("oc", &tls.Config{ClientAuth: tls.RequireAnyClientCert}, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			seen = append(seen, r.TLS.PeerCertificates[0].Subject.CommonName, tls.VersionName(r.TLS.Version))
			good(theFile).ServeHTTP(rw, r)
		}))
		node := identity(t, "node1")
		peer := &fetch.Peer{Pin: certificate, Certificate: func() (*tls.Certificate, error) { return &node, nil }}
		if _, err := w.downloader(fetch.Options{Mirrors: []string{base}, Peer: peer}).Small(t.Context(), "1.0/provisioning/updates", mib); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if diff := cmp.Diff([]string{"node1", "TLS 1.3"}, seen); diff != "" {
			t.Error(diff)
		}
	})
}

// Somebody else at the address of Operations Center, with whatever certificate, is not
// asked for anything; neither is a server with TLS 1.2.
func TestPeer_AnotherServer_IsAskedNothing(t *testing.T) {
	other, err := x509.ParseCertificate(identity(t, "oc").Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		config *tls.Config
		pin    *x509.Certificate
		want   error
	}{
		"another certificate": {&tls.Config{}, other, fetch.ErrCertificate},
		"not trusted":         {&tls.Config{}, nil, fetch.ErrCertificate},
		"TLS 1.2":             {&tls.Config{MaxVersion: tls.VersionTLS12}, nil, fetch.ErrConnect},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				asked := 0
				base, certificate := w.serveTLS("oc", c.config, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked++ }))
				peer := &fetch.Peer{Pin: c.pin}
				if c.config.MaxVersion != 0 {
					peer.Pin = certificate
				}
				roots := func() (*x509.CertPool, error) { return x509.NewCertPool(), nil }
				d := w.downloader(fetch.Options{Mirrors: []string{base}, Peer: peer, Roots: roots})
				_, err := d.Small(t.Context(), "1.0/provisioning/updates", mib)
				checkErr(t, err, c.want)
				synctest.Wait()
				if asked > 0 {
					t.Errorf("%d requests came through", asked)
				}
			})
		})
	}
}

// A release server with a certificate of the owner's own authority is trusted once that is
// configured, without a restart, and not before; and only under its own name.
func TestDownloader_Roots_AreAskedForAtEachConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		base, certificate := w.serveTLS("example.com", nil, good(theFile))
		alias, second := w.serveTLS("other", nil, good(theFile))
		pool := x509.NewCertPool()
		roots := func() (*x509.CertPool, error) { return pool, nil }
		d := w.downloader(fetch.Options{Mirrors: []string{base}, Roots: roots})
		_, err := d.Small(t.Context(), "timestamp.json", mib)
		checkErr(t, err, fetch.ErrCertificate)
		if err == nil || !strings.Contains(err.Error(), "custom_ca_certs") {
			t.Errorf("it does not say what to look at: %v", err)
		}
		pool = x509.NewCertPool()
		pool.AddCert(certificate)
		pool.AddCert(second)
		if _, err := d.Small(t.Context(), "timestamp.json", mib); err != nil {
			t.Error(err)
		}
		_, err = w.downloader(fetch.Options{Mirrors: []string{alias}, Roots: roots}).Small(t.Context(), "timestamp.json", mib)
		checkErr(t, err, fetch.ErrCertificate)
	})
}

// A server without TLS behind an https URL is a mistake in the URL.
func TestDownloader_ServerWithoutTLS_SaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve("a", good(theFile))
		_, err := w.downloader(fetch.Options{Mirrors: []string{"https://a:80"}}).Small(t.Context(), "timestamp.json", mib)
		checkErr(t, err, fetch.ErrConnect)
	})
}

// A real connection over loopback, without the network in memory.
func TestDownloader_RealServer_ServesOverTCP(t *testing.T) {
	server := httptest.NewTLSServer(good(theFile))
	defer server.Close()
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	d, err := fetch.New(fetch.Options{Mirrors: []string{server.URL + "/os/"}, Proxy: direct, Roots: func() (*x509.CertPool, error) { return pool, nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	dir, path := onDisk(t)
	if err := d.File(t.Context(), blobOf(theFile), dir, "usr", nil); err != nil {
		t.Fatal(err)
	}
	if !cmp.Equal(map[string]string{"usr": string(theFile)}, files(t, path)) {
		t.Error("the file is another")
	}
}
