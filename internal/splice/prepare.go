package splice

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// indexFormat is the version of the cache; another one is prepared anew.
const indexFormat = 2

// MaxImage bounds an unpacked image, in bytes.
const MaxImage = 64 << 30

// maxIndex bounds an index, in bytes.
const maxIndex = 64 << 10

// chunkSize is how much is packed at a time, in bytes.
const chunkSize = 4 << 20

// grain is the smallest hole in the unpacked file, in bytes.
const grain = 64 << 10

// index is the document beside the files of a cache.
type index struct {
	Format       int    `json:"format"`
	SourceSHA256 string `json:"source_sha256"`
	RawSize      int64  `json:"raw_size"`
	RegionOffset int64  `json:"region_offset"`
	RegionSize   int64  `json:"region_size"`
	// Pieces are those before and behind the region, in their order.
	Pieces       []indexPiece `json:"pieces"`
	PackedSHA256 string       `json:"packed_sha256"`
}

type indexPiece struct {
	// Start and Size are the unpacked piece's, in bytes.
	Start int64 `json:"start"`
	Size  int64 `json:"size"`
	// Packed is the size of the packed one, in bytes.
	Packed int64 `json:"packed"`
	// Sum is the CRC-32 of the unpacked one.
	Sum uint32 `json:"crc32"`
}

// Source is a gzip file to prepare.
type Source struct {
	// Path is the file's.
	Path string
	// SHA256 is the file's sum, hexadecimal, as the release's index has it.
	SHA256 string
	// Cuts gives the places where the image may change later (Image.With), in bytes, out of its
	// beginning of at most 64 KiB; default none. More than 100 are an error.
	Cuts func(beginning []byte) []int64
}

// Open opens what Prepare has left in dir. The error is os.ErrNotExist when the image has
// to be prepared.
func Open(dir, sum string, region Region) (*Image, error) {
	if !isSum(sum) {
		return nil, fmt.Errorf("opening a prepared image: %q is not a SHA-256", sum)
	}
	missing := fmt.Errorf("opening the prepared image %s: %w", sum, os.ErrNotExist)
	f, err := os.Open(filepath.Join(dir, sum+".json"))
	if err != nil {
		return nil, fmt.Errorf("opening the prepared image: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxIndex))
	if err != nil {
		return nil, fmt.Errorf("reading the index of the prepared image: %w", err)
	}
	var x index
	if err := json.Unmarshal(text, &x); err != nil {
		return nil, missing
	}
	if x.Format != indexFormat || x.SourceSHA256 != sum || x.RegionOffset != region.Offset || x.RegionSize != region.Size {
		return nil, missing
	}
	m := &Image{packed: filepath.Join(dir, sum+".deflate"), raw: filepath.Join(dir, sum+".raw"), region: region, content: x.PackedSHA256}
	var pieces []piece
	packed := int64(0)
	for _, p := range x.Pieces {
		pieces = append(pieces, piece{p.Start, p.Size, p.Sum,
			Part{Path: m.packed, Offset: packed, Size: p.Packed}, Part{Path: m.raw, Offset: p.Start, Size: p.Size}})
		packed += p.Packed
	}
	m.packedSize, m.rawSize = packed, x.RawSize
	if m.join(pieces, x.RawSize) != nil || !m.Ready() {
		return nil, missing
	}
	if m.zeros, err = newZeros(region.Size); err != nil {
		return nil, err
	}
	return m, nil
}

// Prepare makes the files that images are spliced out of, in dir, unless they are there.
// It takes as long as packing the image once. Two at once on the same image are not for it.
func Prepare(ctx context.Context, source Source, region Region, dir string) (*Image, error) {
	m, err := Open(dir, source.SHA256, region)
	if err == nil || !errors.Is(err, os.ErrNotExist) {
		return m, err
	}
	if region.Size%unitSize != 0 || region.Offset < 0 || region.Size <= 0 {
		return nil, fmt.Errorf("preparing %s: a region of %d bytes at %d is not whole units of %d", source.Path, region.Size, region.Offset, unitSize)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making the folder of prepared images: %w", err)
	}
	if err := prepare(ctx, source, region, dir); err != nil {
		return nil, fmt.Errorf("preparing %s: %w", source.Path, err)
	}
	return Open(dir, source.SHA256, region)
}

// Prune removes what was prepared in dir for images whose sums are not among keep.
func Prune(dir string, keep []string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking for old prepared images: %w", err)
	}
	for _, entry := range entries {
		sum, ending, _ := strings.Cut(entry.Name(), ".")
		if !isSum(sum) || slices.Contains(keep, sum) || !slices.Contains([]string{"json", "raw", "deflate"}, ending) {
			continue
		}
		err = errors.Join(err, os.Remove(filepath.Join(dir, entry.Name())))
	}
	return err
}

func isSum(text string) bool {
	raw, err := hex.DecodeString(text)
	return err == nil && len(raw) == sha256.Size && strings.ToLower(text) == text
}

func hasSize(path string, size int64) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Size() == size
}

