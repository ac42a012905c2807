package release

import (
	"fmt"
	"net/http"
	"os"
	"path"
	"strings"
	"syscall"
)

// Server gives out a tree over HTTP: GET and HEAD of files, with ranges, and an ETag
// by which a cut download goes on (If-Range) and an unchanged document is not sent
// again (If-None-Match). A range behind the end is 416 with the file's size. It lists
// no directory, gives out no name that begins with a dot, and never leaves its
// directory, whatever links lie in it.
type Server struct{ root *os.Root }

// Serve opens a tree for serving; the caller closes the Server when the HTTP
// server has ended.
func Serve(dir string) (*Server, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the tree: %w", err)
	}
	return &Server{root}, nil
}

// Close lets go of the directory.
func (s *Server) Close() error { return s.root.Close() }

// ServeHTTP is the http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	name, ok := strings.CutPrefix(r.URL.Path, "/")
	if !ok || name == "" || path.Clean(name) != name || hidden(name) {
		http.NotFound(w, r)
		return
	}
	// Without O_NONBLOCK a named pipe in the tree would hold the request forever.
	f, err := s.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		http.NotFound(w, r)
		return
	}
	kind := "application/octet-stream"
	switch path.Ext(name) {
	case ".json":
		kind = "application/json"
	case ".gz":
		kind = "application/gzip"
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Cache-Control", "no-cache")
	w.Header().Set("ETag", etag(info))
	http.ServeContent(w, r, "", info.ModTime(), f)
}

// etag is a strong one: a publisher replaces files and never writes into one, so that
// other bytes are another inode, or the same one at another time.
func etag(info os.FileInfo) string {
	var inode uint64
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		inode = stat.Ino
	}
	return fmt.Sprintf(`"%x-%x-%x"`, inode, info.Size(), info.ModTime().UnixNano())
}

func hidden(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(part, ".") {
			return true
		}
	}
	return false
}
