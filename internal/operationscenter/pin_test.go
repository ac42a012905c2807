package operationscenter_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/operationscenter"
	"github.com/holdfast-os/holdfast/internal/operationscenter/octest"
)

// A manager begins with a certificate of its own making and may get a public one later.
func TestPin_EachServer_IsTakenRefusedOrUnpinned(t *testing.T) {
	authority, other := newIdentity(t, nil), newIdentity(t, nil, "127.0.0.1")
	vouched, self := newIdentity(t, authority, "127.0.0.1"), newIdentity(t, nil, "another.name")
	wrongName := newIdentity(t, authority, "another.name")
	for _, test := range []struct {
		name        string
		shown       *identity
		pin         string
		system      *identity
		wantErr     error
		wantDropped bool
	}{
		{"the pinned one, whatever its name", self, self.pem, other, nil, false},
		{"descends from the pinned one", vouched, authority.pem, other, nil, false},
		{"descends from the pinned one, of another name", wrongName, authority.pem, other, operationscenter.ErrCertificate, false},
		{"another, the system does not know it", self, other.pem, authority, operationscenter.ErrCertificate, false},
		{"another, the system vouches for it", vouched, other.pem, authority, nil, true},
		{"another, the system vouches for another name", wrongName, other.pem, authority, operationscenter.ErrCertificate, false},
		{"no pin, the system vouches for it", vouched, "", authority, nil, false},
		{"no pin, the system does not know it", self, "", authority, errAny, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			manager := octest.New("")
			url := serve(t, manager, octest.TLSConfig(test.shown.tls))
			pool := x509.NewCertPool()
			pool.AddCert(test.system.leaf)
			client := newClient(t, operationscenter.Options{ServerURL: url, Token: token, Certificate: test.pin,
				Roots: func() (*x509.CertPool, error) { return pool, nil }})
			for range 2 {
				_, err := client.Updates(t.Context())
				var unverified *tls.CertificateVerificationError
				if test.wantErr == errAny && !errors.As(err, &unverified) || test.wantErr != errAny && !errors.Is(err, test.wantErr) {
					t.Errorf("got %v, want %v", err, test.wantErr)
				}
			}
			if got := client.PinDropped(); got != test.wantDropped {
				t.Errorf("the pin is dropped: %t", got)
			}
			want := []string{"GET /1.0/provisioning/updates", "GET /1.0/provisioning/updates"}
			if test.wantErr != nil {
				want = nil
			}
			if diff := cmp.Diff(want, manager.Requests()); diff != "" {
				t.Errorf("requests: %s", diff)
			}
		})
	}
}

var errAny = errors.New("verification by the system")

// refusing is a server that does not have the pinned certificate.
type refusing struct{}

func (refusing) Do(*http.Request) (*http.Response, error) {
	return nil, operationscenter.ErrCertificate
}

// A pin that was dropped is not tried before each request.
func TestPin_Dropped_IsNotTriedAgain(t *testing.T) {
	pin := newIdentity(t, nil)
	var pinned []bool
	client := newClient(t, operationscenter.Options{ServerURL: "https://manager.example.org", Token: token, Certificate: pin.pem,
		Connect: func(by *x509.Certificate) operationscenter.Doer {
			pinned = append(pinned, by != nil)
			if by != nil {
				return refusing{}
			}
			return told{`{"type":"sync","status_code":200,"metadata":[]}`, -1}
		}})
	for range 2 {
		if _, err := client.Updates(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]bool{true, false, false}, pinned); diff != "" {
		t.Error(diff)
	}
}

// Whoever has a valid certificate and is no manager does not undo the pin.
func TestPin_VouchedServerThatIsNoManager_StaysPinned(t *testing.T) {
	authority := newIdentity(t, nil)
	shown := newIdentity(t, authority, "127.0.0.1")
	url := serve(t, http.NotFoundHandler(), octest.TLSConfig(shown.tls))
	pool := x509.NewCertPool()
	pool.AddCert(authority.leaf)
	client := newClient(t, operationscenter.Options{ServerURL: url, Token: token, Certificate: newIdentity(t, nil).pem,
		Roots: func() (*x509.CertPool, error) { return pool, nil }})
	_, err := client.Updates(t.Context())
	checkErr(t, err, errServer)
	if client.PinDropped() {
		t.Error("the pin is dropped")
	}
}

// Older TLS would show the node's certificate to whoever listens.
func TestConnection_ServerWithTLS12_IsRefused(t *testing.T) {
	shown := newIdentity(t, nil, "127.0.0.1")
	config := octest.TLSConfig(shown.tls)
	config.MinVersion, config.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	manager := octest.New("")
	client := newClient(t, operationscenter.Options{ServerURL: serve(t, manager, config), Token: token, Certificate: shown.pem, Wait: noWait})
	if _, err := client.Updates(t.Context()); err == nil {
		t.Error("it was taken")
	}
	if diff := cmp.Diff([]string(nil), manager.Requests()); diff != "" {
		t.Error(diff)
	}
}

// The application is installed from the manager, so the first questions have no certificate.
func TestConnection_CertificateThatComesLater_IsUsed(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	var have *tls.Certificate
	o.ClientCertificate = func() (*tls.Certificate, error) { return have, nil }
	client := newClient(t, o)
	if _, err := client.Updates(t.Context()); err != nil {
		t.Fatal(err)
	}
	have = &w.node.tls
	if _, err := client.Register(context.Background(), operationscenter.Membership{}, self); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(fingerprint(w.node), w.Nodes()[0].Certificate); diff != "" {
		t.Error(diff)
	}
}

func TestNew_UnusableOptions_AreRefused(t *testing.T) {
	good := operationscenter.Options{ServerURL: "https://manager.example.org", Token: token}
	if _, err := operationscenter.New(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*operationscenter.Options){
		"no server":       func(o *operationscenter.Options) { o.ServerURL = "" },
		"http":            func(o *operationscenter.Options) { o.ServerURL = "http://manager.example.org" },
		"no token":        func(o *operationscenter.Options) { o.Token = "" },
		"token of lines":  func(o *operationscenter.Options) { o.Token = "a\nb" },
		"no certificate":  func(o *operationscenter.Options) { o.Certificate = "hello" },
		"two of them":     func(o *operationscenter.Options) { o.Certificate = newIdentity(t, nil).pem + newIdentity(t, nil).pem },
		"a user and path": func(o *operationscenter.Options) { o.ServerURL = "https://user:word@manager.example.org/x" },
	} {
		o := good
		change(&o)
		if _, err := operationscenter.New(o); err == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
}
