// Package octest is an Operations Center for tests, written from the description of its
// protocol. It is strict: a request that differs from the description is refused, and noted
// in Complaints, so that a client cannot get by with something near it.
//
// A Server is an http.Handler; with TLSConfig it serves HTTPS the way a manager does. It
// keeps what nodes told it, and can be told to fail (Fail).
package octest

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Release is one release that the server offers.
type Release struct {
	// UUID is the server's name for it, as "00000000-0000-4000-8000-000000000001".
	UUID string
	// Version is 12 digits.
	Version string
	// Channels are those that carry it.
	Channels []string
	// Pending is true for one whose files the server has not got.
	Pending bool
	// Files are in the order of the list.
	Files []File
}

// File is one file of a release.
type File struct {
	// Filename, Component, Type and Architecture are as in the protocol.
	Filename, Component, Type, Architecture string
	// Content is what is sent, packed with gzip.
	Content []byte
	// Size and SHA256 replace what is said of Content; zero and empty for the truth.
	Size   int64
	SHA256 string
}

// Node is a server that registered.
type Node struct {
	// Name, ConnectionURL, MachineID and SystemUUID are what it told.
	Name, ConnectionURL, MachineID, SystemUUID string
	// Certificate is the SHA-256 of its client certificate, hexadecimal; "local" when it
	// came over a connection without TLS.
	Certificate string
	// Reports are what it told later, oldest first.
	Reports []Report
}

// Report is what a node told of itself.
type Report struct{ ConnectionURL, Cause string }

// Fault makes the server answer otherwise.
type Fault struct {
	// Path is what a request's path must begin with; empty for every one.
	Path string
	// Times is how many requests it meets; 0 for all.
	Times int
	// Hold, when not nil, is waited for before anything else, or until the client goes.
	Hold <-chan struct{}
	// Status and Body are the answer; Status 0 lets the request through after Hold.
	Status int
	Body   string
	// Location is sent along when it is not empty.
	Location string
}

// Server is an Operations Center. Its methods may be called at the same time.
type Server struct {
	mu         sync.Mutex
	tokens     []string
	granted    string
	releases   []Release
	nodes      []Node
	faults     []Fault
	requests   []string
	complaints []string
}

// New makes one without tokens and releases. granted is the certificate, PEM, that it
// gives to a node that registers.
func New(granted string) *Server { return &Server{granted: granted} }

// TLSConfig is how a manager serves HTTPS: TLS 1.3, and any client certificate or none.
func TLSConfig(certificate tls.Certificate) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{certificate}, ClientAuth: tls.RequestClientCert}
}

// AddToken lets nodes register with it.
func (s *Server) AddToken(token string) { s.do(func() { s.tokens = append(s.tokens, token) }) }

// Publish offers a release before all others.
func (s *Server) Publish(r Release) {
	s.do(func() { s.releases = append([]Release{r}, s.releases...) })
}

// Fail adds a fault; the first that fits is taken.
func (s *Server) Fail(f Fault) { s.do(func() { s.faults = append(s.faults, f) }) }

// Heal removes every fault.
func (s *Server) Heal() { s.do(func() { s.faults = nil }) }

// Nodes are those that registered, oldest first.
func (s *Server) Nodes() (nodes []Node) {
	s.do(func() {
		for _, node := range s.nodes {
			node.Reports = append([]Report(nil), node.Reports...)
			nodes = append(nodes, node)
		}
	})
	return nodes
}

// Requests are method and path of all that came, oldest first.
func (s *Server) Requests() (all []string) {
	s.do(func() { all = append(all, s.requests...) })
	return all
}

// Complaints are what requests did that the protocol does not have; tokens are left out.
func (s *Server) Complaints() (all []string) {
	s.do(func() { all = append(all, s.complaints...) })
	return all
}

func (s *Server) do(what func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	what()
}

// refused is an answer with an error.
type refused struct {
	code int
	text string
	// odd is true for a request that the protocol does not have.
	odd bool
}

func (r *refused) Error() string { return r.text }

func odd(format string, args ...any) *refused {
	return &refused{code: http.StatusBadRequest, text: fmt.Sprintf(format, args...), odd: true}
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.do(func() { s.requests = append(s.requests, r.Method+" "+r.URL.Path) })
	if s.fail(w, r) {
		return
	}
	content, metadata, err := s.answer(r)
	var no *refused
	switch {
	case errors.As(err, &no):
		if no.odd {
			s.do(func() { s.complaints = append(s.complaints, r.Method+" "+r.URL.Path+": "+no.text) })
		}
		send(w, no.code, map[string]any{"type": "error", "error": no.text, "error_code": no.code, "status": "", "status_code": 0, "metadata": nil})
	case err != nil:
		send(w, http.StatusInternalServerError, map[string]any{"type": "error", "error": err.Error(), "error_code": http.StatusInternalServerError})
	case content != nil:
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		write(w, content)
	default:
		send(w, http.StatusOK, map[string]any{"type": "sync", "status": "Success", "status_code": http.StatusOK, "error": "", "error_code": 0, "operation": "", "metadata": metadata})
	}
}

