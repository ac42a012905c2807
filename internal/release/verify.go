package release

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-os/holdfast/api/release"
)

// VerifyOptions say what to look at in a tree on this computer.
type VerifyOptions struct {
	// Tree is the tree's directory.
	Tree string
	// UpdateCA is PEM: the certificate that signed the tree, or one it descends from.
	UpdateCA []byte
	// Deep also unpacks every file, and compares what comes out with the manifests;
	// default false.
	Deep bool
	// Now is the time that certificates must be valid at; default the clock's.
	Now time.Time
	// Progress is told the file that is looked at, and the bytes done, of how many; default
	// nobody is.
	Progress func(file string, done, total int64)
}

// VerifyReport is what VerifyTree has found.
type VerifyReport struct {
	// Releases, Files and Bytes are what was looked at.
	Releases int
	Files    int
	Bytes    int64
	// Problems are all that is wrong, ordered by path; empty for a good tree.
	Problems []VerifyProblem
	// Unnamed are files that neither index nor manifest names, ordered. No node takes them;
	// a cut publication may have left them, and the next one clears them.
	Unnamed []string
}

// VerifyProblem is one thing that is wrong with a tree.
type VerifyProblem struct {
	// Path is relative to the tree.
	Path string
	// Err wraps one of this package's errors, or is the disk's.
	Err error
}

func (p VerifyProblem) Error() string { return p.Path + ": " + p.Err.Error() }
func (p VerifyProblem) Unwrap() error { return p.Err }

// VerifyTree checks the signatures of a tree, and every file against index and manifests.
// It goes on behind a problem, to find all of them; its error is only that it could not
// look. The metadata in the folder "tuf" is left to those who make it.
func VerifyTree(ctx context.Context, o VerifyOptions) (VerifyReport, error) {
	anchors, err := ParseCA(o.UpdateCA)
	if err != nil {
		return VerifyReport{}, fmt.Errorf("verifying %s: %w", o.Tree, err)
	}
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	v := &verifier{o: o, anchors: anchors, named: map[string]bool{"index.json": true, "index.sjson": true}, sums: map[string]expected{}}
	if _, err := os.Stat(o.Tree); err != nil {
		return VerifyReport{}, fmt.Errorf("verifying the tree: %w", err)
	}
	v.index()
	if err := v.files(ctx); err != nil {
		return VerifyReport{}, fmt.Errorf("verifying %s: %w", o.Tree, err)
	}
	if err := v.unnamed(); err != nil {
		return VerifyReport{}, fmt.Errorf("verifying %s: %w", o.Tree, err)
	}
	slices.SortStableFunc(v.report.Problems, func(a, b VerifyProblem) int { return strings.Compare(a.Path, b.Path) })
	return v.report, nil
}

// expected is what a file must be. plain is the sum of what comes out of it, and empty
// where nobody says.
type expected struct {
	size      int64
	sum       string
	plainSize int64
	plain     string
}

type verifier struct {
	o       VerifyOptions
	anchors []*x509.Certificate
	report  VerifyReport
	named   map[string]bool
	sums    map[string]expected
}

func (v *verifier) wrong(path string, err error) {
	v.report.Problems = append(v.report.Problems, VerifyProblem{path, err})
}

// signed reads a document that lies there twice, plain and signed, and gives its text once
// both say the same.
func (v *verifier) signed(path string) ([]byte, bool) {
	message, err := readFileAtMost(filepath.Join(v.o.Tree, path+".sjson"), maxDocument)
	if err != nil {
		v.wrong(path+".sjson", pathless(err))
		return nil, false
	}
	text, err := Verify(message, v.anchors, v.o.Now)
	if err != nil {
		v.wrong(path+".sjson", err)
		return nil, false
	}
	plain, err := readFileAtMost(filepath.Join(v.o.Tree, path+".json"), maxDocument)
	if err != nil {
		v.wrong(path+".json", pathless(err))
	} else if !bytes.Equal(plain, text) {
		v.wrong(path+".json", fmt.Errorf("%w: it says something else than %s.sjson", ErrMismatch, filepath.Base(path)))
	}
	return text, true
}

// pathless is an error of the disk without the path, which a problem has already.
func pathless(err error) error {
	var on *fs.PathError
	if errors.As(err, &on) {
		return on.Err
	}
	return err
}

func (v *verifier) index() {
	text, ok := v.signed("index")
	if !ok {
		return
	}
	index, err := parseIndex(text)
	if err != nil {
		v.wrong("index.sjson", err)
		return
	}
	for _, update := range index.Updates {
		if err := checkUpdate(update); err != nil {
			v.wrong("index.sjson", err)
			continue
		}
		v.report.Releases++
		v.update(update)
	}
}

// update looks at what a release says of itself, and notes its files.
func (v *verifier) update(update release.Update) {
	own := update.Version + "/update"
	v.named[own+".json"], v.named[own+".sjson"] = true, true
	if text, ok := v.signed(own); ok {
		update.URL = ""
		alone, err := parseUpdate(text)
		want, encodeErr := json.Marshal(update)
		have, _ := json.Marshal(alone)
		if err = errors.Join(err, encodeErr); err == nil && !bytes.Equal(have, want) {
			err = fmt.Errorf("%w: the index says something else of this release", ErrMismatch)
		}
		if err != nil {
			v.wrong(own+".sjson", err)
		}
	}
	for _, f := range update.Files {
		v.expect(update.Version+"/"+f.Filename, expected{size: f.Size, sum: f.SHA256})
	}
	for _, arch := range archesOf(update) {
		v.manifest(update, arch)
	}
}

