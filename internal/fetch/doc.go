// Package fetch downloads files of a release tree from servers that are not trusted.
//
// Three parties: mirrors, which serve the same tree and may be slow, away, stale or
// hostile; the verified metadata, which says how long a file is and what its sum is; and
// the caller, who stores (File), reads along (Stream) or picks pieces (Ranges). Metadata
// itself comes with Small and Checked, which bound bytes and time, and nothing else: its
// signature is the caller's to verify.
//
// What always holds:
//
//   - A file gets its name only when all its bytes are on the disk and their sum is the
//     promised one. Until then they lie in NAME.part, and what is needed to go on in
//     NAME.part.json. Both may be lost, torn or of another file at any time: a part is only
//     used up to where its own sum is the noted one.
//   - Not a byte more than promised is stored or handed out.
//   - The sum is made of the bytes as they come. Stream hands out bytes before the sum is
//     known and ends with ErrMismatch instead of io.EOF when it is wrong: a reader must not
//     act on what it read before it saw io.EOF.
//   - Nothing waits for ever: there are limits for the first byte of an answer, for silence,
//     for a trickle, and for a whole call. Time in which the caller or the bandwidth limit
//     held the transfer up counts against no server.
//   - A redirect leads to the same host or nowhere; a compressed answer, a link-local
//     address and a web page (the log-in page of a guest network) are refused.
//   - Errors hold no query and no header of a request, which is where tokens are.
//
// Mirrors are asked in their order. One that fails is put behind the others for a while,
// which doubles with each failure. When all have failed, the call waits: exponential
// back-off with full jitter, so that ten thousand nodes which lost one server do not come
// back at one moment. A call gives up after Limits.Attempts failures without progress; what
// is in the part stays for the next call. Retry-After is honoured up to a limit.
//
// Bytes of different answers are put together only as long as the sum agrees. When it does
// not, nobody can say which answer was wrong: the file is fetched anew, each server's ranges
// no longer used. When all bytes came in one answer, that mirror is asked no more in this
// call. A server that sends the whole file where a range was asked for is compared with the
// part and then continued, so that a log-in page does not cost the part.
package fetch

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// What can go wrong. Errors of this package wrap one of these or a *StatusError; an error
// that wraps none is one of the network in the middle of a transfer, or of the local disk.
var (
	// ErrMismatch: the content is not what was promised.
	ErrMismatch = errors.New("not what the metadata promises")
	// ErrLimit: more bytes than are accepted.
	ErrLimit = errors.New("beyond the limit")
	// ErrSlow: no answer, silence, a trickle, or too long in all.
	ErrSlow = errors.New("too slow")
	// ErrServer: the server answers, but not with the file.
	ErrServer = errors.New("the server does not serve the file")
	// ErrNotFound: the server has no such file. It is an ErrServer too.
	ErrNotFound = errors.New("no such file on the server")
	// ErrRedirect: the server points somewhere that is not followed.
	ErrRedirect = errors.New("the redirect is refused")
	// ErrAddress: the server has an address that is not connected to.
	ErrAddress = errors.New("the address is refused")
	// ErrEncoding: the answer is compressed, which was not asked for.
	ErrEncoding = errors.New("the answer is encoded")
	// ErrNoRanges: no mirror gives pieces of the file; fetch it whole.
	ErrNoRanges = errors.New("the server does not serve ranges")
	// ErrNoSpace: the folder's file system is too full; errors.As gives a *NoSpaceError.
	ErrNoSpace = errors.New("not enough free space")
	// ErrName: a server's name cannot be resolved.
	ErrName = errors.New("the name cannot be resolved")
	// ErrProxy: the proxy is away or refuses.
	ErrProxy = errors.New("the proxy does not let the request through")
	// ErrConnect: no connection to the server.
	ErrConnect = errors.New("no connection")
	// ErrCertificate: the server's certificate is not trusted.
	ErrCertificate = errors.New("the server's certificate is not trusted")
	// ErrInUse: another download of the same file is under way.
	ErrInUse = errors.New("another download of this file is under way")
	// ErrBlob: what is asked for is malformed: its path, size, sum or range.
	ErrBlob = errors.New("malformed request")
)

// NoSpaceError says how much is missing.
type NoSpaceError struct {
	// Need is how many bytes are still to be written, with the reserve.
	Need int64
	// Free is how many bytes there were.
	Free int64
}

func (e *NoSpaceError) Error() string {
	return fmt.Sprintf("%v: %d bytes are needed, %d are free: remove what is not needed, or enlarge the file system", ErrNoSpace, e.Need, e.Free)
}

// Is makes it an ErrNoSpace.
func (e *NoSpaceError) Is(target error) bool { return target == ErrNoSpace }

// StatusError is an answer without the file.
type StatusError struct {
	// Status is the HTTP status, as 503.
	Status int
	// RetryAfter is how long the server asked to be left alone; 0 when it did not ask, or
	// asked for what has no meaning.
	RetryAfter time.Duration
}

func (e *StatusError) Error() string {
	text := fmt.Sprintf("%v: it answers %d %s", ErrServer, e.Status, http.StatusText(e.Status))
	if e.RetryAfter > 0 {
		text += fmt.Sprintf(" and asks to come again in %s", e.RetryAfter.Round(time.Second))
	}
	switch e.Status {
	case http.StatusUnauthorized, http.StatusForbidden:
		text += ": look at the token or the certificate that the node shows"
	case http.StatusProxyAuthRequired:
		text += ": look at the proxy's user and password"
	}
	return text
}

// Is makes it an ErrServer, and an ErrNotFound or ErrProxy where it is one.
func (e *StatusError) Is(target error) bool {
	switch target {
	case ErrServer:
		return true
	case ErrNotFound:
		return e.Status == http.StatusNotFound || e.Status == http.StatusGone
	case ErrProxy:
		return e.Status == http.StatusProxyAuthRequired
	}
	return false
}

// failures are the last errors of the mirrors that a call has asked, in the mirrors' order.
type failures []error

func (f failures) Error() string {
	texts := make([]string, len(f))
	for i, err := range f {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

func (f failures) Unwrap() []error { return f }
