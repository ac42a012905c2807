package customizer

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	api "github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/media"
	"github.com/holdfast-os/holdfast/internal/splice"
)

// download is a file that can be fetched.
type download interface {
	// serve answers with the file; form is the ending that was asked for, empty for none.
	serve(w http.ResponseWriter, r *http.Request, form string) (ended bool, err error)
	// has tells whether an entity tag is one of the file's.
	has(tag string) bool
}

// customized is an image with a seed.
type customized struct {
	image *splice.Image
	seed  []byte
	// name is the unpacked file's, as "Holdfast_202611220104.img".
	name string
	// again gives the image once more, when its files are gone.
	again func(ctx context.Context) (*splice.Image, error)
}

// errReleaseGone is the link of an image whose release has left the tree.
var errReleaseGone = coded(http.StatusNotFound, errors.New("not found: the release of this image is not published any more; ask for another one"))

func (c customized) serve(w http.ResponseWriter, r *http.Request, form string) (bool, error) {
	if !c.image.Ready() {
		var err error
		if c.image, err = c.again(r.Context()); err != nil {
			if errors.Is(err, os.ErrNotExist) {
				err = errReleaseGone
			}
			return false, err
		}
	}
	ending := path.Ext(c.name)
	header := w.Header()
	make, name, kind := c.image.Packed, c.name, "application/octet-stream"
	switch form {
	case "":
		header.Set("Vary", "Accept-Encoding")
		if takesGzip(r) {
			header.Set("Content-Encoding", "gzip")
			break
		}
		name, kind = name+".gz", "application/gzip"
	case ending + ".gz":
		name, kind = name+".gz", "application/gzip"
	case ending:
		make = c.image.Raw
	default:
		return false, coded(http.StatusNotFound, fmt.Errorf("the image comes as %s and %s.gz, not as %s", ending, ending, form))
	}
	content, err := make(c.seed)
	if err != nil {
		return false, err
	}
	return sendAs(w, r, content, name, kind)
}

func (c customized) has(tag string) bool {
	for _, make := range []func([]byte) (*splice.Content, error){c.image.Packed, c.image.Raw} {
		if content, err := make(c.seed); err == nil && content.Tag() == tag {
			return true
		}
	}
	return false
}

// joined is a file whose parts are known.
type joined struct {
	content    *splice.Content
	name, kind string
}

func (j joined) serve(w http.ResponseWriter, r *http.Request, form string) (bool, error) {
	if form != "" && !strings.HasSuffix(j.name, form) {
		return false, coded(http.StatusNotFound, fmt.Errorf("the file is %s", j.name))
	}
	return sendAs(w, r, j.content, j.name, j.kind)
}

func (j joined) has(tag string) bool { return j.content.Tag() == tag }

func sendAs(w http.ResponseWriter, r *http.Request, content *splice.Content, name, kind string) (bool, error) {
	header := w.Header()
	header.Set("Content-Type", kind)
	header.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": name}))
	header.Set("Cache-Control", "no-cache")
	return content.Serve(w, r)
}

// takesGzip tells whether the client unpacks gzip while it reads.
func takesGzip(r *http.Request) bool {
	for entry := range strings.SplitSeq(strings.Join(r.Header.Values("Accept-Encoding"), ","), ",") {
		name, parameters, _ := strings.Cut(entry, ";")
		if !strings.EqualFold(strings.TrimSpace(name), "gzip") {
			continue
		}
		q, found := strings.CutPrefix(strings.TrimSpace(parameters), "q=")
		weight, err := strconv.ParseFloat(q, 64)
		return !found || err == nil && weight > 0
	}
	return false
}

// root is for people and programs that know no more than the address.
func (s *Service) root(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Vary", "User-Agent")
	if strings.Contains(r.UserAgent(), "Gecko") {
		http.Redirect(w, r, "/ui/", http.StatusMovedPermanently)
		return nil
	}
	return answer(w, []string{"/1.0"})
}

// oidc is a place of the reference's: it asks a server of its makers for a login.
func (s *Service) oidc(http.ResponseWriter, *http.Request) error {
	return coded(http.StatusBadRequest, errors.New("this service has no accounts: give the node a certificate, or an identity provider of your own"))
}