// manifest notes the files that the manifest names, and looks whether it is the index's.
func (v *verifier) manifest(update release.Update, arch string) {
	path := update.Version + "/" + arch + "/" + manifestName
	m, err := (&tree{dir: v.o.Tree}).readManifest(update.Version, arch)
	if errors.Is(err, os.ErrNotExist) {
		return // a release of an earlier publisher
	}
	v.named[path] = true
	if err != nil {
		v.wrong(path, err)
		return
	}
	if !m.PublishedAt.Equal(update.PublishedAt) || m.Severity != update.Severity {
		v.wrong(path, fmt.Errorf("%w: the index has another time or severity", ErrMismatch))
	}
	missing := map[string]bool{}
	for _, f := range update.Files {
		if (f.Architecture == arch || f.Architecture == "") && runs(f.Type) {
			missing[update.Version+"/"+f.Filename] = true
		}
	}
	for _, b := range Blobs(m) {
		v.expect(b.Path, expected{size: b.Size, sum: b.SHA256})
	}
	for _, p := range m.Parts {
		if !missing[p.Full.Path] {
			v.wrong(path, fmt.Errorf("%w: the index does not have %s", ErrMismatch, p.Full.Path))
		}
		delete(missing, p.Full.Path)
		e := v.sums[p.Full.Path]
		e.plainSize, e.plain = p.Size, p.SHA256
		v.sums[p.Full.Path] = e
	}
	for name := range missing {
		v.wrong(path, fmt.Errorf("%w: it does not have %s, which is in the index", ErrMismatch, name))
	}
}

// expect notes a file; what two documents say of it must be the same.
func (v *verifier) expect(path string, e expected) {
	if old, ok := v.sums[path]; ok && (old.size != e.size || old.sum != e.sum) {
		v.wrong(path, fmt.Errorf("%w: index and manifest have different sums for it", ErrMismatch))
		return
	} else if ok {
		return
	}
	v.named[path] = true
	v.sums[path] = e
}

// files reads every file that is named.
func (v *verifier) files(ctx context.Context) error {
	paths := make([]string, 0, len(v.sums))
	var total, done int64
	for path, e := range v.sums {
		paths = append(paths, path)
		total += e.size
	}
	slices.Sort(paths)
	for _, path := range paths {
		if v.o.Progress != nil {
			v.o.Progress(path, done, total)
		}
		if err := v.file(ctx, path, v.sums[path]); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			v.wrong(path, pathless(err))
		}
		done += v.sums[path].size
		v.report.Files++
		v.report.Bytes += v.sums[path].size
	}
	if v.o.Progress != nil {
		v.o.Progress("", done, total)
	}
	return nil
}

func (v *verifier) file(ctx context.Context, path string, e expected) error {
	f, err := os.Open(filepath.Join(v.o.Tree, path))
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%w: it is no file", ErrMismatch)
	}
	if info.Size() != e.size {
		return fmt.Errorf("%w: it has %d bytes, and should have %d", ErrMismatch, info.Size(), e.size)
	}
	digest := sha256.New()
	packed := io.TeeReader(&contextReader{ctx, f}, digest)
	var plainErr error
	if v.o.Deep && e.plain != "" {
		plainErr = checkPlain(packed, e)
	}
	if _, err := io.Copy(io.Discard, packed); err != nil {
		return err
	}
	if !sums(digest, e.sum) {
		return fmt.Errorf("%w: its sum is another", ErrMismatch)
	}
	return plainErr
}

func sums(digest hash.Hash, want string) bool { return hex.EncodeToString(digest.Sum(nil)) == want }

// checkPlain unpacks a file and compares what comes out.
func checkPlain(packed io.Reader, e expected) error {
	r, err := gzip.NewReader(packed)
	if err != nil {
		return fmt.Errorf("%w: unpacking: %w", ErrMismatch, err)
	}
	digest := sha256.New()
	n, err := io.Copy(digest, io.LimitReader(r, e.plainSize+1))
	if err != nil {
		return fmt.Errorf("%w: unpacking: %w", ErrMismatch, err)
	}
	if n != e.plainSize || !sums(digest, e.plain) {
		return fmt.Errorf("%w: unpacked it is not what the manifest says", ErrMismatch)
	}
	return nil
}

// unnamed finds files that nobody names. Hidden ones are working files of a publisher, and
// the folder "tuf" belongs to the metadata.
func (v *verifier) unnamed() error {
	return filepath.WalkDir(v.o.Tree, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(v.o.Tree, path)
		if err != nil || name == "." {
			return err
		}
		name = filepath.ToSlash(name)
		if entry.IsDir() && (strings.HasPrefix(entry.Name(), ".") || name == "tuf") {
			return fs.SkipDir
		}
		if !entry.IsDir() && !v.named[name] && !strings.HasPrefix(entry.Name(), ".") {
			v.report.Unnamed = append(v.report.Unnamed, name)
		}
		return nil
	})
}
