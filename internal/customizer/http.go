package customizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/holdfast-os/holdfast/internal/config"
)

// maxBody bounds a request, in bytes.
const maxBody = 1 << 20

// route is one operation of the API.
type route struct {
	method, path string
	// shared lets pages of other origins use it.
	shared bool
	serve  func(w http.ResponseWriter, r *http.Request) error
}

func (s *Service) routes() *http.ServeMux {
	table := []route{
		{"GET", "/{$}", false, s.root},
		{"GET", "/1.0", false, func(w http.ResponseWriter, _ *http.Request) error { return answer(w, struct{}{}) }},
		{"GET", "/1.0/certificate", false, s.certificate},
		{"GET", "/1.0/oidc", false, s.oidc},
		{"GET", "/1.0/releases", true, s.releases},
		{"POST", "/1.0/choices", true, s.postChoice},
		{"POST", "/1.0/images", true, s.postImage},
		{"GET", "/1.0/images/{id}", true, s.getImage},
		{"POST", "/1.0/updates", true, s.postUpdate},
		{"GET", "/1.0/files/{id}", true, s.getFile},
		{"GET", "/boot/{name}", false, s.getBoot},
		{"GET", "/ui", false, func(w http.ResponseWriter, r *http.Request) error {
			http.Redirect(w, r, "/ui/", http.StatusMovedPermanently)
			return nil
		}},
		{"GET", "/ui/{file...}", false, servePage},
	}
	mux := http.NewServeMux()
	methods := map[string][]string{}
	shared := map[string]bool{}
	for _, route := range table {
		mux.HandleFunc(route.method+" "+route.path, func(w http.ResponseWriter, r *http.Request) {
			if route.shared {
				share(w)
			}
			if err := route.serve(w, r); err != nil {
				s.refuse(w, r, err)
			}
		})
		methods[route.path] = append(methods[route.path], route.method)
		shared[route.path] = shared[route.path] || route.shared
	}
	for path, allowed := range methods {
		if slices.Contains(allowed, "GET") {
			allowed = append(allowed, "HEAD")
		}
		allow := strings.Join(append(allowed, "OPTIONS"), ", ")
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Allow", allow)
			if r.Method != http.MethodOptions {
				s.refuse(w, r, coded(http.StatusMethodNotAllowed, fmt.Errorf("%s is not possible here", r.Method)))
				return
			}
			if shared[path] {
				share(w)
				w.Header().Set("Access-Control-Allow-Methods", allow)
				w.Header().Set("Access-Control-Allow-Headers", "Content-Type, Range, If-Range")
				w.Header().Set("Access-Control-Max-Age", "86400")
			}
			w.WriteHeader(http.StatusNoContent)
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.refuse(w, r, coded(http.StatusNotFound, errors.New("not found")))
	})
	return mux
}

// share lets pages of any origin read the answer; it holds nothing of a person's own login.
func share(w http.ResponseWriter) {
	w.Header().Set("Access-Control-Allow-Origin", "*")
	w.Header().Set("Access-Control-Expose-Headers", "Content-Disposition, Content-Length, Content-Range, ETag")
}

// statusError is an error with its HTTP code.
type statusError struct {
	code int
	err  error
}

func (e *statusError) Error() string { return e.err.Error() }
func (e *statusError) Unwrap() error { return e.err }

func coded(code int, err error) error { return &statusError{code, err} }

// envelope is the answer in the form of Incus.
type envelope struct {
	Type       string `json:"type"`
	Status     string `json:"status"`
	StatusCode int    `json:"status_code"`
	Operation  string `json:"operation"`
	ErrorCode  int    `json:"error_code"`
	Error      string `json:"error"`
	Metadata   any    `json:"metadata"`
}

func answer(w http.ResponseWriter, metadata any) error {
	return write(w, http.StatusOK, envelope{Type: "sync", Status: "Success", StatusCode: http.StatusOK, Metadata: metadata})
}

func write(w http.ResponseWriter, code int, e envelope) error {
	text, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	// An error here is a client that has left: nobody reads another answer.
	_, _ = w.Write(append(text, '\n'))
	return nil
}

// problem is one thing wrong with a choice, in an answer.
type problem struct {
	// Path is the field's, as "seeds.install.target.min_size".
	Path string `json:"path"`
	// Rule names what was broken.
	Rule string `json:"rule"`
	// Text says what is wrong, and what would be right.
	Text string `json:"text"`
}

func problemsOf(err error) []problem {
	all := []problem{}
	var many config.Problems
	if errors.As(err, &many) {
		for _, p := range many[:min(len(many), 100)] {
			all = append(all, problem{p.Path, p.Rule, p.Text})
		}
	}
	return all
}

// refuse answers with an error. What is wrong with a request is told; what is wrong with
// this computer goes to the log alone.
func (s *Service) refuse(w http.ResponseWriter, r *http.Request, err error) {
	code := http.StatusInternalServerError
	var known *statusError
	var wrong config.Problems
	var large *http.MaxBytesError
	var metadata any
	switch {
	case errors.As(err, &large):
		code, err = http.StatusRequestEntityTooLarge, fmt.Errorf("the request is larger than %d bytes", maxBody)
	case errors.As(err, &wrong):
		code, metadata = http.StatusBadRequest, map[string]any{"problems": problemsOf(err)}
	case errors.Is(err, errNoRelease):
		code = http.StatusNotFound
	case errors.Is(err, errFull):
		code = http.StatusServiceUnavailable
	case errors.As(err, &known):
		code = known.code
	case r.Context().Err() != nil:
		return // the client has left
	}
	text := err.Error()
	if code == http.StatusInternalServerError {
		s.o.Log.Error("a request failed", "path", forLog(r.URL.Path), "error", err)
		text = "the service could not do this: its log says why"
	}
	if code == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "30")
	}
	for _, name := range []string{"Content-Encoding", "Content-Disposition", "Content-Length", "ETag"} {
		w.Header().Del(name)
	}
	if err := write(w, code, envelope{Type: "error", ErrorCode: code, Error: text, Metadata: metadata}); err != nil {
		s.o.Log.Error("answering", "error", err)
	}
}

// body reads a request to its end.
func body(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return nil, err
		}
		return nil, coded(http.StatusBadRequest, fmt.Errorf("reading the request: %w", err))
	}
	return data, nil
}

// loggedWriter notes what was answered, and lets sendfile through.
type loggedWriter struct {
	http.ResponseWriter
	status int
	sent   int64
}

func (l *loggedWriter) Unwrap() http.ResponseWriter { return l.ResponseWriter }

func (l *loggedWriter) WriteHeader(code int) {
	if l.status == 0 {
		l.status = code
	}
	l.ResponseWriter.WriteHeader(code)
}

func (l *loggedWriter) Write(b []byte) (int, error) {
	if l.status == 0 {
		l.status = http.StatusOK
	}
	n, err := l.ResponseWriter.Write(b)
	l.sent += int64(n)
	return n, err
}

// ReadFrom is io.ReaderFrom.
func (l *loggedWriter) ReadFrom(src io.Reader) (int64, error) {
	if l.status == 0 {
		l.status = http.StatusOK
	}
	n, err := io.Copy(l.ResponseWriter, src)
	l.sent += n
	return n, err
}

// forLog is a path without what makes a one-shot link work.
func forLog(path string) string {
	if rest, ok := strings.CutPrefix(path, "/1.0/files/"); ok {
		return "/1.0/files/" + shorten(rest, 8)
	}
	return shorten(path, 200)
}

func shorten(text string, length int) string {
	if len(text) <= length {
		return text
	}
	return strings.ToValidUTF8(text[:length], "") + "..."
}
