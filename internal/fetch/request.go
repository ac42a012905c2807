package fetch

import (
	"context"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"
)

// want is what is asked of a server.
type want struct {
	path string
	// from and to are the bytes wanted of size; ranged asks for just these.
	from, to, size int64
	ranged         bool
	// etag, if set, is that of the bytes before.
	etag string
}

// unknown is the size of a file that nothing is promised of.
const unknown = -1

// open asks a mirror. The body that it gives has to be closed.
func (d *Downloader) open(ctx context.Context, m *mirror, w want) (*body, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	b := &body{d: d, ctx: ctx, cancel: cancel, watch: &watch{limits: d.limits}}
	b.watch.begin(d.clock.Now())
	go b.watch.run(ctx, d.clock, cancel)
	if err := b.ask(m, w); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

// body is a download under way.
type body struct {
	d        *Downloader
	ctx      context.Context
	cancel   context.CancelCauseFunc
	watch    *watch
	response *http.Response
	answer
}

func (b *body) ask(m *mirror, w want) error {
	request, err := http.NewRequestWithContext(b.ctx, http.MethodGet, address(m.base, w.path), nil)
	if err != nil {
		return fmt.Errorf("making the request for %q: %w", w.path, ErrBlob)
	}
	request.Header.Set("User-Agent", b.d.options.UserAgent)
	request.Header.Set("Accept-Encoding", "identity")
	if w.ranged {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", w.from, w.to-1))
		if w.etag != "" {
			request.Header.Set("If-Range", w.etag)
		}
	}
	if b.d.options.Authorize != nil {
		if err := b.d.options.Authorize(request); err != nil {
			return fmt.Errorf("authorizing the request: %w", err)
		}
	}
	response, err := b.d.client.Do(request)
	if err != nil {
		return b.cause(explain(err))
	}
	b.response = response
	if b.ctx.Err() != nil { // what a server says to a connection that ends counts for nothing
		return context.Cause(b.ctx)
	}
	b.watch.answer(b.d.clock.Now())
	b.answer, err = readAnswer(response, w, b.d.clock.Now())
	return err
}

// address joins base and path, so that nothing in the path has a meaning.
func address(base *url.URL, name string) string {
	parts := strings.Split(name, "/")
	for i, part := range parts {
		parts[i] = url.PathEscape(part)
	}
	return base.JoinPath(parts...).String()
}

// checkPath lets only plain relative paths pass: what is in a manifest may come from a
// stranger until its signature was looked at.
func checkPath(name string) error {
	if len(name) > 1024 || name == "" || name == "." || path.IsAbs(name) || path.Clean(name) != name ||
		name == ".." || strings.HasPrefix(name, "../") || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' }) {
		return fmt.Errorf("%w: the path %q is not relative and plain", ErrBlob, name)
	}
	return nil
}

// answer is what a server promises.
type answer struct {
	// from and to are the bytes that come; ranged when they are those asked for.
	from, to int64
	ranged   bool
	// etag is a strong one, or empty.
	etag string
	// ambiguous: the end of the connection is the end of the file, or a cut.
	ambiguous bool
}

