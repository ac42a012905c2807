// Package httpapi serves an API that is written down as a table of routes.
//
// The table is the one owner of what the API is: the server, the reference pages and
// the tests all walk it. Answers are in the envelope of Incus (api/os.Response).
//
// What holds for every route, and therefore stands here and not in handlers:
//
//   - A body is read strictly: at most MaxBody bytes, at most maxDepth levels, no
//     unknown or repeated field, nothing behind the value. Each refusal says where.
//   - Every GET carries an ETag: the SHA-256 of its metadata, or of that part of it which
//     a PUT replaces (Tagged). A PUT with If-Match is refused with 412 when the resource
//     has changed since. Changes of one resource follow one another; a route with
//     OwnMatch looks at If-Match itself, under a lock of its own.
//   - An unknown path is 404 for GET and 501 otherwise, a wrong method on a known path
//     is 501: this is what clients of IncusOS are used to.
//   - The header X-IncusOS-Proxy marks a request that came over the network, through an
//     application. Its value goes in front of paths in answers, and routes with access
//     SocketOnly refuse such a request.
//   - A handler that panics answers 500 and the log has the place.
package httpapi

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"
)

// ProxyHeader marks a request that came through an application and holds the prefix
// under which the caller sees this API.
const ProxyHeader = "X-IncusOS-Proxy"

// DefaultMaxBody is the largest request body where a route names no other, in bytes.
const DefaultMaxBody = 1 << 20

// Access says from where a route may be called.
type Access int

const (
	// Any is the unix socket, and the network through an application that has checked
	// the caller.
	Any Access = iota
	// SocketOnly is the unix socket alone: root on the node.
	SocketOnly
)

func (a Access) String() string {
	if a == SocketOnly {
		return "socket"
	}
	return "any"
}

// Route is one line of the table.
type Route struct {
	// Method is GET, PUT, POST or DELETE.
	Method string
	// Path is absolute; a segment "{name}" stands for any text without a slash that does
	// not begin with a colon.
	Path string
	// Access is from where it may be called; default Any.
	Access Access
	// Doc says in one line what the route does.
	Doc string
	// Request is a value of the type of the body; nil when there is no body to read.
	Request any
	// Response is a value of the type of the answer's metadata; nil for {}. It is for the
	// reference pages and the tests; what is sent is what Handler gives.
	Response any
	// Query are the parameters that may stand behind the question mark.
	Query []Param
	// EmptyBody allows a request without body, which then is the zero value.
	EmptyBody bool
	// OwnMatch leaves If-Match to the handler (Request.Match), which has a lock over more
	// than this resource.
	OwnMatch bool
	// MaxBody is the largest body in bytes; default DefaultMaxBody.
	MaxBody int64
	// Later says why a route that IncusOS has is not there yet: it answers 501 with
	// this text. Handler is nil then.
	Later string
	// Handler gives the metadata of the answer: any value that can be JSON, a Tagged, a
	// Raw, a Stream, an After, an Async, or nil for {}. An error made by this package's helpers sets the HTTP code;
	// any other is 500.
	Handler func(*Request) (any, error)
}

// Param is one parameter of a request's query.
type Param struct {
	// Name is what stands before the equals sign.
	Name string
	// Doc says in one line what it does, with its default.
	Doc string
	// Example is a value that works.
	Example string
}

// Request is what a handler gets.
type Request struct {
	// HTTP is the request as it came. Its body has been read when the route has a Request.
	HTTP *http.Request
	// Prefix goes in front of paths in the answer, as "/os"; empty on the socket.
	Prefix string

	vars  map[string]string
	body  any
	match func() error
	// made is the number of the change; work that goes on behind the answer may set it.
	made *atomic.Int64
}

// Context ends when the caller goes away.
func (r *Request) Context() context.Context { return r.HTTP.Context() }

// Var gives the part of the path that stands for "{name}".
func (r *Request) Var(name string) string { return r.vars[name] }

// Query gives a parameter behind the question mark; empty when it is not there.
func (r *Request) Query(name string) string { return r.HTTP.URL.Query().Get(name) }

// URL gives a path of this API as the caller sees it.
func (r *Request) URL(path string) string { return r.Prefix + path }

// URLs gives the paths of the members of a collection as the caller sees them; never nil.
func (r *Request) URLs(collection string, names ...string) []string {
	urls := make([]string, 0, len(names))
	for _, name := range names {
		urls = append(urls, r.URL(collection+"/"+name))
	}
	return urls
}

// Body gives the decoded body. T must be the type of the route's Request; another type
// is a mistake in the table and panics.
func Body[T any](r *Request) *T { return r.body.(*T) }

// Match looks whether the resource still is what the caller's If-Match says; without that
// header it is.
func (r *Request) Match() error { return r.match() }

// Caller says who sends the request: the fingerprint of the certificate that the fallback
// listener has seen, "application" through an application, which has checked the caller
// and does not say who it was, and "local" on the socket.
func (r *Request) Caller() string { return caller(r.HTTP) }

// Made notes the number of the configuration's change that the request has made, for an
// observer.
func (r *Request) Made(change int) { r.made.Store(int64(change)) }

// Tagged is an answer whose ETag is that of a part of it, as the configuration without
// the state.
type Tagged struct {
	// Answer is the metadata.
	Answer any
	// Tag is the part that a PUT replaces.
	Tag any
}

// Stream is an answer that the handler writes itself, as a websocket or a long download. An
// error before the first byte is answered as that of a handler. Behind it the answer is
// broken off, so that nobody takes half of it for the whole. Of a connection that was taken
// over (101), and of a stream that has answered with a status of 400 or more, the error is
// only why it ended.
type Stream func(w http.ResponseWriter, r *http.Request) error

// Async is an answer that names an operation which goes on: HTTP 202, type "async".
type Async struct {
	// Path is the operation's, as "/1.0/operations/UUID".
	Path string
	// Answer is the operation itself.
	Answer any
}

// Seen is what an observer is told of each request once it is answered.
type Seen struct {
	// HTTP is the request; its body has been read.
	HTTP *http.Request
	// Route is nil when the path or the method is none of the table's.
	Route *Route
	// Caller is as Request.Caller gives it, From the address that is known of it, as far
	// as an application has passed it on.
	Caller, From string
	// Code is the HTTP status, Err why a request was refused. A stream that was broken off
	// has 500, whatever its beginning said.
	Code int
	Err  error
	// Change is what a handler has said with Request.Made by now; 0 when it said nothing.
	Change int
	Took   time.Duration
}

// Raw is an answer that is not in the envelope, as a download.
type Raw struct {
	// ContentType is the media type, as "application/gzip".
	ContentType string
	// Body is the whole answer.
	Body []byte
}

// After is an answer behind which work goes on: Do is started in the background once
// the answer has been sent.
type After struct {
	// Answer is the metadata; nil for {}.
	Answer any
	// Do gets a context that does not end with the request.
	Do func(context.Context)
}
