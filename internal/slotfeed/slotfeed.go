// Package slotfeed offers the files of a release to systemd-sysupdate while they are
// being made.
//
// The other slot is written by stock systemd-sysupdate, whose helper systemd-pull takes
// a file over HTTP, checks its sum and writes it into its partition as it arrives. A
// file that is patched together out of an older one would have to lie somewhere first;
// with a Feed it does not: systemd-pull asks, and the source makes the file then and
// there. Each byte is written once.
//
// The parties: the caller names the files with their sizes and sums and gives the
// function that opens one; the Feed listens on 127.0.0.1 at a port and path that cannot
// be guessed; systemd-pull reads SHA256SUMS and then one file after the other.
//
// What always holds:
//   - Only GET, only under the path with the token, only with the listener's own address
//     as host, one file at a time, and none again that lies before the last one, until
//     SHA256SUMS was read anew.
//   - A file has exactly its size and its sum. The end of it is held back until the sum
//     is known to be right, so that a wrong one is a cut connection and never a file.
//   - Memory is one buffer of bufferSize for the one file that is on its way.
//
// What can fail: a source that ends early, late or with another sum, and one that
// stops: systemd-pull gives up after a minute with fewer than 30 bytes a second. It sees
// a cut connection only; Err says what it was. So nothing slow, such as a download,
// belongs behind Open.
package slotfeed

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// bufferSize is how much of a file is held in memory, in bytes.
	bufferSize = 1 << 20
	// maxFiles bounds a release.
	maxFiles = 64
	// minSize is the smallest file that systemd-pull takes: fewer bytes cannot be told
	// apart from a packed file, and it waits for more.
	minSize = 6
	sums    = "SHA256SUMS"
	// turnGrace is how long a request waits for the one before to end.
	turnGrace = time.Second
)

// File is one file of a release.
type File struct {
	// Name is what systemd-sysupdate's patterns are matched against. It has no slash.
	Name string
	// Size is in bytes, at least 6.
	Size int64
	// SHA256 is hexadecimal.
	SHA256 string
	// Checked is true when the reader that Open gives compares the sum itself and ends with
	// an error, not io.EOF, where it is wrong. The Feed then does not do it a second time,
	// which costs as much as all the rest of it. Default false.
	Checked bool
}

// Open gives the content of a file from its beginning. It may be called again for the
// same file. The reader is closed in any case, also while a Read is under way when the
// other side is gone; the context ends then too.
type Open func(ctx context.Context, name string) (io.ReadCloser, error)

// Progress hears how far it is: bytes of all files handed out, and bytes of all files.
// It is called from one goroutine at a time and must not block.
type Progress func(done, total int64)

// Feed is a running source. Start makes one.
type Feed struct {
	files    []File
	open     Open
	progress Progress
	token    string
	address  string
	server   *http.Server
	served   chan error

	busy chan struct{} // full while a file is on its way
	mu   sync.Mutex
	next int // the first file that may be asked for
	err  error
}

// ErrWrongContent is a file that was not what it was promised to be.
var ErrWrongContent = errors.New("the content is not the promised one")

// Start listens and serves until Close. The files are in the order in which they will
// be asked for. A nil progress hears nothing.
func Start(files []File, open Open, progress Progress) (*Feed, error) {
	if err := check(files); err != nil {
		return nil, fmt.Errorf("offering files to systemd-sysupdate: %w", err)
	}
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return nil, fmt.Errorf("offering files to systemd-sysupdate: %w", err)
	}
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("offering files to systemd-sysupdate: %w", err)
	}
	if progress == nil {
		progress = func(int64, int64) {}
	}
	f := &Feed{
		files: slices.Clone(files), open: open, progress: progress,
		busy: make(chan struct{}, 1), token: hex.EncodeToString(secret), address: listener.Addr().String(), served: make(chan error, 1),
	}
	f.server = &http.Server{
		Handler: http.HandlerFunc(f.handle), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute,
		MaxHeaderBytes: 8 << 10, ErrorLog: log.New(io.Discard, "", 0),
	}
	go func() { f.served <- f.server.Serve(listener) }()
	return f, nil
}

func check(files []File) error {
	if len(files) == 0 || len(files) > maxFiles {
		return fmt.Errorf("%d files, want 1 to %d", len(files), maxFiles)
	}
	seen := map[string]bool{sums: true}
	for _, file := range files {
		raw, err := hex.DecodeString(file.SHA256)
		switch {
		case file.Name == "" || len(file.Name) > 255 || strings.HasPrefix(file.Name, ".") || strings.ContainsFunc(file.Name, notPlain):
			return fmt.Errorf("%q is not a plain file name", file.Name)
		case seen[file.Name]:
			return fmt.Errorf("%s is there twice", file.Name)
		case err != nil || len(raw) != sha256.Size:
			return fmt.Errorf("%s has the sum %q, which is not hexadecimal SHA-256", file.Name, file.SHA256)
		case file.Size < minSize:
			return fmt.Errorf("%s has %d bytes, want at least %d", file.Name, file.Size, minSize)
		}
		seen[file.Name] = true
	}
	return nil
}

func notPlain(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-+", r))
}

// URL is the folder with the files, with a slash at its end. It has the token in it.
func (f *Feed) URL() string { return "http://" + f.address + "/" + f.token + "/" }

// Token is the part of the URL that cannot be guessed, for whoever keeps it out of logs.
func (f *Feed) Token() string { return f.token }

