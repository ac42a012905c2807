package daemon_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/audit"
	"github.com/holdfast-os/holdfast/internal/daemon"
	"github.com/holdfast-os/holdfast/internal/operationscenter"
	"github.com/holdfast-os/holdfast/internal/operationscenter/octest"
	"github.com/holdfast-os/holdfast/internal/update"
	"github.com/holdfast-os/holdfast/internal/updater"
)

// managerToken lets a node register. No answer, log or archive may have it.
const managerToken = "7d0c2a9e-secret+token/5b1f"

// identity is a certificate with its key.
type identity struct {
	tls tls.Certificate
	pem string
}

func newIdentity(t *testing.T, name string) identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true, IsCA: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return identity{tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

// manager is an Operations Center on the network.
type manager struct {
	*octest.Server
	http    *httptest.Server
	shown   identity
	granted identity
	// reports gets the cause of each report once it was answered.
	reports chan string
}

func newManager(t *testing.T) *manager {
	t.Helper()
	m := &manager{shown: newIdentity(t, "shown"), granted: newIdentity(t, "granted"), reports: make(chan string, 100)}
	m.Server = octest.New(m.granted.pem)
	m.AddToken(managerToken)
	m.http = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.ServeHTTP(w, r)
		if r.Method == http.MethodPut {
			if nodes := m.Nodes(); len(nodes) > 0 && len(nodes[0].Reports) > 0 {
				m.reports <- nodes[0].Reports[len(nodes[0].Reports)-1].Cause
			}
		}
	}))
	m.http.TLS = octest.TLSConfig(m.shown.tls)
	m.http.Config.ErrorLog = log.New(io.Discard, "", 0)
	m.http.StartTLS()
	t.Cleanup(func() {
		m.http.Close()
		for _, complaint := range m.Complaints() {
			t.Error("the manager complains: ", complaint)
		}
	})
	return m
}

// config is what an owner writes to let a node belong to the manager.
func (m *manager) config() osapi.ProviderConfig {
	return osapi.ProviderConfig{Name: "operations-center", Config: map[string]string{
		"server_url": m.http.URL, "server_token": managerToken, "server_certificate": m.shown.pem}}
}

// wait returns when a cause was reported.
func (m *manager) wait(t *testing.T, cause string) {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		select {
		case got := <-m.reports:
			if got == cause {
				return
			}
		case <-limit:
			t.Fatalf("%q was not reported: %+v", cause, m.Nodes())
		}
	}
}

// hands is daemon.ProviderHands of a machine in memory.
type hands struct {
	*world
	facts daemon.ProviderFacts
	node  identity
	roots *x509.CertPool
	// prover makes what Prover gives; nil for a machine that has none.
	prover func() (daemon.Prover, error)

	mu      sync.Mutex
	trusted map[string]bool
	noIdentity,
	noAddress bool
}

func newHands(t *testing.T, w *world) *hands {
	return &hands{world: w, node: newIdentity(t, "node1"), roots: x509.NewCertPool(), trusted: map[string]bool{},
		facts: daemon.ProviderFacts{Architecture: "x86_64", Running: "202611220104"}}
}

func (h *hands) Facts(context.Context) (daemon.ProviderFacts, error) { return h.facts, nil }

func (h *hands) Images(daemon.ImagesChoice, *daemon.Prover) (updater.Source, error) {
	return nil, h.did("images")
}

func (h *hands) Center() operationscenter.Options {
	return operationscenter.Options{UserAgent: "Holdfast/202611220104",
		Roots: func() (*x509.CertPool, error) { return h.roots, nil },
		Wait:  func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
		ClientCertificate: func() (*tls.Certificate, error) {
			h.mu.Lock()
			defer h.mu.Unlock()
			if h.noIdentity {
				return nil, nil
			}
			return &h.node.tls, nil
		}}
}

func (h *hands) Self(context.Context) (operationscenter.Self, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.noAddress {
		return operationscenter.Self{}, operationscenter.ErrNoAddress
	}
	return operationscenter.Self{Name: "node1", ConnectionURL: "https://192.0.2.7:8443", MachineID: "0123456789abcdef0123456789abcdef"}, nil
}

func (h *hands) Trust(_ context.Context, certificate string, trusted bool) error {
	if err := h.did(map[bool]string{true: "trust", false: "distrust"}[trusted]); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.trusted[certificate] = trusted
	return nil
}

func (h *hands) Prover(context.Context) (daemon.Prover, error) { return h.prover() }

// trusts tells whom the primary application lets in.
func (h *hands) trusts(certificate string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.trusted[certificate]
}

// tellingUpdates is an update agent that tells what a test says.
type tellingUpdates struct {
	*fakeUpdates
	tell chan update.Notice
}

