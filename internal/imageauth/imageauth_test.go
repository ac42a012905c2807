package imageauth_test

import (
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/smallstep/pkcs7"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/imageauth"
	"github.com/holdfast-os/holdfast/test/needs"
)

const (
	machine = "0123456789abcdef0123456789abcdef"
	token   = "the-owners-token"
)

// server is an image server, written from the description of the protocol. It takes a
// machine once, and serves to machines that it knows.
type server struct {
	t           *testing.T
	certificate *x509.Certificate
	key         *rsa.PrivateKey

	mu    sync.Mutex
	known map[string]*ecdsa.PublicKey
	seen  []string
}

func newServer(t *testing.T) *server {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "image server"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &server{t: t, certificate: certificate, key: key, known: map[string]*ecdsa.PublicKey{}}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func unpack(text string) ([]byte, error) {
	if strings.Contains(text, "=") {
		return nil, errors.New("padded")
	}
	raw, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil {
		return nil, err
	}
	r, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(r, 1<<16))
}

// open takes a proof apart, and gives what is in it when public's key signed it.
func (s *server) open(proof string, public *ecdsa.PublicKey) (string, error) {
	parts := strings.Split(proof, ":")
	if len(parts) != 3 || !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(parts[0]) {
		return "", fmt.Errorf("%q has another form", proof)
	}
	envelope, err := unpack(parts[1])
	if err != nil {
		return "", err
	}
	signature, err := unpack(parts[2])
	if err != nil {
		return "", err
	}
	digest := sha256.Sum256(envelope)
	if !ecdsa.VerifyASN1(public, digest[:], signature) {
		return "", errors.New("the signature is wrong")
	}
	parsed, err := pkcs7.Parse(envelope)
	if err != nil {
		return "", err
	}
	text, err := parsed.Decrypt(s.certificate, s.key)
	if err != nil {
		return "", err
	}
	var document struct {
		MachineID string `json:"machine_id"`
		Timestamp int64  `json:"timestamp"`
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&document); err != nil {
		return "", err
	}
	if document.MachineID != parts[0] || document.Timestamp != 1795309440 {
		return "", fmt.Errorf("it says %s", text)
	}
	return string(text), nil
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, r.Method+" "+r.URL.Path)
	if strings.HasPrefix(r.URL.Path, "/os/register") {
		if err := s.register(r); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, err.Error())
		}
		return
	}
	header, query := r.Header.Get("X-IncusOS-Authentication"), r.URL.Query().Get("token")
	if (header == "") == (query == "") {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	id, _, _ := strings.Cut(header+query, ":")
	public := s.known[id]
	if public == nil {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	if _, err := s.open(header+query, public); err != nil {
		s.t.Error("a proof: ", err)
		w.WriteHeader(http.StatusForbidden)
	}
}

func (s *server) register(r *http.Request) error {
	text, err := io.ReadAll(io.LimitReader(r.Body, 1<<16))
	if err != nil {
		return err
	}
	switch r.Method {
	case http.MethodPost:
		if r.URL.Path != "/os/register" || r.Header.Get("Content-Type") != "application/json" || r.URL.RawQuery != "" {
			return errors.New("odd POST")
		}
	case http.MethodGet:
		if !regexp.MustCompile(`^/os/register/[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(r.URL.Path) || len(text) > 0 {
			return errors.New("odd GET")
		}
		if text, err = base64.RawURLEncoding.DecodeString(r.URL.Query().Get("token")); err != nil {
			return err
		}
	}
	var body struct {
		MachineID string `json:"machine_id"`
		Token     string `json:"token"`
		PublicKey string `json:"public_key"`
		Initial   string `json:"initial"`
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&body); err != nil {
		return err
	}
	if body.Token != token {
		return fmt.Errorf("token %s is\nnot valid", body.Token)
	}
	block, _ := pem.Decode([]byte(body.PublicKey))
	if block == nil || block.Type != "PUBLIC KEY" {
		return errors.New("no PEM")
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return err
	}
	if _, err := s.open(body.Initial, public.(*ecdsa.PublicKey)); err != nil {
		return err
	}
	if s.known[body.MachineID] != nil {
		return errors.New("known already")
	}
	s.known[body.MachineID] = public.(*ecdsa.PublicKey)
	return nil
}

// authenticator is a node's, at 2026-11-22 01:04 UTC.
func (s *server) authenticator(t *testing.T, key imageauth.Signer) *imageauth.Authenticator {
	t.Helper()
	a, err := imageauth.New(imageauth.Options{MachineID: machine, Certificate: s.certificate, Key: key,
		Now: func() time.Time { return time.Date(2026, 11, 22, 2, 4, 0, 0, time.FixedZone("CET", 3600)) }})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (s *server) serve(t *testing.T) *url.URL {
	t.Helper()
	running := httptest.NewServer(s)
	t.Cleanup(running.Close)
	base, err := url.Parse(running.URL + "/os")
	if err != nil {
		t.Fatal(err)
	}
	return base
}

// The image servers in use open proofs with openssl: it has to agree.
func TestProof_OpenSSL_DecryptsIt(t *testing.T) {
	needs.Programs(t, "openssl")
	s, dir := newServer(t), t.TempDir()
	proof, err := s.authenticator(t, newKey(t)).Proof()
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := unpack(strings.Split(proof, ":")[1])
	if err != nil {
		t.Fatal(err)
	}
	keyFile := filepath.Join(dir, "key.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(s.key)})
	if err := os.WriteFile(keyFile, text, 0o600); err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), "openssl", "smime", "-decrypt", "-binary", "-inform", "DER", "-inkey", keyFile)
	command.Stdin = bytes.NewReader(envelope)
	got, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(`{"machine_id":"0123456789abcdef0123456789abcdef","timestamp":1795309440}`, string(got)); diff != "" {
		t.Error(diff)
	}
	command = exec.CommandContext(t.Context(), "openssl", "asn1parse", "-inform", "DER")
	command.Stdin = bytes.NewReader(envelope)
	parsed, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(parsed), ":aes-256-cbc") || !strings.Contains(string(parsed), ":pkcs7-envelopedData") {
		t.Errorf("openssl sees:\n%s", parsed)
	}
}

// A proof that somebody saw must not tell how the next one looks.
func TestProof_TwoInARow_AreDifferent(t *testing.T) {
	a := newServer(t).authenticator(t, newKey(t))
	first, err := a.Proof()
	if err != nil {
		t.Fatal(err)
	}
	second, err := a.Proof()
	if err != nil {
		t.Fatal(err)
	}
	if first == second || !strings.HasPrefix(first, machine+":") {
		t.Errorf("got %q and %q", first, second)
	}
}

// A node that registered is served, in either way; one that did not is not.
func TestAuthorize_RegisteredNode_IsServed(t *testing.T) {
	for _, mode := range []imageauth.Mode{imageauth.ByHeader, imageauth.ByQuery} {
		s := newServer(t)
		base := s.serve(t)
		a := s.authenticator(t, newKey(t))
		client := &http.Client{Transport: authorized(a.Authorize(base, mode))}
		get := func() int {
			response, err := client.Get(base.JoinPath("index.sjson").String())
			if err != nil {
				t.Fatal(err)
			}
			if err := response.Body.Close(); err != nil {
				t.Fatal(err)
			}
			return response.StatusCode
		}
		before := get()
		// Its requests need no proof: they go past the transport.
		if err := a.Register(t.Context(), http.DefaultClient, base.String(), token, mode); err != nil {
			t.Fatal(err)
		}
		if after := get(); before != 403 || after != 200 {
			t.Errorf("mode %d: %d before and %d after the registration", mode, before, after)
		}
	}
}

// A proof lets its holder pass for the node.
func TestAuthorize_AnotherServer_GetsNoProof(t *testing.T) {
	s := newServer(t)
	for _, mode := range []imageauth.Mode{imageauth.ByHeader, imageauth.ByQuery} {
		var got []string
		other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			got = append(got, r.URL.RawQuery+r.Header.Get("X-IncusOS-Authentication"))
		}))
		t.Cleanup(other.Close)
		redirecting := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusFound))
		t.Cleanup(redirecting.Close)
		base, err := url.Parse(redirecting.URL)
		if err != nil {
			t.Fatal(err)
		}
		client := &http.Client{Transport: authorized(s.authenticator(t, newKey(t)).Authorize(base, mode))}
		response, err := client.Get(redirecting.URL)
		if err != nil {
			t.Fatal(err)
		}
		if err := response.Body.Close(); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{""}, got); diff != "" {
			t.Error(diff)
		}
	}
}

// Errors get into logs, and the token lets a machine in.
func TestRegister_WhateverGoesWrong_ErrorHoldsNoToken(t *testing.T) {
	s := newServer(t)
	base := s.serve(t)
	a := s.authenticator(t, newKey(t))
	repeat := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	t.Cleanup(repeat.Close)
	for _, mode := range []imageauth.Mode{imageauth.ByHeader, imageauth.ByQuery} {
		for _, test := range []struct {
			name, base string
			want       error
		}{
			{"refused", base.String(), imageauth.ErrRefused},
			{"no image server", repeat.URL, imageauth.ErrAnswer},
			{"nobody there", "http://127.0.0.1:1", nil},
			{"no URL", "release tree", nil},
			{"a user in it", "https://me:word@example.org", nil},
		} {
			err := a.Register(t.Context(), http.DefaultClient, test.base, "wrong-token", mode)
			if err == nil || (test.want != nil && !errors.Is(err, test.want)) {
				t.Errorf("%s: got %v, want %v", test.name, err, test.want)
				continue
			}
			sent := base64.RawURLEncoding.EncodeToString([]byte(`{"machine_id`))
			if strings.Contains(err.Error(), "wrong-token") || strings.Contains(err.Error(), sent) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: the error is %q", test.name, err)
			}
		}
	}
}

// lockedKey is a TPM that does not work.
type lockedKey struct{ *ecdsa.PrivateKey }

var errLocked = errors.New("the TPM is locked")

func (lockedKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return nil, errLocked }

func TestProof_KeyThatDoesNotSign_IsItsError(t *testing.T) {
	s := newServer(t)
	a := s.authenticator(t, lockedKey{newKey(t)})
	if _, err := a.Proof(); !errors.Is(err, errLocked) {
		t.Errorf("got %v", err)
	}
	base := s.serve(t)
	if err := a.Register(t.Context(), http.DefaultClient, base.String(), token, imageauth.ByHeader); !errors.Is(err, errLocked) {
		t.Errorf("got %v", err)
	}
	client := &http.Client{Transport: authorized(a.Authorize(base, imageauth.ByHeader))}
	if response, err := client.Get(base.String()); !errors.Is(err, errLocked) {
		t.Errorf("got %v, %v", response, err)
	}
	if diff := cmp.Diff([]string(nil), s.seen); diff != "" {
		t.Errorf("requests went out: %s", diff)
	}
}

func TestNew_UnusableOptions_AreRefused(t *testing.T) {
	s := newServer(t)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec := *s.certificate
	ec.PublicKey = p384.Public()
	for name, o := range map[string]imageauth.Options{
		"machine ID":     {MachineID: "x:y", Certificate: s.certificate, Key: newKey(t)},
		"no certificate": {MachineID: machine, Key: newKey(t)},
		"no key":         {MachineID: machine, Certificate: s.certificate},
		"RSA key":        {MachineID: machine, Certificate: s.certificate, Key: s.key},
		"P-384 key":      {MachineID: machine, Certificate: s.certificate, Key: p384},
		"EC certificate": {MachineID: machine, Certificate: &ec, Key: newKey(t)},
	} {
		if _, err := imageauth.New(o); err == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
}

func settings(pairs ...string) osapi.ProviderConfig {
	value := osapi.ProviderConfig{Name: "images", Config: map[string]string{}}
	for i := 0; i < len(pairs); i += 2 {
		value.Config[pairs[i]] = pairs[i+1]
	}
	return value
}

func TestCheck_EachConfiguration_HasItsProblems(t *testing.T) {
	for _, test := range []struct {
		name  string
		value osapi.ProviderConfig
		want  []string
		mode  imageauth.Mode
	}{
		{"none", settings(), nil, imageauth.ByHeader},
		{"token", settings("server_url", "https://a", "token", token), nil, imageauth.ByHeader},
		{"by query", settings("server_url", "https://a", "token", token, "authentication_by_query_param", "True"), nil, imageauth.ByQuery},
		{"neither true nor false", settings("authentication_by_query_param", "yes"), []string{"config.authentication_by_query_param boolean"}, imageauth.ByHeader},
		{"token for nobody", settings("token", token), []string{"config.token together"}, imageauth.ByHeader},
		{"token with a space", settings("server_url", "https://a", "token", "a b"), []string{"config.token token"}, imageauth.ByHeader},
		{"reference to nothing", settings("server_url", "https://a", "token", config.Secret), []string{"config.token secret"}, imageauth.ByHeader},
	} {
		var got []string
		for _, p := range imageauth.Check(test.value) {
			got = append(got, p.Path+" "+p.Rule)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
		if mode := imageauth.ModeOf(test.value); mode != test.mode {
			t.Errorf("%s: mode %d", test.name, mode)
		}
	}
}

// A document that was shown can be sent back; with another server it would send the token there.
func TestKeep_ShownDocument_GetsTheTokenOfTheSameServerAlone(t *testing.T) {
	kept := settings("server_url", "https://a", "token", token)
	shown := imageauth.Hide(kept)
	if diff := cmp.Diff(settings("server_url", "https://a", "token", config.Secret), shown); diff != "" {
		t.Error(diff)
	}
	got, problems := imageauth.Keep(shown, kept)
	if diff := cmp.Diff(kept, got); diff != "" || len(problems) > 0 {
		t.Error(diff, problems)
	}
	shown.Config["server_url"] = "https://evil"
	if _, problems := imageauth.Keep(shown, kept); len(problems) != 1 || problems[0].Path != "config.token" {
		t.Errorf("got %v", problems)
	}
}

// authorized is a connection on which each request is said to be whose.
type authorized func(*http.Request) error

func (a authorized) RoundTrip(request *http.Request) (*http.Response, error) {
	request = request.Clone(request.Context())
	if err := a(request); err != nil {
		return nil, err
	}
	return http.DefaultTransport.RoundTrip(request)
}
