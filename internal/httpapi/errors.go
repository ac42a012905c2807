package httpapi

import (
	"errors"
	"fmt"
	"net/http"
)

// Error is a refusal with its HTTP code.
type Error struct {
	// Code is the HTTP status.
	Code int
	// Err says what was wrong with what, and what to do.
	Err error
}

func (e *Error) Error() string { return e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// WithCode gives an error an HTTP code.
func WithCode(code int, err error) error { return &Error{Code: code, Err: err} }

// BadRequest is 400: the request itself is wrong.
func BadRequest(format string, args ...any) error {
	return WithCode(http.StatusBadRequest, fmt.Errorf(format, args...))
}

// Forbidden is 403: not from here.
func Forbidden(format string, args ...any) error {
	return WithCode(http.StatusForbidden, fmt.Errorf(format, args...))
}

// NotFound is 404: no such thing.
func NotFound(format string, args ...any) error {
	return WithCode(http.StatusNotFound, fmt.Errorf(format, args...))
}

// Conflict is 409: it exists already, or something else is going on.
func Conflict(format string, args ...any) error {
	return WithCode(http.StatusConflict, fmt.Errorf(format, args...))
}

// PreconditionFailed is 412: the resource is not what If-Match says.
func PreconditionFailed(format string, args ...any) error {
	return WithCode(http.StatusPreconditionFailed, fmt.Errorf(format, args...))
}

// Internal is 500: the node could not do it.
func Internal(format string, args ...any) error {
	return WithCode(http.StatusInternalServerError, fmt.Errorf(format, args...))
}

// NotImplemented is 501: this node cannot do that.
func NotImplemented(format string, args ...any) error {
	return WithCode(http.StatusNotImplemented, fmt.Errorf(format, args...))
}

// Unavailable is 503: not now, try again.
func Unavailable(format string, args ...any) error {
	return WithCode(http.StatusServiceUnavailable, fmt.Errorf(format, args...))
}

// Code gives the HTTP status for an error: 500 when the error names none.
func Code(err error) int {
	var refused *Error
	if errors.As(err, &refused) {
		return refused.Code
	}
	return http.StatusInternalServerError
}
