package cli

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/test/needs"
)

// serverPair writes a certificate for 127.0.0.1 and its key.
func serverPair(t *testing.T, dir string) (cert, key string, roots *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key")
	public := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	err = errors.Join(os.WriteFile(cert, public, 0o600), os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(public)
	return cert, key, roots
}

// Units that were written for the customizer of IncusOS set the environment; stopped, the
// service ends well.
func TestImageServe_AddressAndTLSFromTheEnvironment_ServesUntilStopped(t *testing.T) {
	needs.Programs(t, "openssl")
	dir := t.TempDir()
	cert, key, roots := serverPair(t, dir)
	if err := os.WriteFile(filepath.Join(dir, "index.json"), []byte(`{"format": "1.0", "updates": []}`), 0o600); err != nil {
		t.Fatal(err)
	}
	vars := map[string]string{"LISTEN_ADDRESS": "127.0.0.1:0", "TLS_CERT": cert, "TLS_KEY": key}
	out, printed := io.Pipe()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan int, 1)
	go func() {
		ended <- Run(ctx, []string{"image", "serve", dir}, Env{Getenv: func(n string) string { return vars[n] }, Dir: dir,
			Stdin: strings.NewReader(""), Stdout: printed, Stderr: io.Discard, Run: run.Host})
		printed.CloseWithError(io.EOF)
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	address := strings.TrimSpace(line[strings.LastIndex(line, " at ")+4:])
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"/1.0/certificate", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var made struct {
		Metadata struct {
			Certificate string
			PFX         []byte
		}
	}
	if err := json.NewDecoder(answer.Body).Decode(&made); err != nil {
		t.Fatal(err)
	}
	inside, err := run.Host(ctx, run.Command{Name: "openssl", Args: []string{"pkcs12", "-passin", "pass:", "-nokeys", "-in", "/dev/stdin"},
		Stdin: bytes.NewReader(made.Metadata.PFX)})
	if err != nil || !bytes.Contains(inside.Stdout, []byte(strings.TrimSpace(made.Metadata.Certificate))) {
		t.Errorf("the PKCS #12 does not hold the certificate: %v\n%s", err, inside.Stdout)
	}
	stop()
	if code := <-ended; code != ExitOK {
		t.Errorf("it ended with %d", code)
	}
}

func TestImageServe_HalfOfTLS_IsRefused(t *testing.T) {
	var stderr bytes.Buffer
	code := Run(t.Context(), []string{"image", "serve", t.TempDir(), "--tls-cert", "a"},
		Env{Getenv: func(string) string { return "" }, Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: &stderr})
	if code != ExitUsage {
		t.Errorf("code %d: %s", code, &stderr)
	}
}
