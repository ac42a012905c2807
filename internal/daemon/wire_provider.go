package daemon

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-os/holdfast/internal/imageauth"
	"github.com/holdfast-os/holdfast/internal/operationscenter"
	"github.com/holdfast-os/holdfast/internal/system/incus"
	"github.com/holdfast-os/holdfast/internal/system/tpmkey"
	"github.com/holdfast-os/holdfast/internal/updater"
)

// hostProvider is ProviderHands.
type hostProvider struct {
	*Host
	keys  *tpmkey.Store
	incus incusTrust
}

func (h *Host) newProvider() *Provider {
	return NewProvider(ProviderOptions{
		Hands:     hostProvider{h, &tpmkey.Store{Dir: filepath.Join(stateDir, "tpm-auth")}, incusTrust{incus.DefaultSocket}},
		Documents: h.documents, Log: h.log, Tell: func(level, text string) { h.display.Message(level, text) },
	})
}

func (h hostProvider) Facts(context.Context) (ProviderFacts, error) {
	release, err := h.facts.Release()
	if err != nil {
		return ProviderFacts{}, err
	}
	authenticates, err := exists(authCertificate)
	if err != nil {
		return ProviderFacts{}, fmt.Errorf("looking for the certificate of the image server: %w", err)
	}
	installed, err := appStore{h.Host}.Load()
	_, local := installed[operationscenter.Name]
	return ProviderFacts{Local: local, Authenticates: authenticates, Architecture: architecture(), Running: release.Version}, err
}

// Images is part of ProviderHands.
func (h hostProvider) Images(choice ImagesChoice, prover *Prover) (updater.Source, error) {
	release, err := h.facts.Release()
	if err != nil {
		return nil, err
	}
	access := h.access.to(choice)
	if prover != nil {
		server, err := url.Parse(choice.Servers[0])
		if err != nil {
			return nil, fmt.Errorf("reading the URL of the image server: %w", err)
		}
		access.Authorize = prover.Authorize(server, choice.Mode)
	}
	if choice.Metadata == metadataIndex {
		return updater.OpenIndexed(updater.IndexedOptions{
			Access: access, UpdateCA: choice.CA, Architecture: architecture(), Running: release.Version})
	}
	if len(choice.Root) == 0 {
		if choice.Root, err = os.ReadFile(releaseRoot); err != nil {
			return nil, errNoRoot(releaseRoot, err)
		}
	}
	built, err := time.Parse("200601021504", release.Version)
	if err != nil {
		return nil, fmt.Errorf("reading when this release was built: %w", err)
	}
	return updater.OpenTrusted(updater.TrustedOptions{
		Access: access, Root: choice.Root, StateDir: filepath.Join(stateDir, "releases"), Architecture: architecture(), Built: built,
		Clock: func() (time.Time, bool) {
			_, err := os.Stat(synchronized)
			return time.Now(), err == nil
		}})
}

// Center is part of ProviderHands.
func (h hostProvider) Center() operationscenter.Options {
	return operationscenter.Options{UserAgent: h.access.userAgent, Roots: h.access.roots, ClientCertificate: func() (*tls.Certificate, error) {
		there, err := exists("/var/lib/incus/server.crt")
		if err != nil || !there {
			return nil, err
		}
		return hostIdentity{}.Certificate()
	}}
}

// Self is part of ProviderHands.
func (h hostProvider) Self(ctx context.Context) (operationscenter.Self, error) {
	environment, err := h.facts.Environment()
	if err != nil {
		return operationscenter.Self{}, err
	}
	self := operationscenter.Self{Name: environment.Hostname, MachineID: environment.MachineID}
	if self.SystemUUID, err = h.facts.ProductUUID(); err != nil {
		return operationscenter.Self{}, err
	}
	config, err := current(ctx, h.daemon, sectionNetwork, h.daemon.machine.Network)
	if err != nil {
		return operationscenter.Self{}, err
	}
	network, err := h.daemon.machine.Network.State(ctx, config)
	if err != nil {
		return operationscenter.Self{}, err
	}
	listen, err := h.incus.listen(ctx)
	if err != nil {
		return operationscenter.Self{}, fmt.Errorf("finding out where the primary application listens: %w", err)
	}
	self.ConnectionURL, err = operationscenter.ConnectionURL(network.Interfaces, listen)
	return self, err
}

// Trust is part of ProviderHands.
func (h hostProvider) Trust(ctx context.Context, certificate string, trusted bool) error {
	return h.incus.set(ctx, certificate, trusted)
}

// maxCertificate bounds the image server's certificate, in bytes.
const maxCertificate = 64 << 10

