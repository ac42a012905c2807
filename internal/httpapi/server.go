package httpapi

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
)

var prefixForm = regexp.MustCompile(`^(/[A-Za-z0-9._-]+){0,4}$`)

// Server answers requests by a table of routes.
type Server struct {
	routes    []Route
	resources []*resource
	log       *slog.Logger
	after     context.Context

	// Observe is told of each request once it is answered; nil tells nobody. It is set
	// before the first request.
	Observe func(Seen)
}

// New makes a server. The context is that of work that goes on after an answer; log
// gets failures of handlers and every change. A table with a repeated or incomplete
// route is an error.
func New(ctx context.Context, routes []Route, log *slog.Logger) (*Server, error) {
	all, err := resources(routes)
	if err != nil {
		return nil, err
	}
	return &Server{routes: routes, resources: all, log: log, after: ctx}, nil
}

// Routes gives the table.
func (s *Server) Routes() []Route { return s.routes }

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	started := time.Now()
	seen := &Seen{HTTP: r, Caller: caller(r), From: from(r), Code: http.StatusOK}
	made := &atomic.Int64{}
	answer, err := s.safely(r, seen, made)
	if s.Observe != nil {
		if err != nil {
			seen.Code, seen.Err = Code(err), err
		}
		defer func() {
			seen.Took, seen.Change = time.Since(started), int(made.Load())
			s.Observe(*seen)
		}()
	}
	if stream, ok := answer.(Stream); ok && err == nil {
		seen.Code, seen.Err = s.stream(stream, w, r)
		return
	}
	if err != nil {
		s.logFailure(r, err)
		writeError(w, err)
		return
	}
	if r.Method != http.MethodGet {
		s.log.Info("request", "method", r.Method, "path", r.URL.Path, "duration", time.Since(started).Round(time.Millisecond))
	}
	var after func(context.Context)
	if a, ok := answer.(After); ok {
		answer, after = a.Answer, a.Do
	}
	if err := writeAnswer(w, r, answer); err != nil {
		s.logFailure(r, err)
	}
	if after != nil {
		s.background(w, r, after)
	}
}

// background starts work behind an answer. The answer is on its way before.
func (s *Server) background(w http.ResponseWriter, r *http.Request, do func(context.Context)) {
	if err := http.NewResponseController(w).Flush(); err != nil {
		s.log.Debug("flushing an answer", "path", r.URL.Path, "error", err)
	}
	go func() {
		defer func() {
			if cause := recover(); cause != nil {
				s.log.Error("background work panicked", "path", r.URL.Path, "cause", cause, "stack", string(debug.Stack()))
			}
		}()
		do(s.after)
	}()
}

// safely turns a panic into an error.
func (s *Server) safely(r *http.Request, seen *Seen, made *atomic.Int64) (answer any, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			s.log.Error("request panicked", "method", r.Method, "path", r.URL.Path, "cause", cause, "stack", string(debug.Stack()))
			err = Internal("the node made a mistake in %s %s: see /1.0/debug/log", r.Method, r.URL.Path)
		}
	}()
	return s.serve(r, seen, made)
}

func (s *Server) serve(r *http.Request, seen *Seen, made *atomic.Int64) (any, error) {
	prefix, proxied := proxyPrefix(r)
	if !prefixForm.MatchString(prefix) {
		return nil, BadRequest("header %s: %q is not a path", ProxyHeader, prefix)
	}
	if proxied && strings.HasPrefix(r.URL.Path, "/internal/") {
		return nil, Forbidden("%s can only be called on the node's own socket", r.URL.Path)
	}
	res, vars := find(s.resources, r.URL.EscapedPath())
	if res == nil {
		if r.Method == http.MethodGet {
			return nil, NotFound("no such path: %s", r.URL.Path)
		}
		return nil, NotImplemented("no such path: %s %s", r.Method, r.URL.Path)
	}
	route := res.methods[r.Method]
	if route == nil {
		return nil, NotImplemented("%s does not support %s", r.URL.Path, r.Method)
	}
	seen.Route = route
	if route.Access == SocketOnly && proxied {
		return nil, Forbidden("%s can only be called on the node's own socket", r.URL.Path)
	}
	if route.Later != "" {
		return nil, NotImplemented("%s %s is not there yet: %s", r.Method, route.Path, route.Later)
	}
	request := &Request{HTTP: r, Prefix: prefix, vars: vars, made: made}
	request.match = func() error { return res.checkMatch(request) }
	if route.Request != nil {
		body, err := readBody(route, r)
		if err != nil {
			return nil, err
		}
		request.body = body
	}
	if r.Method == http.MethodPut && !route.OwnMatch {
		res.change.Lock()
		defer res.change.Unlock()
		if err := res.checkMatch(request); err != nil {
			return nil, err
		}
	}
	return route.Handler(request)
}