// releaseInfo is one release to choose, in the answer of /1.0/releases.
type releaseInfo struct {
	// Version is as "202611220104".
	Version string `json:"version"`
	// Channels are those that carry it.
	Channels []string `json:"channels"`
	// PublishedAt is in UTC.
	PublishedAt time.Time `json:"published_at"`
	// Architectures are those with an image, by name.
	Architectures map[string]*choosable `json:"architectures"`
}

type choosable struct {
	// Types are "raw" and "iso", the latter also where it is made of the former.
	Types []string `json:"types"`
	// Applications are names for the seed "applications".
	Applications []string `json:"applications"`
}

func (s *Service) releases(w http.ResponseWriter, _ *http.Request) error {
	index, err := s.tree.index()
	if err != nil {
		return err
	}
	all := []releaseInfo{}
	for _, u := range index.Updates {
		one := releaseInfo{u.Version, u.Channels, u.PublishedAt, map[string]*choosable{}}
		for _, f := range u.Files {
			of := one.Architectures[f.Architecture]
			if of == nil {
				of = &choosable{Applications: []string{}}
				one.Architectures[f.Architecture] = of
			}
			if f.Type == api.TypeApplication {
				of.Applications = append(of.Applications, applicationName(f))
			}
		}
		for name, of := range one.Architectures {
			if of.Types = typesOf(u, name); len(of.Types) == 0 {
				delete(one.Architectures, name)
			}
		}
		if len(one.Architectures) > 0 {
			all = append(all, one)
		}
	}
	known := map[string]any{"releases": all}
	if s.o.ServerURL != "" {
		known["server_url"] = s.o.ServerURL
	}
	return answer(w, known)
}

// typesOf are the types of images that a release gives.
func typesOf(u api.Update, architecture string) []string {
	types := []string{}
	for _, kind := range []string{TypeRaw, TypeISO} {
		_, err := find(api.Index{Updates: []api.Update{u}}, Choice{Architecture: architecture, Type: kind, Version: u.Version})
		if err == nil {
			types = append(types, kind)
		}
	}
	return types
}

// applicationName is that of a published application: the file's name without endings.
func applicationName(f api.File) string {
	return strings.TrimSuffix(strings.TrimSuffix(path.Base(f.Filename), ".gz"), ".raw")
}

// choiceAnswer is the answer of POST /1.0/choices.
type choiceAnswer struct {
	// ID is that of the choice.
	ID string `json:"id"`
	// Version and File are what the choice gives now.
	Version string `json:"version"`
	File    string `json:"file"`
	// Link gives the image, always; empty for a choice with secrets.
	Link string `json:"link,omitempty"`
	// Secrets are the fields on whose account there is no link.
	Secrets []string `json:"secrets"`
	// Files are the members of the seed's archive.
	Files []File `json:"files"`
}

// postChoice shows what an image would be, and makes nothing.
func (s *Service) postChoice(w http.ResponseWriter, r *http.Request) error {
	c, err := s.readChoice(w, r)
	if err != nil {
		return err
	}
	index, err := s.tree.index()
	if err != nil {
		return err
	}
	found, err := find(index, c)
	if err != nil {
		return err
	}
	a := choiceAnswer{Version: found.version, File: found.name(), Secrets: []string{}}
	if a.ID, err = c.ID(); err != nil {
		return err
	}
	if a.Files, err = c.Files(); err != nil {
		return err
	}
	if a.Link, err = s.linkOf(c); err != nil {
		return err
	}
	if a.Link == "" {
		if a.Secrets, err = c.Secrets(); err != nil {
			return err
		}
	}
	return answer(w, a)
}

func (s *Service) readChoice(w http.ResponseWriter, r *http.Request) (Choice, error) {
	data, err := body(w, r)
	if err != nil {
		return Choice{}, err
	}
	return badUnlessProblems(DecodeChoice(data))
}

func badUnlessProblems(c Choice, err error) (Choice, error) {
	if err != nil && len(problemsOf(err)) == 0 {
		err = coded(http.StatusBadRequest, err)
	}
	return c, err
}

// maxLink is how long a choice in a link may be, in bytes: servers and browsers refuse longer
// ones.
const maxLink = 8 << 10

// linkOf is the link of a choice, and keeps it; empty for one that may hold secrets, or
// that is too long.
func (s *Service) linkOf(c Choice) (string, error) {
	secrets, err := c.Secrets()
	if err != nil || len(secrets) > 0 {
		return "", err
	}
	text, err := c.Canonical()
	if err != nil {
		return "", err
	}
	encoded := inLink(text)
	if len(encoded) > maxLink {
		return "", nil
	}
	id := media.IDOf(text)
	s.choices.put(id, c, len(text))
	return "/1.0/images/" + id + "?choice=" + encoded, nil
}