func (u tellingUpdates) Run(ctx context.Context, _ <-chan struct{}, tell func(update.Notice)) error {
	for {
		select {
		case n := <-u.tell:
			tell(n)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// managed is a node that can belong to a manager.
type managed struct {
	*fixture
	hands  *hands
	source *daemon.Provider
	tell   chan update.Notice
	// pauses and again are the clock of what the provider tries again.
	pauses chan time.Duration
	again  chan time.Time
}

// startManaged runs a daemon with the real provider on a world. docs are what an earlier one
// has kept.
func startManaged(t *testing.T, w *world, h *hands, docs *memory) *managed {
	t.Helper()
	if docs == nil {
		docs = &memory{docs: map[string][]byte{}}
	}
	w.apps["incus"] = osapi.ApplicationConfig{}
	n := &managed{fixture: &fixture{world: w, clock: newClock(), docs: docs, root: t.TempDir()}, hands: h, tell: make(chan update.Notice),
		pauses: make(chan time.Duration, 100), again: make(chan time.Time)}
	documents := func() (daemon.Documents, error) { return docs, nil }
	quiet, display := slog.New(slog.DiscardHandler), fakeDisplay{w}
	provider := daemon.NewProvider(daemon.ProviderOptions{Hands: h, Documents: documents, Tell: display.Message, Log: quiet,
		After: func(d time.Duration) <-chan time.Time {
			n.pauses <- d
			return n.again
		}})
	n.source = provider
	n.daemon = daemon.New(daemon.Options{
		Root: n.root, Documents: documents, Audit: func() (audit.Files, error) { return audit.OpenDirectory(filepath.Join(n.root, "audit")) }, Clock: n.clock.clock(), Log: quiet,
		Machine: daemon.Machine{
			Facts: fakeFacts{w}, Devices: fakeDevices{w}, Requirements: fakeRequirements{w}, Installer: fakeInstaller{w}, Seed: fakeSeed{w},
			Keys: fakeKeys{w}, Security: fakeSetting[osapi.SecurityConfig, osapi.SecurityState]{world: w, name: "security"}, Extensions: fakeExtensions{w}, Pools: fakePools{w}, Resolver: fakeResolver{w},
			Network: fakeNetwork(w), Provider: provider,
			Kernel:   fakeSetting[osapi.KernelConfig, osapi.KernelState]{world: w, name: "kernel"},
			Logging:  fakeSetting[osapi.LoggingConfig, osapi.LoggingState]{world: w, name: "logging"},
			Identity: fakeIdentity{}, Apps: fakeApps{w}, AppUpdates: fakeApps{w}, Updates: tellingUpdates{&fakeUpdates{world: w}, n.tell}, Power: fakePower{w},
			Diagnosis: fakeDiagnosis{w}, Display: display, Doing: display, Notify: fakeNotify{w}, Starts: fakeNotify{w},
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.daemon.Run(ctx) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(n.stop)
	w.wait(t, "status ready")
	<-n.clock.pauses // the console's
	return n
}

// put changes the provider.
func (n *managed) put(t *testing.T, config osapi.ProviderConfig, query string) (int, string) {
	t.Helper()
	text, err := json.Marshal(map[string]any{"config": config})
	if err != nil {
		t.Fatal(err)
	}
	code, message, _ := call(t, n.fixture, "PUT", "/1.0/system/provider"+query, string(text))
	return code, message
}

// must is put that works.
func (n *managed) must(t *testing.T, config osapi.ProviderConfig, query string) {
	t.Helper()
	if code, message := n.put(t, config, query); code != 200 {
		t.Fatalf("the provider %s: %d %s", config.Name, code, message)
	}
}

func (n *managed) provider(t *testing.T) osapi.Provider {
	t.Helper()
	return getAs[osapi.Provider](t, n.fixture, "/1.0/system/provider")
}

func (n *managed) told() []string {
	n.fixture.mu.Lock()
	defer n.fixture.mu.Unlock()
	return append([]string(nil), n.messages...)
}

// act ends the pause before an action, and returns when something is told. The console waits
// for the same clock, and offers its next pause when it was the one that got a tick.
func (n *managed) act(t *testing.T, told chan string, what string) {
	t.Helper()
	limit := time.After(20 * time.Second)
	for pause := time.Duration(0); pause != time.Second; {
		pause = <-n.clock.pauses
	}
	for {
		n.clock.tick <- time.Time{}
		for console := false; !console; {
			select {
			case <-n.clock.pauses:
				console = true
			case got := <-told:
				if got == what {
					return
				}
			case <-limit:
				t.Fatalf("%q was not told", what)
			}
		}
	}
}

var images = osapi.ProviderConfig{Name: "images"}
