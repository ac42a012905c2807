package splice

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// Part is a piece of a content: bytes, or a section of a file.
type Part struct {
	// Data are the bytes; with them the other fields mean nothing.
	Data []byte
	// Path is a file that nobody writes into, from Offset on for Size bytes.
	Path         string
	Offset, Size int64
}

func (p Part) length() int64 {
	if p.Data != nil {
		return int64(len(p.Data))
	}
	return p.Size
}

// follows tells whether a section of a file goes on where another one ends.
func (p Part) follows(before Part) bool {
	return p.Data == nil && before.Data == nil && p.Path == before.Path && p.Offset == before.Offset+before.Size
}

// Content is a file that is put together while it is sent. It is safe for several
// goroutines.
type Content struct {
	parts []Part
	size  int64
	tag   string
}

// Join makes a content out of its parts. tag is its entity tag with quotes, another one for
// other bytes.
func Join(tag string, parts ...Part) *Content {
	c := &Content{tag: tag}
	for _, p := range parts {
		if p.length() == 0 {
			continue
		}
		c.size += p.length()
		if n := len(c.parts) - 1; n >= 0 && p.follows(c.parts[n]) {
			c.parts[n].Size += p.Size
			continue
		}
		c.parts = append(c.parts, p)
	}
	return c
}

// Size is the whole length, in bytes.
func (c *Content) Size() int64 { return c.size }

// Tag is the entity tag, with quotes.
func (c *Content) Tag() string { return c.tag }

// Open opens all files of the content. The caller closes the Reader.
func (c *Content) Open() (*Reader, error) {
	r := &Reader{content: c, files: map[string]*os.File{}}
	for _, p := range c.parts {
		if p.Data != nil || r.files[p.Path] != nil {
			continue
		}
		f, err := os.Open(p.Path)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("opening a part of the image: %w", err), r.Close())
		}
		r.files[p.Path] = f
	}
	return r, nil
}

// Reader reads a content. It is for one goroutine.
type Reader struct {
	content *Content
	files   map[string]*os.File
	at      int64
}

// Close closes the files.
func (r *Reader) Close() (err error) {
	for _, f := range r.files {
		err = errors.Join(err, f.Close())
	}
	return err
}

// Seek is io.Seeker.
func (r *Reader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.at
	case io.SeekEnd:
		offset += r.content.size
	}
	if offset < 0 {
		return 0, errors.New("seeking before the beginning")
	}
	r.at = offset
	return offset, nil
}

// here is the part at the present place, and the place within it.
func (r *Reader) here() (Part, int64, bool) {
	at := r.at
	for _, p := range r.content.parts {
		if at < p.length() {
			return p, at, true
		}
		at -= p.length()
	}
	return Part{}, 0, false
}

// Read is io.Reader.
func (r *Reader) Read(b []byte) (int, error) {
	p, at, ok := r.here()
	if !ok {
		return 0, io.EOF
	}
	if p.Data != nil {
		n := copy(b, p.Data[at:])
		r.at += int64(n)
		return n, nil
	}
	b = b[:min(int64(len(b)), p.Size-at)]
	n, err := r.files[p.Path].ReadAt(b, p.Offset+at)
	r.at += int64(n)
	if n > 0 {
		return n, nil
	}
	return 0, shortened(p, err)
}

// shortened is the error of a file that ends where a part of it should be.
func shortened(p Part, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return fmt.Errorf("%s has become shorter: %w", p.Path, io.ErrUnexpectedEOF)
	}
	return err
}

const (
	// step is how much is sent before the time for sending is set anew, in bytes.
	step = 4 << 20
	// stepTime is how long a step may take: about 35 kB/s must arrive.
	stepTime = 2 * time.Minute
)

// send writes the next n bytes. Sections of files go to w by its ReadFrom, which is
// sendfile on a TCP connection.
func (r *Reader) send(w http.ResponseWriter, n int64) (sent int64, err error) {
	control := http.NewResponseController(w)
	for sent < n {
		p, at, ok := r.here()
		if !ok {
			return sent, io.EOF
		}
		if err := control.SetWriteDeadline(time.Now().Add(stepTime)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return sent, err
		}
		length := min(n-sent, p.length()-at, step)
		var done int64
		if p.Data != nil {
			var m int
			m, err = w.Write(p.Data[at : at+length])
			done = int64(m)
		} else {
			f := r.files[p.Path]
			if _, err = f.Seek(p.Offset+at, io.SeekStart); err == nil {
				done, err = io.CopyN(w, f, length)
			}
			if errors.Is(err, io.EOF) {
				err = shortened(p, err)
			}
		}
		sent += done
		r.at += done
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// sender gives http.ServeContent a way around its buffer.
type sender struct {
	http.ResponseWriter
	reader *Reader
	sent   int64
}

func (s *sender) Unwrap() http.ResponseWriter { return s.ResponseWriter }

func (s *sender) Write(b []byte) (int, error) {
	n, err := s.ResponseWriter.Write(b)
	s.sent += int64(n)
	return n, err
}

// ReadFrom is io.ReaderFrom.
func (s *sender) ReadFrom(src io.Reader) (int64, error) {
	limited, ok := src.(*io.LimitedReader)
	if ok && limited.R == io.Reader(s.reader) {
		n, err := s.reader.send(s.ResponseWriter, limited.N)
		s.sent += n
		return n, err
	}
	return io.Copy(struct{ io.Writer }{s}, src)
}

// Serve answers a GET or HEAD, with ranges, If-Range and If-None-Match. Content-Type and
// Content-Encoding are the caller's. It reports whether the content's last byte was sent.
// An error comes before anything was written.
func (c *Content) Serve(w http.ResponseWriter, r *http.Request) (ended bool, err error) {
	reader, err := c.Open()
	if err != nil {
		return false, err
	}
	defer reader.Close()
	if strings.Contains(r.Header.Get("Range"), ",") {
		r.Header.Del("Range") // several at once would be read by another goroutine; the whole is an answer too
	}
	w.Header().Set("ETag", c.tag)
	if w.Header().Get("Content-Encoding") != "" {
		// ServeContent leaves it out beside an encoding, though it is known here.
		w.Header().Set("Content-Length", fmt.Sprint(c.size))
	}
	s := &sender{ResponseWriter: w, reader: reader}
	http.ServeContent(s, r, "", time.Time{}, reader)
	return s.sent > 0 && reader.at == c.size, nil
}
