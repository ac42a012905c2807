package vm

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/pgzip"

	api "github.com/holdfast-os/holdfast/api/os"
	wire "github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/lab"
	"github.com/holdfast-os/holdfast/internal/media"
	"github.com/holdfast-os/holdfast/internal/sign"
	"github.com/holdfast-os/holdfast/internal/system/qemu"
	"github.com/holdfast-os/holdfast/test/vm/forge"
)

const (
	applicationFile = "x86_64/incus.raw.gz"
	// checkLimit bounds one check for updates with its download.
	checkLimit = 10 * time.Minute
)

// offer is what a release tree has for the node: one application file.
type offer struct {
	// make writes the packed file.
	make func(t *testing.T, path string)
	// change may lie about it in the index.
	change func(*wire.File)
	// signer is the base name of the keys that sign the index; default ours.
	signer string
	// long is true for one that takes long, and is refused where another one is too.
	long bool
}

// Whoever gets between the node and its releases, or into the release server, must
// not get a program into the node: every image that is not what was published is
// refused, and what ran before runs on, untouched. The last images are good ones; that
// they are taken shows that nothing else kept the others out. The one that is what runs already
// disturbs nobody.
func TestApplication_BadImages_AreRefused(t *testing.T) {
	slow(t)
	n := fresh(t)
	s := newShop(t)
	n.use(t, s)
	before, pid := n.incusVersion(t), n.pidOf(t, "incusd")
	for i, c := range s.badOffers(t) {
		t.Run(c.name, func(t *testing.T) {
			if c.long {
				longOnly(t)
			}
			s.publish(t, newer(t, before, i+1), c.offer)
			if status := n.check(t); !strings.HasPrefix(status, "Failed") {
				t.Errorf("the check for updates says %q", status)
			}
			if got := n.incusVersion(t); got != before {
				t.Errorf("version %s is active now, %s was before", got, before)
			}
			if got := n.pidOf(t, "incusd"); got != pid {
				t.Errorf("Incus was started again: process %d, was %d", got, pid)
			}
		})
	}
	for i, c := range []struct {
		what      string
		make      func(*testing.T, string)
		restarted bool
		long      bool
	}{
		{"the same", s.published, false, false},
		{"another", s.another, true, true},
	} {
		if c.long && !*long {
			continue
		}
		good := newer(t, before, 20+i)
		s.publish(t, good, offer{make: c.make})
		away := n.away(t)
		status := n.check(t)
		t.Logf("NUMBER incus_away %.1f s, %s image", away().Seconds(), c.what)
		if got := n.incusVersion(t); got != good {
			t.Errorf("the good image was not taken, so the refusals mean nothing: %s is active, %q", got, status)
		}
		if got := n.pidOf(t, "incusd"); (got != pid) != c.restarted {
			t.Errorf("%s image: Incus is process %d, was %d", c.what, got, pid)
		}
	}
}

// away asks the node without a pause, and gives a function that ends this and says the longest
// time in which there was no answer.
func (n *node) away(t *testing.T) func() time.Duration {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan time.Duration, 1)
	go func() {
		var longest time.Duration
		for last := time.Now(); ; {
			one, cancelOne := context.WithTimeout(ctx, time.Second)
			_, err := n.api.Server(one)
			cancelOne()
			if ctx.Err() != nil {
				ended <- longest
				return
			}
			if err == nil {
				longest, last = max(longest, time.Since(last)), time.Now()
			}
		}
	}()
	return func() time.Duration { cancel(); return <-ended }
}

type namedOffer struct {
	name string
	offer
}