func send(w http.ResponseWriter, code int, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		code, text = http.StatusInternalServerError, []byte(`{"type":"error","error":"encoding the answer"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	write(w, text)
}

// write sends what a client that went away need not get.
func write(w io.Writer, text []byte) { _, _ = w.Write(text) }

// fail carries out the first fault that fits, and tells whether the request is answered.
func (s *Server) fail(w http.ResponseWriter, r *http.Request) bool {
	var fault *Fault
	s.do(func() {
		for i, f := range s.faults {
			if !strings.HasPrefix(r.URL.Path, f.Path) {
				continue
			}
			fault = &f
			switch f.Times {
			case 0:
			case 1:
				s.faults = append(s.faults[:i:i], s.faults[i+1:]...)
			default:
				s.faults[i].Times--
			}
			return
		}
	})
	if fault == nil {
		return false
	}
	if fault.Hold != nil {
		select {
		case <-fault.Hold:
		case <-r.Context().Done():
			return true
		}
	}
	if fault.Status == 0 {
		return false
	}
	if fault.Location != "" {
		w.Header().Set("Location", fault.Location)
	}
	w.WriteHeader(fault.Status)
	write(w, []byte(fault.Body))
	return true
}

const base = "/1.0/provisioning/"

// answer gives a file's content, or what stands in the envelope.
func (s *Server) answer(r *http.Request) (content []byte, metadata any, err error) {
	if r.UserAgent() == "" || strings.HasPrefix(r.UserAgent(), "Go-http-client") {
		return nil, nil, odd("no User-Agent of its own")
	}
	path, ours := strings.CutPrefix(r.URL.Path, base)
	if !ours {
		return nil, nil, odd("no such path")
	}
	switch {
	case r.Method == http.MethodGet && path == "updates":
		if r.URL.RawQuery != "recursion=1" {
			return nil, nil, odd("the query is not recursion=1")
		}
		metadata, err = s.list(), noBody(r)
	case r.Method == http.MethodGet && strings.HasPrefix(path, "updates/"):
		if err := errors.Join(noQuery(r), noBody(r)); err != nil {
			return nil, nil, err
		}
		return s.files(strings.TrimPrefix(path, "updates/"))
	case r.Method == http.MethodPost && (path == "servers" || path == "servers/:self_register"):
		metadata, err = s.register(r, path == "servers")
	case r.Method == http.MethodPut && path == "servers/:self":
		metadata, err = map[string]any{}, s.report(r)
	default:
		return nil, nil, odd("no such method and path")
	}
	return nil, metadata, err
}

func noQuery(r *http.Request) error {
	if r.URL.RawQuery != "" {
		return odd("a query where none belongs")
	}
	return nil
}

func noBody(r *http.Request) error {
	if n, err := io.Copy(io.Discard, io.LimitReader(r.Body, 1)); n > 0 || err != nil {
		return odd("a body where none belongs")
	}
	return nil
}

func (s *Server) list() []map[string]any {
	all := []map[string]any{}
	s.do(func() {
		for _, r := range s.releases {
			status := "ready"
			if r.Pending {
				status = "pending"
			}
			all = append(all, map[string]any{"uuid": r.UUID, "version": r.Version, "channels": r.Channels, "origin": "octest", "severity": "low",
				"published_at": time.Date(2026, 11, 22, 1, 4, 0, 0, time.UTC), "changelog": "", "url": "", "update_status": status})
		}
	})
	return all
}

// files answers <uuid>/files and <uuid>/files/<filename>.
func (s *Server) files(path string) (content []byte, metadata any, err error) {
	uuid, rest, _ := strings.Cut(path, "/")
	err = &refused{code: http.StatusNotFound, text: "not found"}
	s.do(func() {
		for _, r := range s.releases {
			if r.UUID != uuid {
				continue
			}
			if rest == "files" {
				metadata, err = describe(r.Files), nil
				return
			}
			for _, f := range r.Files {
				if rest == "files/"+f.Filename {
					content, err = f.Content, nil
				}
			}
		}
	})
	return content, metadata, err
}

func describe(files []File) []map[string]any {
	all := []map[string]any{}
	for _, f := range files {
		sum := sha256.Sum256(f.Content)
		size, digits := int64(len(f.Content)), hex.EncodeToString(sum[:])
		if f.Size != 0 {
			size = f.Size
		}
		if f.SHA256 != "" {
			digits = f.SHA256
		}
		all = append(all, map[string]any{"filename": f.Filename, "size": size, "component": f.Component, "type": f.Type,
			"architecture": f.Architecture, "sha256": digits})
	}
	return all
}

// register takes a node in. One certificate is one node.
func (s *Server) register(r *http.Request, byToken bool) (any, error) {
	if err := s.checkToken(r, byToken); err != nil {
		return nil, err
	}
	var body struct {
		Name          string `json:"name"`
		ConnectionURL string `json:"connection_url"`
		MachineID     string `json:"machine_id"`
		SystemUUID    string `json:"system_uuid"`
	}
	if err := read(r, &body); err != nil {
		return nil, err
	}
	if body.Name == "" || !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(body.MachineID) {
		return nil, odd("no name, or no machine ID of 32 hexadecimal digits")
	}
	if err := checkURL(body.ConnectionURL); err != nil {
		return nil, err
	}
	who, err := whoIs(r)
	if err != nil {
		return nil, err
	}
	var answer error
	s.do(func() {
		for _, node := range s.nodes {
			if node.Certificate == who || node.Name == body.Name {
				answer = &refused{code: http.StatusConflict, text: "the server is registered already"}
				return
			}
		}
		s.nodes = append(s.nodes, Node{Name: body.Name, ConnectionURL: body.ConnectionURL, MachineID: body.MachineID, SystemUUID: body.SystemUUID, Certificate: who})
	})
	return map[string]any{"certificate": s.granted}, answer
}

func (s *Server) checkToken(r *http.Request, byToken bool) error {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return odd("an unreadable query")
	}
	token := query.Get("token")
	if !byToken {
		if r.TLS != nil || len(query) > 0 {
			return odd("self-registration is for the local socket, and has no query")
		}
		return nil
	}
	if len(query) != 1 || len(query["token"]) != 1 {
		return odd("the query is not one token")
	}
	known := 0
	s.do(func() {
		for _, t := range s.tokens {
			known |= subtle.ConstantTimeCompare([]byte(t), []byte(token))
		}
	})
	if known == 0 {
		// A manager may well repeat what it was sent.
		return &refused{code: http.StatusForbidden, text: fmt.Sprintf("token %q is not valid", token)}
	}
	return nil
}

// whoIs tells nodes apart by their client certificate.
func whoIs(r *http.Request) (string, error) {
	if r.TLS == nil {
		return "local", nil
	}
	if r.TLS.Version < tls.VersionTLS13 {
		return "", odd("TLS before 1.3")
	}
	if len(r.TLS.PeerCertificates) == 0 {
		return "", &refused{code: http.StatusForbidden, text: "no client certificate"}
	}
	sum := sha256.Sum256(r.TLS.PeerCertificates[0].Raw)
	return hex.EncodeToString(sum[:]), nil
}

var causes = map[string]bool{"": true, "network-config-changed": true, "system-is-ready": true, "os-update-applied": true,
	"application-update-applied": true, "storage-config-changed": true, "system-reboot-triggered": true, "system-shutdown-triggered": true,
	"network-interface-state-changed": true, "secure-boot-update-applied": true, "suspend-triggered": true}

func (s *Server) report(r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	var body struct {
		ConnectionURL string `json:"connection_url"`
		Cause         string `json:"cause"`
	}
	if err := read(r, &body); err != nil {
		return err
	}
	if !causes[body.Cause] {
		return odd("unknown cause")
	}
	if err := checkURL(body.ConnectionURL); err != nil {
		return err
	}
	who, err := whoIs(r)
	if err != nil {
		return err
	}
	var answer error = &refused{code: http.StatusForbidden, text: "not registered"}
	s.do(func() {
		for i := range s.nodes {
			if s.nodes[i].Certificate == who {
				s.nodes[i].ConnectionURL = body.ConnectionURL
				s.nodes[i].Reports = append(s.nodes[i].Reports, Report{body.ConnectionURL, body.Cause})
				answer = nil
			}
		}
	})
	return answer
}

// read decodes a body that must hold one document of known fields.
func read(r *http.Request, into any) error {
	if r.Header.Get("Content-Type") != "application/json" {
		return odd("the body is not declared as application/json")
	}
	decoder := json.NewDecoder(io.LimitReader(r.Body, 1<<20))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return odd("unreadable body: %s", err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return odd("something behind the body")
	}
	return nil
}

func checkURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Port() == "" || u.Path != "" {
		return odd("the connection URL is not https://HOST:PORT")
	}
	return nil
}
