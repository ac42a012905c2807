package packages

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/holdfast-os/holdfast/api/release"
)

// Limits of a .deb, in bytes and in number.
const (
	maxDebMembers = 16
	maxTarMembers = 1 << 20
	maxTarBytes   = 16 << 30
	maxDocuments  = 32 << 20
)

// File is a file of an archive.
type File struct {
	// Name is its path in the archive, as "./usr/share/doc/openssl/copyright".
	Name string
	Data []byte
}

// Members reads the regular files of an xz-packed tar whose path matches pattern, in which
// "*" stands for any characters, "/" included. Something always matches; no match at all is
// an error.
type Members func(ctx context.Context, packed io.Reader, pattern string) ([]File, error)

// Debs reads .deb files.
type Debs struct {
	// XZ reads what is packed with xz, as almost every .deb of Debian is; default: such a
	// .deb is an error.
	XZ Members
}

// The two patterns that Members is asked for.
const (
	controlPattern  = "./control"
	documentPattern = "*/usr/share/doc/*"
)

var (
	controlPath   = regexp.MustCompile(`^control$`)
	documentPath  = regexp.MustCompile(`^usr/share/doc/`)
	changelogPath = regexp.MustCompile(`^usr/share/doc/[^/]+/changelog(\.Debian(\.[a-z0-9-]+)?)?\.gz$`)
)

// ControlOf reads who a .deb is: name, version, architecture, source.
func (d Debs) ControlOf(ctx context.Context, deb io.Reader) (release.Package, error) {
	packed, kind, err := member(deb, "control.tar")
	if err != nil {
		return release.Package{}, err
	}
	files, err := d.files(ctx, packed, kind, controlPattern, controlPath)
	if err != nil {
		return release.Package{}, fmt.Errorf("reading control.tar%s: %w", kind, err)
	}
	for _, f := range files {
		if clean(f.Name) == "control" {
			return FromControl(bytes.NewReader(f.Data))
		}
	}
	return release.Package{}, fmt.Errorf("%w: control.tar%s has no file control", ErrFormat, kind)
}

// ChangelogOf reads the Debian changelog of a .deb as ParseChangelog does. found is false
// for a .deb without one: its documents are then those of another package of its source.
func (d Debs) ChangelogOf(ctx context.Context, deb io.Reader) (changes []release.PackageChange, found bool, err error) {
	packed, kind, err := member(deb, "data.tar")
	if err != nil {
		return nil, false, err
	}
	files, err := d.files(ctx, packed, kind, documentPattern, documentPath)
	if err != nil {
		return nil, false, fmt.Errorf("reading data.tar%s: %w", kind, err)
	}
	var texts []io.Reader
	for _, f := range files {
		if !changelogPath.MatchString(clean(f.Name)) {
			continue
		}
		text, err := gzip.NewReader(bytes.NewReader(f.Data))
		if err != nil {
			return nil, false, fmt.Errorf("reading %s: %w", f.Name, err)
		}
		texts = append(texts, text, strings.NewReader("\n"))
	}
	if len(texts) == 0 {
		return nil, false, nil
	}
	changes, err = ParseChangelog(io.MultiReader(texts...))
	return changes, true, err
}

func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// member finds a member of an ar archive by the beginning of its name, and gives its rest.
func member(r io.Reader, prefix string) (data io.Reader, suffix string, err error) {
	magic := make([]byte, 8)
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != "!<arch>\n" {
		return nil, "", fmt.Errorf("reading a .deb: %w: it is no ar archive", ErrFormat)
	}
	header := make([]byte, 60)
	for range maxDebMembers {
		if _, err := io.ReadFull(r, header); err != nil {
			return nil, "", fmt.Errorf("reading a .deb: %w: no %s in it", ErrFormat, prefix)
		}
		name := strings.TrimSuffix(strings.TrimRight(string(header[:16]), " "), "/")
		size, err := strconv.ParseInt(strings.TrimRight(string(header[48:58]), " "), 10, 64)
		if err != nil || size < 0 || string(header[58:]) != "`\n" {
			return nil, "", fmt.Errorf("reading a .deb: %w: the header of %q is broken", ErrFormat, name)
		}
		if suffix, ok := strings.CutPrefix(name, prefix); ok {
			return &exactReader{r, size}, suffix, nil
		}
		if _, err := io.CopyN(io.Discard, r, size+size%2); err != nil {
			return nil, "", fmt.Errorf("reading a .deb: %w: %s is cut off", ErrFormat, name)
		}
	}
	return nil, "", fmt.Errorf("reading a .deb: %w: more than %d members", ErrFormat, maxDebMembers)
}

// exactReader gives left bytes of r; fewer are an error.
type exactReader struct {
	r    io.Reader
	left int64
}

func (e *exactReader) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n, err := e.r.Read(p[:min(int64(len(p)), e.left)])
	e.left -= int64(n)
	if errors.Is(err, io.EOF) && e.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// files unpacks a tar by the suffix of its name.
func (d Debs) files(ctx context.Context, packed io.Reader, kind, pattern string, wanted *regexp.Regexp) ([]File, error) {
	switch kind {
	case ".xz":
		if d.XZ == nil {
			return nil, errors.New("it is packed with xz, and there is nothing here to unpack that")
		}
		return d.XZ(ctx, packed, pattern)
	case ".gz":
		unpacked, err := gzip.NewReader(packed)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrFormat, err)
		}
		return tarFiles(ctx, unpacked, wanted)
	case ".zst":
		unpacked, err := zstd.NewReader(packed, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrFormat, err)
		}
		defer unpacked.Close()
		return tarFiles(ctx, unpacked, wanted)
	case "":
		return tarFiles(ctx, packed, wanted)
	}
	return nil, fmt.Errorf("%w: it is packed as %q; known are .xz, .zst and .gz", ErrFormat, kind)
}

func tarFiles(ctx context.Context, r io.Reader, wanted *regexp.Regexp) ([]File, error) {
	archive := tar.NewReader(io.LimitReader(r, maxTarBytes))
	var files []File
	left := int64(maxDocuments)
	for range maxTarMembers {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrFormat, err)
		}
		if header.Typeflag != tar.TypeReg || !wanted.MatchString(clean(header.Name)) {
			continue
		}
		if header.Size > left {
			return nil, fmt.Errorf("%w: more than %d bytes of documents", ErrFormat, maxDocuments)
		}
		left -= header.Size
		data, err := io.ReadAll(archive)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrFormat, header.Name, err)
		}
		files = append(files, File{header.Name, data})
	}
	return nil, fmt.Errorf("%w: more than %d files", ErrFormat, maxTarMembers)
}