func (s *shop) badOffers(t *testing.T) []namedOffer {
	other, err := forge.NewPair("somebody else", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := forge.WritePEM(other, filepath.Join(s.dir, "other.key"), filepath.Join(s.dir, "other.crt")); err != nil {
		t.Fatal(err)
	}
	return []namedOffer{
		{"changed byte", offer{make: s.repacked(func(image string) error { return forge.FlipByte(image, 100<<20) }), long: true}},
		{"foreign signature", offer{make: s.repacked(func(image string) error { return forge.ResignImage(image, other) })}},
		{"foreign index", offer{make: s.published, signer: filepath.Join(s.dir, "other")}},
		{"wrong sum", offer{make: s.published, change: func(f *wire.File) { f.SHA256 = strings.Repeat("0", 64) }}},
		{"wrong size", offer{make: s.published, change: func(f *wire.File) { f.Size-- }}},
		{"10 GB against 100 MB", offer{make: hugeFile, change: func(f *wire.File) { f.Size = 100 << 20 }}},
		{"10 GB when unpacked", offer{make: bomb}},
	}
}

// shop is a release server of this test.
type shop struct {
	dir, tree, url string
}

func newShop(t *testing.T) *shop {
	t.Helper()
	// A tree within the lab's own tree: its server is the only one that a node can reach.
	tree, err := os.MkdirTemp(machines.tree, "test-shop-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(tree); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	return &shop{dir: t.TempDir(), tree: tree, url: lab.ReleaseURL + "/" + filepath.Base(tree)}
}

// published is the application's file as the build published it.
func (s *shop) published(t *testing.T, path string) {
	t.Helper()
	if err := os.Link(filepath.Join(machines.tree, machines.version, applicationFile), path); err == nil {
		return
	}
	if err := copyFile(path, filepath.Join(machines.tree, machines.version, applicationFile)); err != nil {
		t.Fatal(err)
	}
}

// repacked is the application's image after a change.
func (s *shop) repacked(change func(image string) error) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		t.Helper()
		image := filepath.Join(t.TempDir(), "incus.raw")
		if err := qemu.CopySparse(image, filepath.Join(machines.build, "incus.raw")); err != nil {
			t.Fatal(err)
		}
		if err := change(image); err != nil {
			t.Fatal(err)
		}
		pack(t, path, image)
	}
}

// another is an image with other content, rightly signed: one byte is another that nobody reads,
// before the header of the file system.
func (s *shop) another(t *testing.T, path string) {
	t.Helper()
	dir := t.TempDir()
	image, data, hashes := filepath.Join(dir, "incus.raw"), filepath.Join(dir, "data"), filepath.Join(dir, "hashes")
	if err := qemu.CopySparse(image, filepath.Join(machines.build, "incus.raw")); err != nil {
		t.Fatal(err)
	}
	disk, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	info, err := disk.Stat()
	if err != nil {
		t.Fatal(err)
	}
	table, err := media.ReadTable(disk, info.Size())
	if err != nil || len(table.Partitions) != 3 {
		t.Fatalf("the image has %d partitions, %v", len(table.Partitions), err)
	}
	content, tree := table.Partitions[0], table.Partitions[1]
	if err := errors.Join(forge.FlipByte(image, content.Start), copyPart(data, disk, content.Start, content.Size)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	root := filepath.Join(dir, "root")
	if _, err := machines.run(ctx, "veritysetup", "format", "--root-hash-file", root, data, hashes); err != nil {
		t.Fatal(err)
	}
	made, err := os.ReadFile(hashes)
	if err != nil {
		t.Fatal(err)
	}
	hash, err := os.ReadFile(root)
	if err != nil || int64(len(made)) > tree.Size || len(hash) < 64 {
		t.Fatalf("a hash tree of %d bytes for a partition of %d, root %q, %v", len(made), tree.Size, hash, err)
	}
	if _, err := disk.WriteAt(made, tree.Start); err != nil {
		t.Fatal(err)
	}
	pair, err := forge.ReadPair(filepath.Join(machines.root, ".keys", "secureboot.key"), filepath.Join(machines.root, ".keys", "secureboot.crt"))
	if err != nil {
		t.Fatal(err)
	}
	rootHash := string(hash[:64])
	if err := forge.SignImage(image, rootHash, pair); err != nil {
		t.Fatal(err)
	}
	// systemd finds data and tree by the two halves of the root hash.
	for i, half := range []string{rootHash[:32], rootHash[32:]} {
		id := half[:8] + "-" + half[8:12] + "-" + half[12:16] + "-" + half[16:20] + "-" + half[20:]
		if _, err := machines.run(ctx, "sfdisk", "--no-reread", "--no-tell-kernel", "--part-uuid", image, strconv.Itoa(i+1), id); err != nil {
			t.Fatal(err)
		}
	}
	pack(t, path, image)
}

func copyPart(to string, from io.ReaderAt, start, size int64) (err error) {
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = io.Copy(out, io.NewSectionReader(from, start, size))
	return err
}

func pack(t *testing.T, to, from string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	packer, err := pgzip.NewWriterLevel(out, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []func() error{func() error { _, err := io.Copy(packer, in); return err }, packer.Close, out.Close} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
}

// hugeFile has 10 GB of nothing.
func hugeFile(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 10<<30); err != nil {
		t.Fatal(err)
	}
}

// bomb is a small file that becomes 10 GB: the same packed 100 MiB, over and over.
func bomb(t *testing.T, path string) {
	t.Helper()
	var member bytes.Buffer
	packer := gzip.NewWriter(&member)
	if _, err := io.CopyN(packer, zeros{}, 100<<20); err != nil {
		t.Fatal(err)
	}
	if err := packer.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.Repeat(member.Bytes(), 103), 0o600); err != nil {
		t.Fatal(err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// publish replaces the tree's only release. The OS's own part is in the index alone:
// nobody fetches it here.
func (s *shop) publish(t *testing.T, version string, o offer) {
	t.Helper()
	path := filepath.Join(s.tree, version, applicationFile)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	o.make(t, path)
	file := wire.File{Architecture: "x86_64", Component: wire.ComponentIncus, Filename: applicationFile, Type: wire.TypeApplication}
	measure(t, path, &file)
	if o.change != nil {
		o.change(&file)
	}
	system := wire.File{
		Architecture: "x86_64", Component: wire.ComponentOS, Filename: "x86_64/usr.raw.gz", Type: wire.TypeUpdateUsr,
		Size: 1, SHA256: strings.Repeat("0", 64),
	}
	index, err := json.Marshal(wire.Index{Format: wire.Format, Updates: []wire.Update{{
		Format: wire.Format, Channels: []string{"stable"}, Files: []wire.File{system, file}, Origin: "holdfast",
		PublishedAt: time.Now().UTC(), Severity: wire.SeverityNone, Version: version, URL: "/" + version,
	}}})
	if err != nil {
		t.Fatal(err)
	}
	keys := o.signer
	if keys == "" {
		keys = filepath.Join(machines.root, ".keys", "update")
	}
	signed, err := sign.OpenSSL{Key: keys + ".key", Certificate: keys + ".crt"}.SignSMIME(t.Context(), append(index, '\n'))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.tree, "index.sjson"), signed, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(filepath.Join(s.tree, version)); err != nil {
			t.Error(err)
		}
	})
}