// readAnswer says what a response holds, or why it is refused.
func readAnswer(r *http.Response, w want, now time.Time) (answer, error) {
	if r.StatusCode != http.StatusOK && r.StatusCode != http.StatusPartialContent {
		if r.StatusCode == http.StatusRequestedRangeNotSatisfiable && w.ranged {
			return answer{}, fmt.Errorf("%w: it knows no bytes from %d on", errRange, w.from)
		}
		return answer{}, &StatusError{Status: r.StatusCode, RetryAfter: retryAfter(r.Header, now)}
	}
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return answer{}, fmt.Errorf("%w: as %s: switch that off on the server or the proxy", ErrEncoding, clip(encoding))
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err == nil && kind == "text/html" {
		return answer{}, fmt.Errorf("%w: it sends a web page: look whether the network asks for a log-in", ErrServer)
	}
	a := answer{to: w.size, ambiguous: r.ContentLength < 0 && len(r.TransferEncoding) == 0 && r.ProtoMajor < 2}
	if etag := r.Header.Get("ETag"); strongETag(etag) {
		a.etag = etag
	}
	if r.StatusCode == http.StatusOK {
		if w.size != unknown && r.ContentLength >= 0 && r.ContentLength != w.size {
			return answer{}, fmt.Errorf("%w: %d bytes are offered, %d were promised", ErrMismatch, r.ContentLength, w.size)
		}
		return a, nil
	}
	if !w.ranged {
		return answer{}, fmt.Errorf("%w: it sends a part where the whole was asked for", ErrServer)
	}
	text := r.Header.Get("Content-Range")
	from, to, size, err := parseContentRange(text)
	switch {
	case err != nil:
		return answer{}, err
	case size != unknown && size != w.size:
		return answer{}, fmt.Errorf("%w: the file has %d bytes, %d were promised", ErrMismatch, size, w.size)
	case from != w.from || to > w.to:
		return answer{}, fmt.Errorf("%w: bytes %d to %d were asked for, %d to %d come", errRange, w.from, w.to, from, to)
	case r.ContentLength >= 0 && r.ContentLength != to-from:
		return answer{}, fmt.Errorf("%w: %d bytes come as %s", errRange, r.ContentLength, clip(text))
	}
	a.from, a.to, a.ranged = from, to, true
	return a, nil
}

// strongETag tells whether an entity tag stands for the very bytes.
func strongETag(etag string) bool {
	return len(etag) >= 2 && len(etag) <= 256 && etag[0] == '"' && etag[len(etag)-1] == '"' &&
		!strings.ContainsFunc(etag, func(r rune) bool { return r < ' ' || r > '~' })
}

// parseContentRange reads "bytes 5-9/20", to being behind the last byte and size unknown
// for "*".
func parseContentRange(text string) (from, to, size int64, err error) {
	rest, unit := strings.CutPrefix(text, "bytes ")
	span, whole, slash := strings.Cut(rest, "/")
	first, last, dash := strings.Cut(span, "-")
	from, ok1 := number(first)
	to, ok2 := number(last)
	size, ok3 := number(whole)
	if whole == "*" {
		size, ok3 = unknown, true
	}
	if !unit || !slash || !dash || !ok1 || !ok2 || !ok3 || from > to || (size != unknown && to >= size) {
		return 0, 0, 0, fmt.Errorf("%w: %q is no range", errRange, clip(text))
	}
	return from, to + 1, size, nil
}

// number reads digits and nothing else.
func number(text string) (int64, bool) {
	if text == "" || len(text) > 18 || strings.Trim(text, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil
}

// maxAsked is what a wait that is longer is taken for.
const maxAsked = 365 * 24 * time.Hour

// retryAfter reads the header of that name: seconds or a date. A date is measured by the
// server's own clock where it tells the time, since a node may start in 1970.
func retryAfter(h http.Header, now time.Time) time.Duration {
	text := strings.TrimSpace(h.Get("Retry-After"))
	if seconds, ok := number(text); ok {
		return min(time.Duration(min(seconds, int64(maxAsked/time.Second)))*time.Second, maxAsked)
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	return min(max(at.Sub(now), 0), maxAsked)
}

// clip keeps what a server says short and printable.
func clip(text string) string {
	if len(text) > 80 {
		text = text[:80] + "..."
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, text)
}

func (b *body) Read(p []byte) (int, error) {
	p = p[:b.d.bucket.size(len(p))]
	b.watch.begin(b.d.clock.Now())
	n, err := b.response.Body.Read(p)
	b.watch.end(b.d.clock.Now(), n)
	if err != nil && err != io.EOF {
		return n, b.cause(explain(err))
	}
	if n > 0 {
		if late := b.d.bucket.pay(b.ctx, n); late != nil {
			return n, late
		}
	}
	return n, err
}

// Close ends the download. Its error would say nothing about what was read.
func (b *body) Close() {
	b.cancel(context.Canceled)
	if b.response != nil {
		_ = b.response.Body.Close()
	}
}

// cause names the limit that was hit, where the transport only says "canceled".
func (b *body) cause(err error) error {
	if b.ctx.Err() != nil {
		return context.Cause(b.ctx)
	}
	return err
}
