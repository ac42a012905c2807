//go:build linux

package host

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/pgzip"

	wire "github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/delta"
	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/release"
	"github.com/holdfast-os/holdfast/internal/slotfeed"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/zstd"
	"github.com/holdfast-os/holdfast/test/needs"
)

// built is the release that `make build` made: its files whole, and packed in its tree.
func built(b *testing.B) (manifest wire.Manifest, out, tree string) {
	b.Helper()
	root := filepath.Join("..", "..", ".build")
	out, tree = filepath.Join(root, "out"), filepath.Join(root, "release")
	version, err := release.BuildVersion(out)
	if err != nil {
		needs.MissingBuild(b, "build: "+err.Error())
	}
	text, err := os.ReadFile(filepath.Join(tree, version, "x86_64", "manifest.json"))
	if err != nil {
		needs.MissingBuild(b, "release tree: "+err.Error())
	}
	if err := json.Unmarshal(text, &manifest); err != nil {
		b.Fatal(err)
	}
	return manifest, out, tree
}

// sources open the files of a release by name.
type sources map[string]func(ctx context.Context) (io.ReadCloser, error)

// unpacked gives the bytes of a packed file, as a node makes them.
type unpacked struct {
	*pgzip.Reader
	file *os.File
}

func (u unpacked) Close() error { return errors.Join(u.Reader.Close(), u.file.Close()) }

func whole(path string) func(context.Context) (io.ReadCloser, error) {
	return func(context.Context) (io.ReadCloser, error) {
		file, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		reader, err := pgzip.NewReader(bufio.NewReaderSize(file, 1<<20))
		if err != nil {
			return nil, errors.Join(err, file.Close())
		}
		return unpacked{reader, file}, nil
	}
}

// changedEvery is how far apart, in bytes, the changes are between the file before and the
// one that is written: a page in each 256 KiB is another one.
const changedEvery, changedLength = 256 << 10, 4 << 10

// fromDelta makes a file before and the patch from it, and gives the bytes as a node makes
// them out of both.
func fromDelta(b *testing.B, path string, size int64) func(context.Context) (io.ReadCloser, error) {
	b.Helper()
	dir := b.TempDir()
	data, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	now := io.NewSectionReader(bytes.NewReader(data), 0, size)
	before, random := bytes.Clone(data[:size]), rand.NewChaCha8([32]byte{1})
	for at := 0; at+changedLength <= len(before); at += changedEvery {
		_, _ = random.Read(before[at : at+changedLength]) // cannot fail
	}
	base := filepath.Join(dir, "before")
	if err := os.WriteFile(base, before, 0o600); err != nil {
		b.Fatal(err)
	}
	var patch bytes.Buffer
	limits, err := delta.Make(b.Context(), io.NewSectionReader(bytes.NewReader(before), 0, size), now, &patch,
		delta.Options{Compress: zstd.Zstd{Run: run.Host, Dir: dir}.Patch, Workers: runtime.NumCPU()})
	if err != nil {
		b.Fatal(err)
	}
	packed := filepath.Join(dir, "patch")
	if err := os.WriteFile(packed, patch.Bytes(), 0o600); err != nil {
		b.Fatal(err)
	}
	return func(ctx context.Context) (io.ReadCloser, error) {
		old, err := os.Open(base)
		if err != nil {
			return nil, err
		}
		patch, err := os.Open(packed)
		if err != nil {
			return nil, errors.Join(err, old.Close())
		}
		out, in := io.Pipe()
		go func() {
			err := delta.Apply(ctx, patch, old, in, limits)
			_ = in.CloseWithError(errors.Join(err, patch.Close(), old.Close())) // always nil
		}()
		return out, nil
	}
}