// checkMatch refuses a change of a resource that is not what the caller has seen.
func (res *resource) checkMatch(r *Request) error {
	want := r.HTTP.Header.Get("If-Match")
	if want == "" || strings.TrimSpace(want) == "*" {
		return nil
	}
	read := res.methods[http.MethodGet]
	if read == nil || read.Handler == nil {
		return PreconditionFailed("%s cannot be read, so If-Match cannot hold", r.HTTP.URL.Path)
	}
	now, err := read.Handler(&Request{HTTP: r.HTTP, Prefix: r.Prefix, vars: r.vars})
	if err != nil {
		return err
	}
	metadata, err := encode(tagged(now))
	if err != nil {
		return err
	}
	tag := etag(metadata)
	for one := range strings.SplitSeq(want, ",") {
		if strings.TrimSpace(one) == tag {
			return nil
		}
	}
	return PreconditionFailed("%s has changed since it was read: read it again, then send the change", r.HTTP.URL.Path)
}

func proxyPrefix(r *http.Request) (string, bool) {
	values, proxied := r.Header[http.CanonicalHeaderKey(ProxyHeader)]
	if len(values) == 0 {
		return "", proxied
	}
	return strings.TrimSuffix(values[0], "/"), true
}

func (s *Server) logFailure(r *http.Request, err error) {
	level := slog.LevelInfo
	if Code(err) == http.StatusInternalServerError {
		level = slog.LevelError
	}
	s.log.Log(r.Context(), level, "request refused", "method", r.Method, "path", r.URL.Path, "code", Code(err), "error", err)
}

func encode(metadata any) (json.RawMessage, error) {
	if metadata == nil {
		return json.RawMessage("{}"), nil
	}
	text, err := json.Marshal(metadata)
	if err != nil {
		return nil, fmt.Errorf("encoding the answer: %w", err)
	}
	return text, nil
}

func etag(metadata []byte) string {
	return fmt.Sprintf(`"%x"`, sha256.Sum256(metadata))
}

// tagged is the part of an answer that its ETag is of.
func tagged(answer any) any {
	if t, ok := answer.(Tagged); ok {
		return t.Tag
	}
	return answer
}

type callerKey struct{}

// WithCaller notes the fingerprint of the certificate by which a listener knows the caller.
func WithCaller(r *http.Request, fingerprint string) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), callerKey{}, fingerprint))
}

func caller(r *http.Request) string {
	if fingerprint, ok := r.Context().Value(callerKey{}).(string); ok && fingerprint != "" {
		return fingerprint
	}
	if _, proxied := proxyPrefix(r); proxied {
		return "application"
	}
	return "local"
}

// from is the address of the caller. What stands in a header is what the caller's own
// proxies say, except for the last one, which the application has added.
func from(r *http.Request) string {
	if _, proxied := proxyPrefix(r); !proxied {
		return ""
	}
	all := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	if last := strings.TrimSpace(all[len(all)-1]); last != "" {
		return last
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return ""
	}
	return host
}

func writeAnswer(w http.ResponseWriter, r *http.Request, answer any) error {
	if raw, ok := answer.(Raw); ok {
		w.Header().Set("Content-Type", raw.ContentType)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_, err := w.Write(raw.Body)
		return err
	}
	if async, ok := answer.(Async); ok {
		return writeAsync(w, async)
	}
	tag := tagged(answer)
	if t, ok := answer.(Tagged); ok {
		answer = t.Answer
	}
	metadata, err := encode(answer)
	if err != nil {
		writeError(w, err)
		return err
	}
	if r.Method == http.MethodGet {
		of, err := encode(tag)
		if err != nil {
			writeError(w, err)
			return err
		}
		w.Header().Set("ETag", etag(of))
	}
	return writeMetadata(w, metadata)
}

// What stands around the metadata of a finished request; see osapi.Response.
const (
	envelopeHead = `{"type":"sync","status":"Success","status_code":200,"operation":"","error_code":0,"error":"","metadata":`
	envelopeTail = "}\n"
)

// writeMetadata puts the envelope around JSON that is there already: encoding it once more
// took up to a quarter of a request.
func writeMetadata(w http.ResponseWriter, metadata json.RawMessage) error {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(http.StatusOK)
	answer := make([]byte, 0, len(envelopeHead)+len(metadata)+len(envelopeTail))
	answer = append(append(append(answer, envelopeHead...), metadata...), envelopeTail...)
	_, err := w.Write(answer)
	return err
}

// operationCreated is Incus' status code for an operation that has begun.
const operationCreated = 100

func writeAsync(w http.ResponseWriter, async Async) error {
	metadata, err := encode(async.Answer)
	if err != nil {
		writeError(w, err)
		return err
	}
	w.Header().Set("Location", async.Path)
	return writeEnvelope(w, http.StatusAccepted, osapi.Response{
		Type: "async", Status: "Operation created", StatusCode: operationCreated, Operation: async.Path, Metadata: metadata,
	})
}

func writeError(w http.ResponseWriter, err error) {
	code := Code(err)
	// A caller that has gone away is the only one who does not get this.
	_ = writeEnvelope(w, code, osapi.Response{
		Type: "error", ErrorCode: code, Error: shortened(err.Error()), Metadata: json.RawMessage("null"),
	})
}

// maxError is how long the text of an error may be, in bytes.
const maxError = 64 << 10

// shortened keeps the beginning of an error that repeats too much of a body.
func shortened(text string) string {
	if len(text) <= maxError {
		return text
	}
	return strings.ToValidUTF8(text[:maxError], "") + fmt.Sprintf(" ... (%d bytes more)", len(text)-maxError)
}

func writeEnvelope(w http.ResponseWriter, code int, response osapi.Response) error {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	return json.NewEncoder(w).Encode(response)
}
