//go:build linux

package host

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/pgzip"

	wire "github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/release"
	"github.com/holdfast-os/holdfast/internal/slotfeed"
)

// built is the release that `make build` made: its files whole, and packed in its tree.
func built(b *testing.B) (manifest wire.Manifest, out, tree string) {
	b.Helper()
	root := filepath.Join("..", "..", ".build")
	out, tree = filepath.Join(root, "out"), filepath.Join(root, "release")
	version, err := release.BuildVersion(out)
	if err != nil {
		b.Skipf("missing: a build (make build): %v", err)
	}
	text, err := os.ReadFile(filepath.Join(tree, version, "x86_64", "manifest.json"))
	if err != nil {
		b.Skipf("missing: a release tree (make build): %v", err)
	}
	if err := json.Unmarshal(text, &manifest); err != nil {
		b.Fatal(err)
	}
	return manifest, out, tree
}

// unpacked gives the bytes of a packed file, as a node makes them.
type unpacked struct {
	*pgzip.Reader
	file *os.File
}

func (u unpacked) Close() error { return errors.Join(u.Reader.Close(), u.file.Close()) }

// BenchmarkSysupdate_Slot writes the release of the build into the free slot, unpacking and
// summing it on the way, and the same bytes with dd. The ratio is what counts.
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
	var whole, plain time.Duration
	for b.Loop() {
		n := newNode(b)
		begun := time.Now()
		feed, err := slotfeed.Start(files, func(_ context.Context, name string) (io.ReadCloser, error) {
			file, err := os.Open(packed[name])
			if err != nil {
				return nil, err
			}
			reader, err := pgzip.NewReader(bufio.NewReaderSize(file, 1<<20))
			if err != nil {
				return nil, errors.Join(err, file.Close())
			}
			return unpacked{reader, file}, nil
		}, nil)
		if err != nil {
			b.Fatal(err)
		}
		n.transfers(b, feed.URL())
		n.update.Hide = feed.Token()
		if err := errors.Join(n.update.Update(b.Context(), manifest.Version, nil), feed.Err(), feed.Close()); err != nil {
			b.Fatal(err)
		}
		syscall.Sync()
		whole += time.Since(begun)
		plain += copied(b, n, out, files)
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

// peak is the largest resident set that this process ever had, in MB.
func peak(b *testing.B) float64 {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return float64(usage.Maxrss) / 1000
}