// BenchmarkSysupdate_Slot writes the release of the build into the free slot, and the same
// bytes with dd. The ratio is what counts. Once the files come whole, packed with gzip; once
// as patches for files that are much the same.
func BenchmarkSysupdate_Slot(b *testing.B) {
	manifest, out, tree := built(b)
	var files []slotfeed.File
	packed := map[string]string{}
	for _, part := range manifest.Parts {
		if part.Component == wire.ComponentOS {
			files = append(files, slotfeed.File{Name: part.Name, Size: part.Size, SHA256: part.SHA256})
			packed[part.Name] = filepath.Join(tree, part.Full.Path)
		}
	}
	// systemd-sysupdate asks for the kernel image last, and the feed goes in that order.
	slices.SortStableFunc(files, func(a, b slotfeed.File) int {
		return cmp.Compare(filepath.Ext(b.Name), filepath.Ext(a.Name))
	})
	b.Run("whole", func(b *testing.B) {
		from := sources{}
		for _, file := range files {
			from[file.Name] = whole(packed[file.Name])
		}
		writeSlot(b, manifest.Version, out, files, from)
	})
	b.Run("delta", func(b *testing.B) {
		from, checked := sources{}, slices.Clone(files)
		for i, file := range files {
			from[file.Name], checked[i].Checked = fromDelta(b, filepath.Join(out, file.Name), file.Size), true
		}
		writeSlot(b, manifest.Version, out, checked, from)
	})
}

func writeSlot(b *testing.B, version, out string, files []slotfeed.File, from sources) {
	b.Helper()
	var whole, plain time.Duration
	forgetPeak(b)
	for b.Loop() {
		n := newNode(b)
		begun := time.Now()
		feed, err := slotfeed.Start(files, func(ctx context.Context, name string) (io.ReadCloser, error) {
			return from[name](ctx)
		}, nil)
		if err != nil {
			b.Fatal(err)
		}
		n.transfers(b, feed.URL())
		n.update.Hide = feed.Token()
		if err := errors.Join(n.update.Update(b.Context(), version, nil), feed.Err(), feed.Close()); err != nil {
			b.Fatal(err)
		}
		syscall.Sync()
		whole += time.Since(begun)
		// To a disk of its own: what was written once is written faster again.
		plain += copied(b, newNode(b), out, files)
	}
	b.ReportMetric(whole.Seconds()/float64(b.N), "s/update")
	b.ReportMetric(plain.Seconds()/float64(b.N), "s/dd")
	b.ReportMetric(whole.Seconds()/plain.Seconds(), "times-dd")
	b.ReportMetric(peak(b), "MB-peak")
}

// copied writes the same bytes with dd, to the same places.
func copied(b *testing.B, n node, out string, files []slotfeed.File) time.Duration {
	b.Helper()
	begun := time.Now()
	for _, file := range files {
		to := n.disk + "p" + strconv.Itoa(layout.UsrB)
		switch {
		case strings.HasSuffix(file.Name, ".efi"):
			to = filepath.Join(n.loader.ESP, "dd.efi")
		case strings.Contains(file.Name, "verity-sig"):
			to = n.disk + "p" + strconv.Itoa(layout.SigB)
		case strings.Contains(file.Name, "verity"):
			to = n.disk + "p" + strconv.Itoa(layout.VerityB)
		}
		command(b, "dd", "if="+filepath.Join(out, file.Name), "of="+to, "bs=1M", "iflag=count_bytes", "count="+strconv.FormatInt(file.Size, 10), "conv=fsync")
	}
	return time.Since(begun)
}

// forgetPeak begins the count of peak anew, with what was taken before given back.
func forgetPeak(b *testing.B) {
	b.Helper()
	debug.FreeOSMemory()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		b.Fatal(err)
	}
}

// peak is the largest resident set of this process since forgetPeak, in MB.
func peak(b *testing.B) float64 {
	b.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "VmHWM:")
	var kib float64
	if _, err := fmt.Sscanf(after, "%f kB", &kib); err != nil {
		b.Fatalf("reading the peak of memory: %v", err)
	}
	return kib * 1024 / 1e6
}