// measure fills size and sum in, except for files of zeros too large to be worth it.
func measure(t *testing.T, path string, file *wire.File) {
	t.Helper()
	in, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	digest := sha256.New()
	if file.Size, err = io.Copy(digest, io.LimitReader(in, 1<<30)); err != nil {
		t.Fatal(err)
	}
	file.SHA256 = hex.EncodeToString(digest.Sum(nil))
}

// newer is the version that comes a day and some minutes after another.
func newer(t *testing.T, version string, minutes int) string {
	t.Helper()
	const form = "200601021504"
	at, err := time.Parse(form, version)
	if err != nil {
		t.Fatal(err)
	}
	return at.Add(24*time.Hour + time.Duration(minutes)*time.Minute).Format(form)
}

// use points the node at the shop.
func (n *node) use(t *testing.T, s *shop) {
	t.Helper()
	ca, err := os.ReadFile(filepath.Join(machines.root, ".keys", "update.crt"))
	if err != nil {
		t.Fatal(err)
	}
	config := api.ProviderConfig{Name: "images", Config: map[string]string{"server_url": s.url, "update_ca": string(ca)}}
	if err := n.api.SetProvider(t.Context(), config, ""); err != nil {
		t.Fatal(err)
	}
}

// check asks for updates, waits for the end of the check, and gives its status.
func (n *node) check(t *testing.T) string {
	t.Helper()
	before, _, err := n.api.Update(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := n.api.CheckUpdate(t.Context(), api.UpdateCheckPost{}); err != nil {
		t.Fatal(err)
	}
	var after api.Update
	until(t, checkLimit, "waiting for the check for updates", func(ctx context.Context) (bool, error) {
		after, _, err = n.api.Update(ctx) // Incus may be restarting: no answer is no error yet
		return err == nil && after.State.LastCheck.After(before.State.LastCheck), err
	})
	return after.State.Status
}

// incusVersion is the active release of the application, which answers.
func (n *node) incusVersion(t *testing.T) string {
	t.Helper()
	application, _, err := n.api.Application(t.Context(), "incus")
	if err != nil {
		t.Fatal(err)
	}
	return application.State.Version
}

func (n *node) pidOf(t *testing.T, name string) int {
	t.Helper()
	for _, p := range n.processes(t) {
		if p.Name == name {
			return p.PID
		}
	}
	t.Fatalf("there is no process %s", name)
	return 0
}