// Prover is part of ProviderHands.
func (h hostProvider) Prover(context.Context) (Prover, error) {
	recipient, err := readCertificate(authCertificate)
	if err != nil {
		return Prover{}, fmt.Errorf("reading for whom proofs of this node are: %w: install an image of the server that asks for them", err)
	}
	id, err := h.facts.MachineID()
	if err != nil {
		return Prover{}, err
	}
	key, err := ownKey(h.keys)
	if err != nil {
		return Prover{}, err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return Prover{}, fmt.Errorf("writing the node's public key: %w", err)
	}
	roots, err := h.access.roots()
	if err != nil {
		return Prover{}, fmt.Errorf("reading the certificates that the node trusts: %w", err)
	}
	doer := &http.Client{
		Transport: &http.Transport{Proxy: h.access.proxy, DisableKeepAlives: true, TLSHandshakeTimeout: 30 * time.Second,
			MaxResponseHeaderBytes: 64 << 10, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}},
		// The token is for one server.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	authenticator, err := imageauth.New(imageauth.Options{MachineID: id, Certificate: recipient, Key: key})
	return Prover{Authenticator: authenticator, MachineID: id, Doer: doer,
		PublicKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}, err
}

// ownKey gives the key in the TPM. One that the TPM does not take any more, since it was
// cleared, gives way to a new one, which the server then has to be told.
func ownKey(keys *tpmkey.Store) (*tpmkey.Key, error) {
	key, err := keys.Key()
	if err == nil {
		digest := sha256.Sum256([]byte("does the TPM take its key"))
		_, err = key.Sign(rand.Reader, digest[:], crypto.SHA256)
	}
	if !errors.Is(err, tpmkey.ErrForeign) && !errors.Is(err, tpmkey.ErrDamaged) {
		return key, err
	}
	if err := keys.Reset(); err != nil {
		return nil, err
	}
	return keys.Key()
}

func readCertificate(path string) (*x509.Certificate, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxCertificate))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%s is not a certificate in PEM form", path)
	}
	return x509.ParseCertificate(block.Bytes)
}

// incusTrust is the trust store of the Incus behind a socket.
type incusTrust struct{ socket string }

// maxIncus bounds an answer of Incus, in bytes.
const maxIncus = 1 << 20

// listen is where Incus is configured to listen; empty for nowhere.
func (i incusTrust) listen(ctx context.Context) (string, error) {
	var server struct {
		Config map[string]string `json:"config"`
	}
	_, err := i.call(ctx, http.MethodGet, "/1.0", nil, &server)
	return server.Config["core.https_address"], err
}

// set adds a client's certificate, or removes it.
func (i incusTrust) set(ctx context.Context, certificate string, trusted bool) error {
	block, _ := pem.Decode([]byte(certificate))
	if block == nil {
		return errors.New("the certificate is not in PEM form")
	}
	sum := sha256.Sum256(block.Bytes)
	path := "/1.0/certificates/" + hex.EncodeToString(sum[:])
	if !trusted {
		code, err := i.call(ctx, http.MethodDelete, path, nil, nil)
		if code == http.StatusNotFound {
			return nil
		}
		return err
	}
	code, err := i.call(ctx, http.MethodGet, path, nil, nil)
	if code != http.StatusNotFound {
		return err
	}
	_, err = i.call(ctx, http.MethodPost, "/1.0/certificates", map[string]string{
		"name": operationscenter.Name, "type": "client", "certificate": base64.StdEncoding.EncodeToString(block.Bytes)}, nil)
	return err
}

// call sends one request and gives the code of the answer; an error too for one that is no
// success.
func (i incusTrust) call(ctx context.Context, method, path string, in, out any) (code int, err error) {
	body := []byte(nil)
	if in != nil {
		if body, err = json.Marshal(in); err != nil {
			return 0, fmt.Errorf("asking incus for %s %s: %w", method, path, err)
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://incus"+path, bytes.NewReader(body))
	if err != nil {
		return 0, fmt.Errorf("asking incus for %s %s: %w", method, path, err)
	}
	request.Header.Set("Content-Type", "application/json")
	client := &http.Client{Timeout: answerTime, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", i.socket)
	}}}
	response, err := client.Do(request)
	if err != nil {
		return 0, fmt.Errorf("asking incus: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, maxIncus))
	if err := errors.Join(err, response.Body.Close()); err != nil {
		return 0, fmt.Errorf("reading what incus answers to %s %s: %w", method, path, err)
	}
	var answer struct {
		Error    string          `json:"error"`
		Metadata json.RawMessage `json:"metadata"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return response.StatusCode, fmt.Errorf("reading what incus answers to %s %s: %w", method, path, err)
	}
	if response.StatusCode >= 400 {
		return response.StatusCode, fmt.Errorf("incus answers %s %s with %d: %s", method, path, response.StatusCode, answer.Error)
	}
	if out != nil {
		err = json.Unmarshal(answer.Metadata, out)
	}
	return response.StatusCode, err
}
