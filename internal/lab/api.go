package lab

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	api "github.com/holdfast-os/holdfast/api/os"
)

const (
	// handshakeLimit bounds one try to reach the API; under software emulation a
	// handshake alone takes seconds.
	handshakeLimit = 10 * time.Second
	// answerLimit bounds one answer.
	answerLimit = 30 * time.Second
)

// errOtherServer says that the certificate is not the one of the first meeting.
var errOtherServer = errors.New("the node shows another certificate than at the first meeting: start again with --fresh if it was installed anew")

// serverCert makes a TLS connection and gives the certificate that is shown, as PEM.
func serverCert(ctx context.Context, port int) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeLimit)
	defer cancel()
	// Trust on first use: nothing is sent on this connection.
	dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return nil, fmt.Errorf("reaching the API on port %d: %w", port, err)
	}
	defer func() { _ = conn.Close() }() // nothing was sent
	peers := conn.(*tls.Conn).ConnectionState().PeerCertificates
	if len(peers) == 0 {
		return nil, fmt.Errorf("reaching the API on port %d: no certificate was shown", port)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: peers[0].Raw}), nil
}

// ready asks GET /os/1.0, accepting the one server certificate, and tells whether
// the node has finished its start.
func ready(ctx context.Context, d dir, port int, server []byte) (bool, error) {
	pair, err := tls.LoadX509KeyPair(d.file("client.crt"), d.file("client.key"))
	if err != nil {
		return false, fmt.Errorf("reading the client certificate: %w", err)
	}
	block, _ := pem.Decode(server)
	if block == nil {
		return false, errors.New("reading the server certificate: not PEM")
	}
	config := &tls.Config{
		Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12,
		InsecureSkipVerify: true, // compared byte for byte below instead
		VerifyConnection: func(c tls.ConnectionState) error {
			if len(c.PeerCertificates) == 0 || !bytes.Equal(c.PeerCertificates[0].Raw, block.Bytes) {
				return errOtherServer
			}
			return nil
		},
	}
	client := http.Client{Timeout: answerLimit, Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("https://127.0.0.1:%d/os/1.0", port), nil)
	if err != nil {
		return false, fmt.Errorf("asking the API: %w", err)
	}
	response, err := client.Do(request)
	if err != nil {
		return false, fmt.Errorf("asking the API: %w", err)
	}
	defer func() { _ = response.Body.Close() }() // read to the end or given up
	return readyAnswer(io.LimitReader(response.Body, 1<<20))
}

// readyAnswer reads system_is_ready out of an answer.
func readyAnswer(r io.Reader) (bool, error) {
	var envelope api.Response
	if err := json.NewDecoder(r).Decode(&envelope); err != nil {
		return false, fmt.Errorf("reading the API's answer: %w", err)
	}
	if envelope.Type == "error" {
		return false, fmt.Errorf("asking the API: %s", envelope.Error)
	}
	var server api.Server
	if err := json.Unmarshal(envelope.Metadata, &server); err != nil {
		return false, fmt.Errorf("reading the API's answer: %w", err)
	}
	return server.Environment.SystemIsReady, nil
}

// knownServer gives the certificate saved at the first meeting, nil before it.
func knownServer(d dir) []byte {
	raw, err := os.ReadFile(d.file("server.crt"))
	if err != nil {
		return nil
	}
	return raw
}
