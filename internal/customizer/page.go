package customizer

import (
	"embed"
	"errors"
	"io/fs"
	"net/http"
	"path"
)

//go:embed web
var web embed.FS

// pageKinds are the files of the page and their types; there are no others.
var pageKinds = map[string]string{
	".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8",
	".css": "text/css; charset=utf-8", ".svg": "image/svg+xml",
}

// servePage gives out the page. It may load nothing from elsewhere, and nothing may frame it.
func servePage(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("file")
	if name == "" {
		name = "index.html"
	}
	kind, known := pageKinds[path.Ext(name)]
	text, err := fs.ReadFile(web, "web/"+name)
	if !known || err != nil {
		return coded(http.StatusNotFound, errors.New("not found"))
	}
	header := w.Header()
	header.Set("Content-Type", kind)
	header.Set("Cache-Control", "no-cache")
	header.Set("Content-Security-Policy", "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	// An error here is a browser that has left.
	_, _ = w.Write(text)
	return nil
}
