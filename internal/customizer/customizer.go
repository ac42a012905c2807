// Package customizer is the service behind `holdfast image serve`: it gives people an image
// of a release with the seed that they chose in it.
//
// Parties: a release tree on this computer, which the operator of the service trusts; people
// with browsers and programs, who are not trusted; and whoever can read links. The API is
// that of the customizer of IncusOS, so that its scripts work, and more:
//
//	POST /1.0/images      -> a link that gives the image once, within ten minutes
//	GET  /1.0/images/<id> -> the image of a choice without secrets, as often as wanted
//	POST /1.0/choices     -> what would be in the image, and what is wrong with the choice
//	GET  /1.0/releases    -> what there is to choose from
//	GET  /boot/<name>.img -> the image of a choice that the operator has named, as firmware
//	                         takes it for a start over the network (package netboot)
//
// A choice is plain data. Its id is the SHA-256 of its canonical form; the server keeps the
// last few choices by id, and a link can carry its choice in the query ("choice"), so that it
// works after a restart and on another server. The id in the path then proves that the link
// is whole. A link without version gives the newest release of its channel, always.
//
// Invariants: no secret is in a link that works twice, or in the log; what a person sees as
// YAML is byte by byte what lies in the archive; the image is spliced, never packed again
// (package splice); a CD is made of the disk image while it is sent, byte by byte as `holdfast
// image iso` makes it, unless the release has one of its own; everything that a client makes this service keep has a limit. A seed with
// secrets is kept in memory alone, for ten minutes.
//
// A one-shot link is used up once its last byte was sent; a download that is cut can go on
// with the same link (Range). While one is under way, and behind its end, only those go on
// who show the entity tag (If-Range), that is, who have had the link's answer.
//
// What can fail: a tree that is being published (the index is read anew, the old one holds
// meanwhile), an image that is not what the index says (refused, in the log), a full disk
// under the cache, too many downloads or links (503, try again). What was prepared may be
// removed at any time: it is prepared anew.
package customizer

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"time"

	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/splice"
)

// Options say what a service serves, and how.
type Options struct {
	// Tree is the folder of a release tree.
	Tree string
	// Cache is where prepared images are kept; default the folder ".customizer" of the tree,
	// which web servers of the tree do not give out. It takes the size of the unpacked image
	// without its holes, and of the packed one, for the newest release of each channel.
	Cache string
	// Region is the seed's partition; default that of the partition table.
	Region splice.Region
	// Boot are choices that machines start from over the network, by name: /boot/NAME.img or
	// NAME.iso. Whoever reaches the service reads them, so none may hold a secret; default none.
	Boot map[string]Choice
	// ServerURL is where nodes find this release tree, as "https://releases.example.org": the
	// page begins with it, and people may change it. Default none: they have to know.
	ServerURL string
	// MaxDownloads bounds the images that are sent at a time; default 500.
	MaxDownloads int
	// MaxLinkBytes bounds the seeds that wait in memory for their download; default 64 MiB.
	MaxLinkBytes int
	// PKCS12 packs a certificate and its key, both PEM, without a password; default not, the
	// answer of /1.0/certificate then has an empty "pfx".
	PKCS12 func(ctx context.Context, certificate, key []byte) ([]byte, error)
	// Now is the clock; default the real one.
	Now func() time.Time
	// Random is a source for links and keys; default the system's.
	Random io.Reader
	// Log hears of requests and failures; default nobody.
	Log *slog.Logger
}

// Service is an http.Handler. Close it when the HTTP server has ended.
type Service struct {
	o         Options
	tree      *tree
	images    *images
	links     *links
	choices   *choices
	sizes     *sizes
	downloads chan struct{}
	keys      chan struct{}
	mux       *http.ServeMux
	stop      context.CancelFunc
}

// New opens the tree. It prepares nothing yet.
func New(o Options) (*Service, error) {
	if o.Cache == "" {
		o.Cache = filepath.Join(o.Tree, ".customizer")
	}
	if o.Region == (splice.Region{}) {
		o.Region = splice.Region{Offset: layout.SeedOffset(), Size: layout.Size(layout.Seed)}
	}
	if o.MaxDownloads <= 0 {
		o.MaxDownloads = 500
	}
	if o.MaxLinkBytes <= 0 {
		o.MaxLinkBytes = 64 << 20
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := checkBoot(o.Boot); err != nil {
		return nil, err
	}
	t, err := openTree(o.Tree)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Service{
		o: o, tree: t, stop: stop,
		images:    newImages(ctx, o.Cache, o.Region, o.Log),
		links:     newLinks(o.Now, o.Random, o.MaxLinkBytes),
		choices:   newChoices(),
		sizes:     newSizes(),
		downloads: make(chan struct{}, o.MaxDownloads),
		keys:      make(chan struct{}, maxKeys),
	}
	s.mux = s.routes()
	return s, nil
}

// Close ends preparations and lets go of the tree.
func (s *Service) Close() error {
	s.stop()
	s.images.wait()
	return s.tree.close()
}

// Prepare removes what was prepared for releases that are gone, and makes the newest image of
// each channel, architecture and type ready. A person who comes before it has ended waits
// for the image. The error joins all that went wrong; what is ready can be had all the same.
func (s *Service) Prepare(ctx context.Context) error {
	index, err := s.tree.index()
	if err != nil {
		return err
	}
	// First, since the room of what is gone may be needed.
	failed := []error{s.images.prune(ctx, sums(index))}
	for _, want := range newest(index) {
		path, err := s.tree.path(want.version, want.file.Filename)
		if err == nil {
			_, err = s.images.get(ctx, path, want)
		}
		if err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// ServeHTTP is http.Handler.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	logged := &loggedWriter{ResponseWriter: w}
	start := time.Now()
	header := w.Header()
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	s.mux.ServeHTTP(logged, r)
	s.o.Log.Info("request", "method", r.Method, "path", forLog(r.URL.Path), "status", logged.status,
		"bytes", logged.sent, "time", time.Since(start).Round(time.Millisecond), "from", r.RemoteAddr,
		"forwarded-for", shorten(r.Header.Get("X-Forwarded-For"), 200))
}
