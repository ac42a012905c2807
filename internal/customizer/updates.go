package customizer

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	api "github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/media"
	"github.com/holdfast-os/holdfast/internal/splice"
)

const (
	// maxDocument bounds update.json and update.sjson, in bytes.
	maxDocument = 16 << 20
	// maxUnpacked bounds one unpacked file of an archive, in bytes.
	maxUnpacked = 64 << 30
	// maxSizes is how many sizes of unpacked files are remembered.
	maxSizes = 4096
)

// wantedUpdate is the body of POST /1.0/updates. An empty list stands for all, an empty channel
// for the default one; a version is taken whatever its channels are.
type wantedUpdate struct {
	channel, version                 string
	components, types, architectures []string
}

func decodeUpdate(data []byte) (wantedUpdate, error) {
	var u wantedUpdate
	var p config.Problems
	err := decodeFields(data, "", &p, map[string]any{
		"channel": &u.channel, "version": &u.version, "components": &u.components,
		"types": &u.types, "architectures": &u.architectures,
	})
	if err != nil {
		return wantedUpdate{}, err
	}
	u.channel = cmp.Or(u.channel, media.DefaultChannel)
	for _, word := range [][2]string{{"channel", u.channel}, {"version", u.version}} {
		if !media.IsWord(word[1]) {
			p.Add(word[0], "word", "letters, digits, dots and dashes, at most %d", media.MaxWord)
		}
	}
	for i, name := range u.components {
		if !api.Component(name).Valid() {
			p.Add(fmt.Sprintf("components[%d]", i), "choice", "there is no component %q", name)
		}
	}
	for i, name := range u.types {
		if !api.Type(name).Valid() {
			p.Add(fmt.Sprintf("types[%d]", i), "choice", "there is no type %q", name)
		}
	}
	for i, name := range u.architectures {
		if !slices.Contains(media.Architectures, name) {
			p.Add(fmt.Sprintf("architectures[%d]", i), "choice", "%q is not one of %s", name, strings.Join(media.Architectures, ", "))
		}
	}
	return u, p.Err()
}

// wants tells whether a file is asked for. One without architecture is for all.
func (u wantedUpdate) wants(f api.File) bool {
	return (len(u.components) == 0 || slices.Contains(u.components, string(f.Component))) &&
		(len(u.types) == 0 || slices.Contains(u.types, string(f.Type))) &&
		(len(u.architectures) == 0 || f.Architecture == "" || slices.Contains(u.architectures, f.Architecture))
}

// postUpdate makes a one-shot link for an archive of a release's unpacked files.
func (s *Service) postUpdate(w http.ResponseWriter, r *http.Request) error {
	data, err := body(w, r)
	if err != nil {
		return err
	}
	want, err := decodeUpdate(data)
	if err != nil {
		if len(problemsOf(err)) == 0 {
			err = coded(http.StatusBadRequest, err)
		}
		return err
	}
	index, err := s.tree.index()
	if err != nil {
		return err
	}
	at := slices.IndexFunc(index.Updates, func(u api.Update) bool {
		return u.Version == want.version || want.version == "" && slices.Contains(u.Channels, want.channel)
	})
	if at < 0 && want.version != "" {
		return fmt.Errorf("%w: version %s", errNoRelease, want.version)
	}
	if at < 0 {
		return fmt.Errorf("%w: channel %s", errNoRelease, want.channel)
	}
	archive, cost, err := s.updateArchive(r.Context(), index.Updates[at], want)
	if err != nil {
		return err
	}
	names, err := s.links.add([]download{archive}, []int{cost})
	if err != nil {
		return err
	}
	return answer(w, map[string]string{"update": "/1.0/files/" + names[0]})
}

// updateArchive is a tar.gz out of several gzip members: the published files as they are,
// and around each a member with its header and one that fills up its last block.
func (s *Service) updateArchive(ctx context.Context, u api.Update, want wantedUpdate) (joined, int, error) {
	b := partsBuilder{sum: sha256.New()}
	for _, name := range []string{"update.json", "update.sjson"} {
		text, err := s.tree.read(path.Join(u.Version, name), maxDocument)
		if errors.Is(err, os.ErrNotExist) && name == "update.sjson" {
			continue // an unsigned tree
		}
		if err != nil {
			return joined{}, 0, fmt.Errorf("reading the release: %w", err)
		}
		if err := b.small(name, text); err != nil {
			return joined{}, 0, err
		}
	}
	found := false
	for _, f := range u.Files {
		if !want.wants(f) || path.Ext(f.Filename) != ".gz" {
			continue
		}
		file, err := s.tree.path(u.Version, f.Filename)
		if err != nil {
			return joined{}, 0, err
		}
		size, err := s.sizes.unpacked(ctx, file, f.SHA256)
		if err != nil {
			return joined{}, 0, fmt.Errorf("unpacking %s: %w", f.Filename, err)
		}
		if err := b.published(strings.TrimSuffix(f.Filename, ".gz"), file, f, size); err != nil {
			return joined{}, 0, err
		}
		found = true
	}
	if !found {
		return joined{}, 0, fmt.Errorf("%w: version %s has no file of these components, types and architectures", errNoRelease, u.Version)
	}
	if err := b.fresh(make([]byte, 1024)); err != nil { // the end mark
		return joined{}, 0, err
	}
	tag := `"` + hex.EncodeToString(b.sum.Sum(nil)[:16]) + `"`
	return joined{splice.Join(tag, b.parts...), "update_" + u.Version + ".tar.gz", "application/gzip"}, b.kept, nil
}

type partsBuilder struct {
	parts []splice.Part
	sum   hash.Hash
	// kept is what the parts hold in memory, in bytes.
	kept int
}