func prepare(ctx context.Context, source Source, region Region, dir string) (err error) {
	in, err := os.Open(source.Path)
	if err != nil {
		return err
	}
	defer in.Close()
	base := filepath.Join(dir, source.SHA256)
	for _, old := range []string{base + ".json", base + ".raw", base + ".deflate"} {
		if err := os.Remove(old); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	p := preparer{region: region, sum: sha256.New()}
	defer func() { err = errors.Join(err, p.close(err == nil)) }()
	if p.raw, err = create(base + ".raw"); err != nil {
		return err
	}
	if p.packed, err = create(base + ".deflate"); err != nil {
		return err
	}
	digest := sha256.New()
	counted := io.TeeReader(in, digest)
	unpacked, err := gzip.NewReader(counted)
	if err != nil {
		return err
	}
	beginning := make([]byte, grain)
	n, err := io.ReadFull(unpacked, beginning)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return err
	}
	if err := p.cut(source.Cuts, beginning[:n]); err != nil {
		return err
	}
	if err := p.run(ctx, io.MultiReader(bytes.NewReader(beginning[:n]), unpacked)); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, counted); err != nil {
		return err
	}
	if got := hex.EncodeToString(digest.Sum(nil)); got != source.SHA256 {
		return fmt.Errorf("its SHA-256 is %s, the release says %s: fetch the release again", got, source.SHA256)
	}
	if err := errors.Join(p.raw.Truncate(p.at), p.raw.Sync(), p.packed.Sync()); err != nil {
		return err
	}
	return writeIndex(base+".json", index{
		Format: indexFormat, SourceSHA256: source.SHA256, RawSize: p.at,
		RegionOffset: region.Offset, RegionSize: region.Size,
		Pieces: p.pieces, PackedSHA256: hex.EncodeToString(p.sum.Sum(nil)),
	})
}

func create(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
}

func writeIndex(path string, x index) error {
	text, err := json.MarshalIndent(x, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".index-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already when all went well
	_, err = f.Write(append(text, '\n'))
	if err := errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// preparer takes an unpacked image in and writes the two files.
type preparer struct {
	region      Region
	raw, packed *os.File
	sum         hash.Hash
	// cuts are where pieces begin, ascending.
	cuts   []int64
	pieces []indexPiece
	at     int64
}

// maxCuts bounds the cuts of one image.
const maxCuts = 100

// cut notes where pieces begin: at both ends of the region, and where the caller says.
func (p *preparer) cut(cuts func([]byte) []int64, beginning []byte) error {
	p.cuts = []int64{p.region.Offset, p.region.Offset + p.region.Size}
	if cuts != nil {
		p.cuts = append(p.cuts, cuts(beginning)...)
	}
	if len(p.cuts) > maxCuts {
		return fmt.Errorf("it would be cut at %d places, %d are possible", len(p.cuts), maxCuts)
	}
	slices.Sort(p.cuts)
	return nil
}

// next is where the piece ends that begins at a place or goes on there, at most.
func (p *preparer) next(at int64) int64 {
	for _, c := range p.cuts {
		if c > at {
			return c
		}
	}
	return MaxImage + 1
}

// close removes the files of a preparation that failed.
func (p *preparer) close(keep bool) (err error) {
	for _, f := range []*os.File{p.raw, p.packed} {
		if f == nil {
			continue
		}
		err = errors.Join(err, f.Close())
		if !keep {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}
	return err
}

// chunk is a piece of the unpacked image that is being packed.
type chunk struct {
	data []byte
	at   int64
	done chan struct{}
	out  []byte
	err  error
}

// run reads chunks, has them packed by as many goroutines as there are processors, and
// writes them in their order.
func (p *preparer) run(ctx context.Context, in io.Reader) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	queue := make(chan *chunk, runtime.GOMAXPROCS(0))
	read := make(chan error, 1)
	go func() {
		defer close(queue)
		read <- p.read(ctx, in, queue)
	}()
	var failed error
	for c := range queue {
		<-c.done
		if failed != nil {
			continue
		}
		if failed = cmp.Or(c.err, p.write(c)); failed != nil {
			cancel()
		}
	}
	if err := <-read; failed == nil {
		failed = err
	}
	return failed
}

func (p *preparer) read(ctx context.Context, in io.Reader, queue chan<- *chunk) error {
	end := p.region.Offset + p.region.Size
	for {
		c := &chunk{data: make([]byte, min(chunkSize, p.next(p.at)-p.at)), at: p.at, done: make(chan struct{})}
		n, err := io.ReadFull(in, c.data)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		c.data = c.data[:n]
		if n > 0 {
			p.at += int64(n)
			if p.at > MaxImage {
				return fmt.Errorf("the image is longer than %d bytes", int64(MaxImage))
			}
			go c.pack()
			select {
			case queue <- c:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err != nil {
			break
		}
	}
	// A gzip file that is cut off looks the same as the end of a short read here.
	if _, err := in.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		return cmp.Or(err, errors.New("the image goes on behind its end"))
	}
	if p.at < end {
		return fmt.Errorf("the image has %d bytes, the partition of the seed ends at %d", p.at, end)
	}
	return nil
}

func (c *chunk) pack() {
	c.out, c.err = deflate(c.data)
	close(c.done)
}

func (p *preparer) write(c *chunk) error {
	if c.at >= p.region.Offset && c.at < p.region.Offset+p.region.Size {
		return nil // the seed's partition stays a hole
	}
	if len(p.pieces) == 0 || slices.Contains(p.cuts, c.at) {
		p.pieces = append(p.pieces, indexPiece{Start: c.at})
	}
	to := &p.pieces[len(p.pieces)-1]
	to.Size += int64(len(c.data))
	to.Packed += int64(len(c.out))
	to.Sum = crc32.Update(to.Sum, crc32.IEEETable, c.data)
	p.sum.Write(c.out)
	if _, err := p.packed.Write(c.out); err != nil {
		return err
	}
	for from := 0; from < len(c.data); from += grain {
		part := c.data[from:min(from+grain, len(c.data))]
		if bytes.Equal(part, noBytes[:len(part)]) {
			continue
		}
		if _, err := p.raw.WriteAt(part, c.at+int64(from)); err != nil {
			return err
		}
	}
	return nil
}

var noBytes [grain]byte
