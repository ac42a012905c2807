package daemon

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/imageauth"
	"github.com/holdfast-os/holdfast/internal/listener"
	"github.com/holdfast-os/holdfast/internal/updater"
)

// Current is what everybody takes releases from.
func (p *Provider) Current() (updater.Source, error) { return p.current() }

// granted is a provider whose manager comes with a certificate.
type granted struct {
	Setting[osapi.ProviderConfig, osapi.ProviderState]
	Managing
	certificate string
}

func (g granted) Manager() string { return g.certificate }

// In an emergency the manager gets in beside those that the owner has named.
func TestFallbackListener_Manager_IsLetInAsLongAsTheNodeBelongsToIt(t *testing.T) {
	_, der := rsaCertificate(t)
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der.Raw}))
	var d Daemon
	for name, want := range map[string][]listener.Fingerprint{"": nil, text: {sha256.Sum256(der.Raw)}} {
		d.machine.Provider = granted{certificate: name}
		if diff := cmp.Diff(want, d.trustedClients(osapi.FallbackListenerConfig{})); diff != "" {
			t.Error(diff)
		}
	}
}

// fakeIncus is the trust store of an Incus behind a socket.
func fakeIncus(t *testing.T, known map[string]bool) (socket string, requests *[]string) {
	t.Helper()
	socket, requests = filepath.Join(t.TempDir(), "s"), new([]string)
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		*requests = append(*requests, r.Method+" "+strings.TrimSpace(r.URL.Path+" "+string(body)))
		name := strings.TrimPrefix(r.URL.Path, "/1.0/certificates/")
		switch {
		case r.URL.Path == "/1.0":
			fmt.Fprint(w, `{"type":"sync","metadata":{"config":{"core.https_address":"[::]:9443"}}}`)
		case r.Method == http.MethodPost:
			fmt.Fprint(w, `{"type":"sync","metadata":{}}`)
		case !known[name]:
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"type":"error","error":"Certificate not found","error_code":404}`)
		default:
			fmt.Fprint(w, `{"type":"sync","metadata":{}}`)
		}
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return socket, requests
}

// A manager is let in once, and the trust can be taken back twice.
func TestIncusTrust_AddAndRemove_LookFirst(t *testing.T) {
	block, _ := pem.Decode([]byte(pemCertificate))
	sum := fmt.Sprintf("%x", sha256.Sum256(block.Bytes))
	one := "/1.0/certificates/" + sum
	add := fmt.Sprintf(`POST /1.0/certificates {"certificate":"%s","name":"operations-center","type":"client"}`,
		strings.NewReplacer("-----BEGIN CERTIFICATE-----", "", "-----END CERTIFICATE-----", "", "\n", "").Replace(pemCertificate))
	for name, test := range map[string]struct {
		known, trusted bool
		want           []string
	}{
		"a new one":           {false, true, []string{"GET " + one, add}},
		"one that is in":      {true, true, []string{"GET " + one}},
		"taken back":          {true, false, []string{"DELETE " + one}},
		"taken back long ago": {false, false, []string{"DELETE " + one}},
	} {
		t.Run(name, func(t *testing.T) {
			socket, requests := fakeIncus(t, map[string]bool{sum: test.known})
			if err := (incusTrust{socket}).set(t.Context(), pemCertificate, test.trusted); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(test.want, *requests); diff != "" {
				t.Error(diff)
			}
		})
	}
	socket, _ := fakeIncus(t, nil)
	if got, err := (incusTrust{socket}).listen(t.Context()); got != "[::]:9443" || err != nil {
		t.Errorf("it listens on %q, %v", got, err)
	}
	if err := (incusTrust{filepath.Join(t.TempDir(), "none")}).set(context.Background(), pemCertificate, false); err == nil {
		t.Error("an Incus that is not there has forgotten the manager")
	}
}

// A proof is good for a while wherever it is shown, so it is shown to one server alone.
func TestAuthorization_EachRequest_GetsAProofForItsServerAlone(t *testing.T) {
	prover := authenticator(t)
	for _, mode := range []imageauth.Mode{imageauth.ByHeader, imageauth.ByQuery} {
		authorize := prover.Authorize(&url.URL{Scheme: "https", Host: "images.example.org", Path: "/os"}, mode)
		seen := map[string]bool{}
		for address, want := range map[string]bool{"https://images.example.org/os/a": true, "https://images.example.org/os/b": true,
			"http://images.example.org/os/a": false, "https://mirror.example.org/os/a": false} {
			request, err := http.NewRequest(http.MethodGet, address, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := authorize(request); err != nil {
				t.Fatal(err)
			}
			proof := request.Header.Get("X-IncusOS-Authentication") + request.URL.Query().Get("token")
			inQuery := request.URL.RawQuery != ""
			if (proof != "") != want || (want && inQuery != (mode == imageauth.ByQuery)) || seen[proof] && want {
				t.Errorf("mode %d, %s: %q, in the query: %t", mode, address, proof, inQuery)
			}
			seen[proof] = true
		}
	}
}

// rsaCertificate makes a key, and a certificate for it.
func rsaCertificate(t *testing.T) (*rsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "images"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, certificate
}

func authenticator(t *testing.T) *imageauth.Authenticator {
	t.Helper()
	_, recipient := rsaCertificate(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	made, err := imageauth.New(imageauth.Options{MachineID: "0123456789abcdef0123456789abcdef", Certificate: recipient, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	return made
}