// fresh adds bytes as a gzip member.
func (b *partsBuilder) fresh(data []byte) error {
	if len(data) == 0 {
		return nil
	}
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(data)
	if err := cmp.Or(err, w.Close()); err != nil {
		return fmt.Errorf("packing a part of the archive: %w", err)
	}
	b.sum.Write(out.Bytes())
	b.kept += out.Len()
	b.parts = append(b.parts, splice.Part{Data: out.Bytes()})
	return nil
}

func tarHeader(name string, size int64) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	// What is not closed has no end mark: the header alone is wanted.
	err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size, ModTime: time.Unix(0, 0)})
	if err != nil {
		return nil, fmt.Errorf("naming %s in the archive: %w", name, err)
	}
	return out.Bytes(), nil
}

func padding(size int64) []byte { return make([]byte, (512-size%512)%512) }

func (b *partsBuilder) small(name string, data []byte) error {
	header, err := tarHeader(name, int64(len(data)))
	if err != nil {
		return err
	}
	return b.fresh(slices.Concat(header, data, padding(int64(len(data)))))
}

func (b *partsBuilder) published(name, file string, f api.File, size int64) error {
	header, err := tarHeader(name, size)
	if err != nil {
		return err
	}
	if err := b.fresh(header); err != nil {
		return err
	}
	fmt.Fprint(b.sum, f.SHA256)
	b.parts = append(b.parts, splice.Part{Path: file, Size: f.Size})
	return b.fresh(padding(size))
}

// sizes remembers how long files are when they are unpacked, by the sum of the packed ones.
type sizes struct {
	turn chan struct{}
	mu   sync.Mutex
	all  map[string]int64
}

func newSizes() *sizes { return &sizes{turn: make(chan struct{}, 1), all: map[string]int64{}} }

// unpacked unpacks a file to count its bytes, once, and checks its sum on the way.
func (s *sizes) unpacked(ctx context.Context, file, sum string) (int64, error) {
	s.mu.Lock()
	size, known := s.all[sum]
	s.mu.Unlock()
	if known {
		return size, nil
	}
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	size, err := countUnpacked(ctx, file, sum)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.all) >= maxSizes {
		clear(s.all)
	}
	s.all[sum] = size
	return size, nil
}

func countUnpacked(ctx context.Context, file, sum string) (int64, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	digest := sha256.New()
	packed := io.TeeReader(f, digest)
	r, err := gzip.NewReader(packed)
	if err != nil {
		return 0, err
	}
	size := int64(0)
	for {
		n, err := io.CopyN(io.Discard, r, 16<<20)
		size += n
		if errors.Is(err, io.EOF) {
			break
		}
		if err := cmp.Or(err, ctx.Err()); err != nil {
			return 0, err
		}
		if size > maxUnpacked {
			return 0, fmt.Errorf("it unpacks to more than %d bytes", int64(maxUnpacked))
		}
	}
	if got := hex.EncodeToString(digest.Sum(nil)); got != sum {
		return 0, fmt.Errorf("its SHA-256 is %s, the index says %s", got, sum)
	}
	return size, nil
}

// resources is a medium with the applications of a choice, for a node without a network: an
// ISO 9660 file system with the label RESCUE_DATA, which a node looks for on CDs and sticks
// alike.
func (s *Service) resources(c Choice, version string) (joined, int, error) {
	index, err := s.tree.index()
	if err != nil {
		return joined{}, 0, err
	}
	at := slices.IndexFunc(index.Updates, func(u api.Update) bool { return u.Version == version })
	if at < 0 {
		return joined{}, 0, fmt.Errorf("%w: version %s", errNoRelease, version)
	}
	u := index.Updates[at]
	var files []isoFile
	for _, name := range []string{"update.json", "update.sjson"} {
		text, err := s.tree.read(path.Join(version, name), maxDocument)
		if errors.Is(err, os.ErrNotExist) && name == "update.sjson" {
			return joined{}, 0, coded(http.StatusConflict, errors.New("this release is not signed: a node without a network takes signed ones alone"))
		}
		if err != nil {
			return joined{}, 0, fmt.Errorf("reading the release: %w", err)
		}
		files = append(files, isoFile{"update/" + name, splice.Part{Data: text, Size: int64(len(text))}})
	}
	var p config.Problems
	for i, application := range c.Seeds.Applications.Applications {
		j := slices.IndexFunc(u.Files, func(f api.File) bool {
			return f.Type == api.TypeApplication && f.Architecture == c.Architecture && applicationName(f) == application.Name
		})
		if j < 0 {
			p.Add(fmt.Sprintf("seeds.applications.applications[%d].name", i), "release", "release %s has no application %q for %s",
				version, application.Name, c.Architecture)
			continue
		}
		file, err := s.tree.path(version, u.Files[j].Filename)
		if err != nil {
			return joined{}, 0, err
		}
		files = append(files, isoFile{"update/" + u.Files[j].Filename, splice.Part{Path: file, Size: u.Files[j].Size}})
	}
	if err := p.Err(); err != nil {
		return joined{}, 0, err
	}
	parts, err := isoParts("RESCUE_DATA", u.PublishedAt, files)
	if err != nil {
		return joined{}, 0, err
	}
	tag, kept := tagOf(parts)
	return joined{splice.Join(tag, parts...), "Holdfast_" + version + "_resources.iso", "application/octet-stream"}, kept, nil
}

// tagOf is an entity tag for parts whose files are never written into: what lies in the
// metadata names them by their sums.
func tagOf(parts []splice.Part) (tag string, kept int) {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%q %d %d ", p.Path, p.Offset, p.Size)
		h.Write(p.Data)
		kept += len(p.Data)
	}
	return `"` + hex.EncodeToString(h.Sum(nil)[:16]) + `"`, kept
}
