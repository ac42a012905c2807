package daemon_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"math/big"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/daemon"
	"github.com/holdfast-os/holdfast/internal/imageauth"
)

const machineID = "0123456789abcdef0123456789abcdef"

// imageServer takes registrations with the token of imageToken.
type imageServer struct {
	*httptest.Server
	// first is closed with the first request.
	first chan struct{}

	mu       sync.Mutex
	requests []string
}

const imageToken = "a-token-for-images"

func newImageServer(t *testing.T) *imageServer {
	t.Helper()
	s := &imageServer{first: make(chan struct{})}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.requests) == 0 {
			defer close(s.first)
		}
		s.requests = append(s.requests, r.Method+" "+r.URL.Path)
		var body map[string]string
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || body["machine_id"] != machineID || body["token"] != imageToken {
			http.Error(w, "unknown token "+body["token"], http.StatusBadRequest)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *imageServer) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.requests...)
}

func (s *imageServer) config(token string) osapi.ProviderConfig {
	return osapi.ProviderConfig{Name: "images", Config: map[string]string{"server_url": s.URL + "/os", "token": token}}
}

// newProver makes a key, and proofs with it.
func newProver(t *testing.T) daemon.Prover {
	t.Helper()
	server, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "images"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &server.PublicKey, server)
	if err != nil {
		t.Fatal(err)
	}
	recipient, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	authenticator, err := imageauth.New(imageauth.Options{MachineID: machineID, Certificate: recipient, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	return daemon.Prover{Authenticator: authenticator, MachineID: machineID, PublicKey: "PEM of " + key.X.String(), Doer: http.DefaultClient}
}

// newProvingHands are those of a node with the image server's certificate and a TPM.
func newProvingHands(t *testing.T, w *world) *hands {
	h := newHands(t, w)
	h.facts.Authenticates = true
	prover := newProver(t)
	h.prover = func() (daemon.Prover, error) { return prover, nil }
	return h
}

// A server that knows its nodes is told of this one, once for each key.
func TestProvider_ImageServerWithToken_RegistersOnce(t *testing.T) {
	s, w := newImageServer(t), newWorld()
	h := newProvingHands(t, w)
	n := startManaged(t, w, h, nil)
	n.must(t, s.config(imageToken), "")
	want := osapi.Provider{Config: s.config(config.Secret), State: osapi.ProviderState{Registered: true}}
	if diff := cmp.Diff(want, n.provider(t)); diff != "" {
		t.Error(diff)
	}
	more := n.provider(t).Config
	more.Config["authentication_by_query_param"] = "false"
	n.must(t, more, "")
	if diff := cmp.Diff([]string{"POST /os/register"}, s.asked()); diff != "" {
		t.Error(diff)
	}
	other := newProver(t) // the TPM was cleared
	h.prover = func() (daemon.Prover, error) { return other, nil }
	n.must(t, s.config(config.Secret), "")
	if diff := cmp.Diff([]string{"POST /os/register", "POST /os/register"}, s.asked()); diff != "" {
		t.Error(diff)
	}
	n.must(t, images, "")
	if got := n.provider(t).State; got.Registered {
		t.Errorf("%+v", got)
	}
}

func TestProvider_ImageServerRefuses_OldProviderStays(t *testing.T) {
	s, w := newImageServer(t), newWorld()
	n := startManaged(t, w, newProvingHands(t, w), nil)
	code, message := n.put(t, s.config("stolen-token"), "")
	if code != 400 || !strings.Contains(message, "the image server refuses the registration: unknown token (the token)") {
		t.Errorf("%d %s", code, message)
	}
	if diff := cmp.Diff(osapi.Provider{Config: images}, n.provider(t)); diff != "" {
		t.Error(diff)
	}
}

// A mistake in a URL is told in logs and events, which must not show what is secret in it.
func TestProvider_SecretInTheURL_IsNotRepeated(t *testing.T) {
	w := newWorld()
	n := startManaged(t, w, newHands(t, w), nil)
	for _, url := range []string{"https://node:hunter2@releases.example.org/os", "https://releases.example.org/os?token=hunter2", "https://node:hunter2@:x"} {
		code, message := n.put(t, osapi.ProviderConfig{Name: "images", Config: map[string]string{"server_url": url}}, "")
		if want := `config.config.server_url: it is not the URL of a release tree, as "https://releases.example.org/os" (rule url)`; code != 400 || message != want {
			t.Errorf("%d %s", code, message)
		}
	}
}

// Applications come from that server, so the node is known there before they are fetched.
func TestProvider_ImageServerOfTheSeed_IsToldBeforeTheNodeIsReady(t *testing.T) {
	s, w := newImageServer(t), newWorld()
	seed := s.config(imageToken)
	w.seed.provider, w.seed.apps = &seed, []string{"incus"}
	w.block["ensure"] = s.first // without the server there are no applications
	n := startManaged(t, w, newProvingHands(t, w), nil)
	for !n.provider(t).State.Registered {
		n.log()
	}
	if diff := cmp.Diff([]string{"POST /os/register"}, s.asked()); diff != "" {
		t.Error(diff)
	}
}

// What a manager on the node asks for is made with the node's own key.
func TestInternalAuth_RegistrationAndToken_AreMade(t *testing.T) {
	w := newWorld()
	n := startManaged(t, w, newProvingHands(t, w), nil)
	form := regexp.MustCompile(`^` + machineID + `:[A-Za-z0-9+/]+:[A-Za-z0-9+/]+$`)
	code, message, metadata := call(t, n.fixture, "POST", "/internal/auth/:generate-token", "")
	var proof string
	if err := json.Unmarshal(metadata, &proof); err != nil || code != 200 || !form.MatchString(proof) {
		t.Errorf("%d %s %s", code, message, metadata)
	}
	code, message, metadata = call(t, n.fixture, "POST", "/internal/auth/:generate-registration", `{"token":"t1"}`)
	var made map[string]string
	if err := json.Unmarshal(metadata, &made); err != nil || code != 200 || !form.MatchString(made["initial"]) {
		t.Errorf("%d %s %s", code, message, metadata)
	}
	delete(made, "initial")
	prover, err := n.hands.prover()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"machine_id": machineID, "token": "t1", "public_key": prover.PublicKey}, made); diff != "" {
		t.Error(diff)
	}
	if code, message, _ := call(t, n.fixture, "POST", "/internal/auth/:generate-registration", `{}`); code != 400 || message != "missing registration token" {
		t.Errorf("%d %s", code, message)
	}
}

func TestInternalAuth_MachineWithoutKey_SaysSo(t *testing.T) {
	f := ready(t)
	code, message, _ := call(t, f, "POST", "/internal/auth/:generate-token", "")
	if code != 501 || message != "this machine has no key that an image server could know" {
		t.Errorf("%d %s", code, message)
	}
}