// Err is the first reason for which a file was not handed out whole, nil when none was
// held back. That the other side went away is none.
func (f *Feed) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// Close cuts what is on its way and ends when nothing is served any more.
func (f *Feed) Close() error {
	err := f.server.Close()
	if served := <-f.served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	f.busy <- struct{}{} // a source may still be closing
	defer func() { <-f.busy }()
	if err != nil {
		return fmt.Errorf("ending the offer to systemd-sysupdate: %w", err)
	}
	return nil
}

func (f *Feed) handle(w http.ResponseWriter, r *http.Request) {
	token, name, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if subtle.ConstantTimeCompare([]byte(token), []byte(f.token)) != 1 || r.Host != f.address {
		http.NotFound(w, r)
		return
	}
	if r.Method != http.MethodGet {
		http.Error(w, "only GET", http.StatusMethodNotAllowed)
		return
	}
	// Who has read the end of a file may ask for the next one before its source is closed.
	grace := time.NewTimer(turnGrace)
	defer grace.Stop()
	select {
	case f.busy <- struct{}{}:
		defer func() { <-f.busy }()
	case <-grace.C:
		http.Error(w, "another file is on its way", http.StatusConflict)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if name == sums {
		f.setNext(0)
		f.serveSums(w)
		return
	}
	number := slices.IndexFunc(f.files, func(file File) bool { return file.Name == name })
	if number < 0 {
		http.NotFound(w, r)
		return
	}
	if number < f.nextFile() {
		http.Error(w, "this file was passed already: read "+sums+" first", http.StatusConflict)
		return
	}
	f.setNext(number)
	if err := f.serveFile(w, r, number); err != nil {
		if r.Context().Err() == nil {
			f.fail(fmt.Errorf("offering %s to systemd-sysupdate: %w", name, err))
		}
		panic(http.ErrAbortHandler) // the only way to cut a connection whose header is out
	}
}

func (f *Feed) serveSums(w http.ResponseWriter) {
	var text strings.Builder
	for _, file := range f.files {
		fmt.Fprintf(&text, "%s *%s\n", strings.ToLower(file.SHA256), file.Name)
	}
	w.Header().Set("Content-Length", strconv.Itoa(text.Len()))
	_, _ = io.WriteString(w, text.String()) // a reader that is gone asks again or not
}

func (f *Feed) nextFile() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.next
}

func (f *Feed) setNext(number int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next = number
}

func (f *Feed) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
}

// serveFile hands out one file. An error means that its end was not.
func (f *Feed) serveFile(w http.ResponseWriter, r *http.Request, number int) error {
	file, before, total := f.files[number], int64(0), int64(0)
	for i, other := range f.files {
		if i < number {
			before += other.Size
		}
		total += other.Size
	}
	source, err := f.open(r.Context(), file.Name)
	if err != nil {
		return err
	}
	closeSource := sync.OnceValue(source.Close)
	stop := context.AfterFunc(r.Context(), func() { _ = closeSource() })
	defer stop()
	w.Header().Set("Content-Length", strconv.FormatInt(file.Size, 10))
	err = stream(w, source, file, func(done int64) { f.progress(before+done, total) })
	return errors.Join(err, closeSource())
}

// stream copies the file and keeps its last part back until the sum is right.
func stream(w io.Writer, source io.Reader, file File, progress func(int64)) error {
	sum, buffer, done := sha256.New(), make([]byte, bufferSize), int64(0)
	for done < file.Size {
		part := buffer[:min(int64(len(buffer)), file.Size-done)]
		n, err := io.ReadFull(source, part)
		if !file.Checked {
			sum.Write(part[:n])
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("%w: it ends after %d of %d bytes", ErrWrongContent, done+int64(n), file.Size)
		}
		if err != nil {
			return fmt.Errorf("making it: %w", err)
		}
		if done == 0 && packed(part) {
			return fmt.Errorf("%w: it begins like a packed file, which systemd-pull would unpack", ErrWrongContent)
		}
		if done+int64(n) == file.Size {
			if err := atEnd(source, file, sum.Sum(nil)); err != nil {
				return err
			}
		}
		if _, err := w.Write(part); err != nil {
			return fmt.Errorf("sending it: %w", err)
		}
		done += int64(n)
		progress(done)
	}
	return nil
}

// atEnd checks a source that has given all the bytes of the file.
func atEnd(source io.Reader, file File, sum []byte) error {
	n, err := io.ReadFull(source, make([]byte, 1))
	if n > 0 {
		return fmt.Errorf("%w: it goes on after %d bytes", ErrWrongContent, file.Size)
	}
	if !errors.Is(err, io.EOF) {
		return fmt.Errorf("making its end: %w", err)
	}
	if got := hex.EncodeToString(sum); !file.Checked && !strings.EqualFold(got, file.SHA256) {
		return fmt.Errorf("%w: its sum is %s, not %s", ErrWrongContent, got, strings.ToLower(file.SHA256))
	}
	return nil
}

// packed tells what systemd-pull 257 takes for xz, gzip or bzip2 and later ones for zstd.
func packed(start []byte) bool {
	return slices.ContainsFunc([]string{"\xfd7zXZ\x00", "\x1f\x8b", "BZh", "\x28\xb5\x2f\xfd"}, func(magic string) bool {
		return bytes.HasPrefix(start, []byte(magic))
	})
}
