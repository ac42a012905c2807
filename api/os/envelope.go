package os

import "encoding/json"

// Response is the envelope around every answer, in the wire format of Incus.
type Response struct {
	// Type is "sync" for a finished request, "async" for one that goes on as an operation,
	// and "error" for a refused one.
	Type string `json:"type"`
	// Status is "Success" for a finished request and empty for an error.
	Status string `json:"status"`
	// StatusCode is 200 for a finished request and 0 for an error.
	StatusCode int `json:"status_code"`
	// Operation is the path of a background operation, for type "async"; otherwise empty.
	Operation string `json:"operation"`
	// ErrorCode is the HTTP status of an error, and 0 for a finished request.
	ErrorCode int `json:"error_code"`
	// Error says what was wrong, where, and what to do; empty on success.
	Error string `json:"error"`
	// Metadata is the answer itself: {} when there is nothing to say, null for an error.
	Metadata json.RawMessage `json:"metadata"`
}
