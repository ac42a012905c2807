package parts_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/delta"
	"github.com/holdfast-os/holdfast/internal/fetch"
	"github.com/holdfast-os/holdfast/internal/parts"
)

const version = "202611220200"

// published is a tree with one part, which differs a little from that of the release before.
type published struct {
	tree      string
	part      release.Part
	old, want []byte
	asked     []string
	getter    *parts.Getter
	dir       string
}

func publish(t *testing.T) *published {
	t.Helper()
	p := &published{tree: t.TempDir(), dir: t.TempDir()}
	random := rand.New(rand.NewPCG(1, 2))
	p.old = make([]byte, 3<<20)
	for i := range p.old {
		p.old[i] = byte(random.Uint32())
	}
	p.want = slices.Concat(p.old[:1<<20], []byte("what is new"), p.old[1<<20:])
	p.part = release.Part{Name: "usr.raw", Component: release.ComponentOS, Type: release.TypeUpdateUsr,
		Size: int64(len(p.want)), SHA256: sum(p.want), Full: p.put(t, "usr.raw.gz", packed(t, p.want))}
	var patch, index, pack bytes.Buffer
	section := func(data []byte) *io.SectionReader {
		return io.NewSectionReader(bytes.NewReader(data), 0, int64(len(data)))
	}
	limits, err := delta.Make(t.Context(), section(p.old), section(p.want), &patch, delta.Options{Compress: compress})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := delta.MakeChunks(t.Context(), bytes.NewReader(p.want), &index, &pack); err != nil {
		t.Fatal(err)
	}
	p.part.Deltas = []release.Delta{{From: "202611220100", BaseSize: limits.Base.Size, BaseSHA256: limits.Base.SHA256.String(), Patch: p.put(t, "usr.patch", patch.Bytes())}}
	p.part.Chunks = &release.Chunks{Index: p.put(t, "usr.index", index.Bytes()), Pack: p.put(t, "usr.pack", pack.Bytes())}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.asked = append(p.asked, strings.TrimPrefix(r.URL.Path, "/"))
		http.FileServer(http.Dir(p.tree)).ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	downloads, err := fetch.New(fetch.Options{Mirrors: []string{server.URL}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(downloads.Close)
	dir, err := os.OpenRoot(p.dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dir.Close() })
	p.getter = &parts.Getter{Downloads: downloads, Dir: dir, Version: version}
	return p
}

func (p *published) put(t *testing.T, name string, data []byte) release.Blob {
	t.Helper()
	if err := os.WriteFile(filepath.Join(p.tree, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
	return release.Blob{Path: name, Size: int64(len(data)), SHA256: sum(data)}
}

func sum(data []byte) string { s := sha256.Sum256(data); return hex.EncodeToString(s[:]) }

func packed(t *testing.T, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// compress stands in for the zstd program, which finds more.
func compress(_ context.Context, window, segment []byte) ([]byte, error) {
	options := []zstd.EOption{zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(8 << 20)}
	if len(window) > 0 {
		options = append(options, zstd.WithEncoderDictRaw(0, window))
	}
	encoder, err := zstd.NewWriter(nil, options...)
	if err != nil {
		return nil, err
	}
	return encoder.EncodeAll(segment, nil), nil
}

type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }

func base(version string, data []byte) []parts.Base {
	return []parts.Base{{Version: version, Size: int64(len(data)), Open: func() (parts.Content, error) { return memory{bytes.NewReader(data)}, nil }}}
}

// get is what a node does.
func (p *published) get(t *testing.T, part release.Part, bases []parts.Base) (delta.Kind, []byte, error) {
	t.Helper()
	way, err := p.getter.Plan(t.Context(), part, bases)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.getter.Fetch(t.Context(), way, nil); err != nil {
		t.Fatal(err)
	}
	stream, err := p.getter.Open(t.Context(), way)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(stream)
	return way.Kind, data, errors.Join(err, stream.Close())
}

// A node fetches what it lacks and no more: a patch where there is one for what it has,
// else the chunks that it does not have, else everything.
func TestGet_WhatTheNodeHas_DecidesTheWayAndTheResultIsTheSame(t *testing.T) {
	cases := map[string]struct {
		bases []parts.Base
		kind  delta.Kind
		asked []string
	}{
		"the release before": {base("202611220100", nil), delta.KindDelta, []string{"usr.patch"}},
		"an older release":   {base("202611010000", nil), delta.KindChunks, []string{"usr.index", "usr.pack"}},
		"nothing":            {nil, delta.KindFull, []string{"usr.raw.gz"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			p := publish(t)
			bases := c.bases
			if bases != nil {
				bases = base(c.bases[0].Version, p.old)
			}
			kind, data, err := p.get(t, p.part, bases)
			if err != nil || kind != c.kind || !bytes.Equal(data, p.want) {
				t.Errorf("by %s: %d bytes of %d, %v", kind, len(data), len(p.want), err)
			}
			if diff := cmp.Diff(c.asked, slices.Compact(p.asked)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What leads to other bytes than were promised ends in an error that says: take it whole.
func TestGet_BaseOrPatchIsAnother_IsWrongAndTheWholeIsTaken(t *testing.T) {
	cases := map[string]func(p *published, bases []parts.Base) (release.Part, []parts.Base){
		"a delta that promises another result": func(p *published, bases []parts.Base) (release.Part, []parts.Base) {
			part := p.part
			part.SHA256 = sum([]byte("something else"))
			return part, bases
		},
		"whole file of another sum": func(p *published, _ []parts.Base) (release.Part, []parts.Base) {
			part := p.part
			part.SHA256 = sum([]byte("something else"))
			return part, nil
		},
	}
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			p := publish(t)
			part, bases := change(p, base("202611220100", p.old))
			_, data, err := p.get(t, part, bases)
			if !parts.Wrong(err) || len(data) >= len(p.want) {
				t.Errorf("%d bytes of %d, %v", len(data), len(p.want), err)
			}
			whole := parts.Whole(p.part)
			if err := p.getter.Fetch(t.Context(), whole, nil); err != nil {
				t.Fatal(err)
			}
			stream, err := p.getter.Open(t.Context(), whole)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(stream)
			if err = errors.Join(err, stream.Close()); err != nil || !bytes.Equal(got, p.want) {
				t.Errorf("whole: %d bytes, %v", len(got), err)
			}
		})
	}
}

// A power cut between two ranges costs one range.
func TestFetch_CutBetweenRanges_GoesOnWithTheNext(t *testing.T) {
	p := publish(t)
	p.part.Deltas = nil
	scattered := bytes.Clone(p.old)
	for at := 100 << 10; at < len(scattered); at += 1 << 20 {
		scattered[at] ^= 1
	}
	bases := base("202611010000", scattered)
	way, err := p.getter.Plan(t.Context(), p.part, bases)
	if err != nil || way.Kind != delta.KindChunks {
		t.Fatalf("%s, %v", way.Kind, err)
	}
	if err := p.getter.Fetch(t.Context(), way, nil); err != nil {
		t.Fatal(err)
	}
	pieces := filepath.Join(p.dir, version+".usr.raw.pieces")
	whole, err := os.Stat(pieces)
	if err != nil {
		t.Fatal(err)
	}
	ranges := len(p.asked)
	if err := os.Truncate(pieces, whole.Size()-1); err != nil {
		t.Fatal(err)
	}
	p.asked = nil
	_, data, err := p.get(t, p.part, bases)
	if err != nil || !bytes.Equal(data, p.want) {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	if diff := cmp.Diff([]string{"usr.pack"}, p.asked); diff != "" || ranges < 3 {
		t.Errorf("the first time %d requests, the second: %s", ranges, diff)
	}
}

// What was fetched for a release that is not wanted any more must not fill the disk.
func TestTidy_OtherRelease_OnlyTheWantedOneStays(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"202611220100.usr.raw.patch", version + ".usr.raw.gz", "junk"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := parts.Tidy(root, version); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(dir + "/*")
	if err != nil || len(left) != 1 || filepath.Base(left[0]) != version+".usr.raw.gz" {
		t.Errorf("left: %v, %v", left, err)
	}
}