// customize finds the image of a choice; it waits when the image is not prepared yet.
func (s *Service) customize(r *http.Request, c Choice) (customized, published, error) {
	index, err := s.tree.index()
	if err != nil {
		return customized{}, published{}, err
	}
	found, err := find(index, c)
	if err != nil {
		return customized{}, published{}, err
	}
	prepared := func(ctx context.Context) (*splice.Image, error) {
		file, err := s.tree.path(found.version, found.file.Filename)
		if err != nil {
			return nil, err
		}
		return s.images.get(ctx, file, found)
	}
	image, err := prepared(r.Context())
	if err != nil {
		return customized{}, published{}, err
	}
	archive, err := c.Archive()
	if err != nil {
		return customized{}, published{}, err
	}
	return customized{image, archive, found.name(), prepared}, found, nil
}

// postImage makes one-shot links.
func (s *Service) postImage(w http.ResponseWriter, r *http.Request) error {
	c, err := s.readChoice(w, r)
	if err != nil {
		return err
	}
	image, found, err := s.customize(r, c)
	if err != nil {
		return err
	}
	files, costs := []download{image}, []int{len(image.seed) + 1024}
	if c.Offline {
		resources, cost, err := s.resources(c, found.version)
		if err != nil {
			return err
		}
		files, costs = append(files, resources), append(costs, cost)
	}
	names, err := s.links.add(files, costs)
	if err != nil {
		return err
	}
	made := map[string]string{"image": "/1.0/files/" + names[0]}
	if c.Offline {
		made["resources"] = "/1.0/files/" + names[1]
	}
	return answer(w, made)
}

// errUsedUp is a link that gives nothing any more, or never did.
var errUsedUp = coded(http.StatusNotFound, errors.New("not found: a link gives its file once, within ten minutes; ask for a new one"))

// getFile is a one-shot link.
func (s *Service) getFile(w http.ResponseWriter, r *http.Request) error {
	name, form := splitForm(r.PathValue("id"))
	if r.Method == http.MethodHead {
		file, ok := s.links.look(name)
		if !ok {
			return errUsedUp
		}
		_, err := file.serve(w, r, form)
		return err
	}
	return s.send(func() error {
		file, done, ok := s.links.take(name, func(f download) bool {
			return r.Header.Get("Range") != "" && f.has(r.Header.Get("If-Range"))
		})
		if !ok {
			return errUsedUp
		}
		ended := false
		defer func() { done(ended) }()
		var err error
		ended, err = file.serve(w, r, form)
		return err
	})
}

// getImage is the link of a choice without secrets.
func (s *Service) getImage(w http.ResponseWriter, r *http.Request) error {
	id, form := splitForm(r.PathValue("id"))
	c, known := s.choices.get(id)
	if !known {
		encoded := r.URL.Query().Get("choice")
		if encoded == "" {
			return coded(http.StatusNotFound, errors.New("this image is not known any more: make the choice again, or use its whole link, with ?choice="))
		}
		var err error
		if c, err = badUnlessProblems(fromLink(encoded)); err != nil {
			return err
		}
		have, err := c.ID()
		if err != nil {
			return err
		}
		if have != id {
			return coded(http.StatusBadRequest, errNotChoice)
		}
		link, err := s.linkOf(c)
		if err != nil {
			return err
		}
		if link == "" {
			return coded(http.StatusBadRequest, errors.New("this choice may hold a secret, which must not be in a link: POST it to /1.0/images"))
		}
	}
	return s.send(func() error {
		image, _, err := s.customize(r, c)
		if err != nil {
			return err
		}
		_, err = image.serve(w, r, form)
		return err
	})
}

// send bounds the downloads.
func (s *Service) send(do func() error) error {
	select {
	case s.downloads <- struct{}{}:
	default:
		return coded(http.StatusServiceUnavailable, errors.New("too many downloads at the moment: try again soon"))
	}
	defer func() { <-s.downloads }()
	return do()
}

// splitForm takes the ending off a link's name: ".img", ".img.gz" and so on.
func splitForm(text string) (name, form string) {
	if i := strings.IndexByte(text, '.'); i >= 0 {
		return text[:i], text[i:]
	}
	return text, ""
}
