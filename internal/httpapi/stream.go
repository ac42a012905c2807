package httpapi

import (
	"net/http"
	"runtime/debug"
	"time"
)

// noting is a writer that notes the status of what is written. What else the writer below
// can do is found with http.ResponseController.
type noting struct {
	http.ResponseWriter
	code int
}

func (n *noting) Unwrap() http.ResponseWriter { return n.ResponseWriter }

func (n *noting) WriteHeader(code int) {
	if n.code == 0 && (code >= 200 || code == http.StatusSwitchingProtocols) {
		n.code = code
	}
	n.ResponseWriter.WriteHeader(code)
}

func (n *noting) Write(b []byte) (int, error) {
	if n.code == 0 {
		n.code = http.StatusOK
	}
	return n.ResponseWriter.Write(b)
}

// stream runs a handler that writes its answer itself, and gives what came of it.
func (s *Server) stream(stream Stream, w http.ResponseWriter, r *http.Request) (code int, failure error) {
	to := &noting{ResponseWriter: w}
	err := s.streamSafely(stream, to, r)
	switch {
	case err == nil && to.code == 0:
		return http.StatusOK, nil // net/http sends it for a handler that writes nothing
	case err == nil || to.code == http.StatusSwitchingProtocols:
		if err != nil {
			s.log.Debug("a connection has ended", "path", r.URL.Path, "error", err)
		}
		return to.code, nil
	case to.code >= http.StatusBadRequest:
		s.logFailure(r, err)
		return to.code, err
	case to.code == 0:
		s.logFailure(r, err)
		writeError(w, err)
		return Code(err), err
	}
	s.log.Error("an answer is broken off", "method", r.Method, "path", r.URL.Path, "error", err)
	// The end of the answer is never sent: net/http cannot flush it any more.
	if err := http.NewResponseController(w).SetWriteDeadline(time.Unix(1, 0)); err != nil {
		s.log.Error("breaking off an answer", "path", r.URL.Path, "error", err)
	}
	return http.StatusInternalServerError, err
}

// streamSafely turns a panic into an error.
func (s *Server) streamSafely(stream Stream, w http.ResponseWriter, r *http.Request) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			s.log.Error("stream panicked", "path", r.URL.Path, "cause", cause, "stack", string(debug.Stack()))
			err = Internal("the node made a mistake in %s %s: see /1.0/debug/log", r.Method, r.URL.Path)
		}
	}()
	return stream(w, r)
}
