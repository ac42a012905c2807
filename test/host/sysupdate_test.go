//go:build linux

package host

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/slotfeed"
	"github.com/holdfast-os/holdfast/internal/system/block"
	"github.com/holdfast-os/holdfast/internal/system/bootloader"
	"github.com/holdfast-os/holdfast/internal/system/efi"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/sysupdate"
	"github.com/holdfast-os/holdfast/internal/system/tooltree"
	"github.com/holdfast-os/holdfast/test/needs"
)

const (
	releaseA = installVersion
	releaseB = "202611230000"
	releaseC = "202611240000"
)

// node is a disk with an installed release A and its ESP, and what updates it.
type node struct {
	disk   string
	update sysupdate.Sysupdate
	slots  sysupdate.Slots
	loader bootloader.Loader
}

// fakeRelease are four files that have what a slot is recognised by, and noise.
type fakeRelease struct {
	version  string
	names    []string
	contents map[string][]byte
}

func (r fakeRelease) files() []slotfeed.File {
	var files []slotfeed.File
	for _, name := range r.names {
		files = append(files, slotfeed.File{Name: name, Size: int64(len(r.contents[name])), SHA256: sumOf(r.contents[name])})
	}
	return files
}

func sumOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func slotContents(rootHash string, usrSize int, noise io.Reader) (sig, verity, usr []byte) {
	sig = make([]byte, 16<<10)
	copy(sig, fmt.Sprintf(`{"rootHash":%q,"certificateFingerprint":"00","signature":"AA=="}`, rootHash))
	verity, usr = make([]byte, 1<<20), make([]byte, usrSize)
	for _, data := range [][]byte{verity, usr} {
		if _, err := io.ReadFull(noise, data); err != nil {
			panic(err) // the noise has no end
		}
	}
	copy(verity, "verity\x00\x00")
	clear(usr[:1024])
	copy(usr[1024:], "\xe2\xe1\xf5\xe0")
	return sig, verity, usr
}

func newRelease(t testing.TB, version string, usrSize int) fakeRelease {
	t.Helper()
	rootHash := sumOf([]byte(version))
	data, verityID := sysupdate.UUIDs(rootHash)
	names, err := layout.TransferFiles(layout.X86_64, version, map[int]string{
		layout.SigA: "dddddddd-0000-4000-8000-" + version, layout.VerityA: verityID, layout.UsrA: data,
	})
	if err != nil {
		t.Fatal(err)
	}
	noise := rand.NewChaCha8(sha256.Sum256([]byte(version)))
	sig, verity, usr := slotContents(rootHash, usrSize, noise)
	uki := append([]byte("MZ"), bytes.Repeat([]byte(version), 80_000)...) // 960,002 bytes
	return fakeRelease{version, names, map[string][]byte{names[0]: sig, names[1]: verity, names[2]: usr, names[3]: uki}}
}

// treeRunner runs systemd-sysupdate, systemd-pull and systemd-bless-boot of the tools tree.
func treeRunner(t testing.TB, tree tooltree.Tree) run.Runner {
	t.Helper()
	wrapper := filepath.Join(t.TempDir(), "systemd-pull")
	pull := tree.Command("../lib/systemd/systemd-pull")
	script := "#!/bin/sh\nexec '" + pull.Name + "' '" + strings.Join(pull.Args, "' '") + "' \"$@\"\n"
	if err := os.WriteFile(wrapper, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return func(ctx context.Context, c run.Command) (run.Result, error) {
		if c.Name == sysupdate.DefaultProgram {
			command := tree.Command("../lib/systemd/systemd-sysupdate", c.Args...)
			c.Name, c.Args, c.Env = command.Name, command.Args, append(slices.Clone(c.Env), "SYSTEMD_PULL_PATH="+wrapper)
		}
		return run.Host(ctx, c)
	}
}

// shortDir is a temporary folder whose path leaves room for the name of a socket.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func command(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// newNode makes a loop device with A in its first slot and an ESP with A's image. What
// the kernel says of /usr is a folder with a mapping "usr" on the fifth partition.
func newNode(t testing.TB) node {
	t.Helper()
	needs.Programs(t, "sfdisk", "losetup")
	if os.Geteuid() != 0 {
		t.Skip("missing right: root, to set up a loop device")
	}
	tree := needs.Tree(t, "../lib/systemd/systemd-sysupdate", "../lib/systemd/systemd-pull")
	root := shortDir(t)
	image := filepath.Join(root, "disk.img")
	writeTable(t, image)
	out, err := exec.Command("losetup", "--find", "--show", "--partscan", image).Output()
	if err != nil {
		t.Skipf("missing: a loop device (%v)", err)
	}
	disk := strings.TrimSpace(string(out))
	t.Cleanup(func() { command(t, "losetup", "--detach", disk) })
	base := filepath.Base(disk)
	for name, content := range map[string]string{
		"sys/block/dm-0/dm/name": "usr\n", "sys/devices/" + base + "/" + base + "p5/partition": "5\n",
		"proc/cmdline": "quiet\n", "esp/EFI/Linux/Holdfast_" + releaseA + ".efi": "MZ A",
	} {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Mkdir(filepath.Join(root, "sys/block/dm-0/slaves"), 0o755),
		os.Symlink(filepath.Join(root, "sys/devices", base, base+"p5"), filepath.Join(root, "sys/block/dm-0/slaves", base+"p5")),
		os.Mkdir(filepath.Join(root, "efivars"), 0o755)); err != nil {
		t.Fatal(err)
	}
	runner := treeRunner(t, tree)
	return node{
		disk:   disk,
		update: sysupdate.Sysupdate{Run: runner, Dir: filepath.Join(root, "run")},
		slots: sysupdate.Slots{Run: runner, Disk: disk, Name: layout.Name, Root: root, Parts: []sysupdate.Parts{
			{Signature: layout.SigA, Verity: layout.VerityA, Usr: layout.UsrA}, {Signature: layout.SigB, Verity: layout.VerityB, Usr: layout.UsrB},
		}},
		loader: bootloader.Loader{Run: runner, ESP: filepath.Join(root, "esp"), Name: layout.Name, Running: releaseA, Vars: efi.Vars{Dir: filepath.Join(root, "efivars")}},
	}
}

// writeTable writes an installed disk: partitions 1 to 8, A's contents in 3 to 5.
func writeTable(t testing.TB, image string) {
	t.Helper()
	uuids := map[int]string{}
	for number := layout.ESP; number <= layout.UsrB; number++ {
		uuids[number] = fmt.Sprintf("cccccccc-0000-4000-8000-%012d", number)
	}
	script, err := layout.InstallTable(layout.TableOptions{Arch: layout.X86_64, Version: releaseA, DiskSize: layout.MinimumDisk, UUIDs: uuids})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(layout.MinimumDisk); err != nil {
		t.Fatal(err)
	}
	table := exec.Command("sfdisk", "--quiet", image)
	table.Stdin = strings.NewReader(script)
	if out, err := table.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v: %s", err, out)
	}
	rootHash := "cccccccc000040008000000000000005" + "cccccccc000040008000000000000004"
	sig, verity, usr := slotContents(rootHash, 1<<20, rand.NewChaCha8([32]byte{1}))
	for number, data := range map[int][]byte{layout.SigA: sig, layout.VerityA: verity, layout.UsrA: usr} {
		if _, err := f.WriteAt(data, layout.Start(number)); err != nil {
			t.Fatal(err)
		}
	}
}

// transfers tells systemd-sysupdate where the release is.
func (n node) transfers(t testing.TB, url string) {
	t.Helper()
	transfers, err := layout.RenderTransfers(layout.TransferOptions{
		Arch: layout.X86_64, Source: url, Disk: n.disk, ESP: n.loader.ESP, Protect: releaseA,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.update.Define(transfers); err != nil {
		t.Fatal(err)
	}
}

// take updates to the release from memory and gives the names that were asked for.
func (n node) take(t testing.TB, r fakeRelease) ([]string, error) {
	t.Helper()
	var asked []string
	err := n.takeFrom(t, t.Context(), r, func(_ context.Context, name string) (io.ReadCloser, error) {
		asked = append(asked, name)
		return io.NopCloser(bytes.NewReader(r.contents[name])), nil
	})
	return asked, err
}

func (n node) takeFrom(t testing.TB, ctx context.Context, r fakeRelease, open slotfeed.Open) error {
	t.Helper()
	feed, err := slotfeed.Start(r.files(), open, nil)
	if err != nil {
		t.Fatal(err)
	}
	n.transfers(t, feed.URL())
	n.update.Hide = feed.Token()
	err = n.update.Update(ctx, r.version, nil)
	if err != nil && strings.Contains(err.Error(), feed.Token()) {
		t.Errorf("the error shows the token: %v", err)
	}
	return errors.Join(err, feed.Err(), feed.Close())
}

// held is what a person would look at: labels and UUIDs of both slots, and the ESP.
type held struct {
	A, B [3]string
	UUID string // of the content of slot B
	ESP  []string
}

func (n node) held(t testing.TB) held {
	t.Helper()
	slots, err := n.slots.Read()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	entries, err := os.ReadDir(filepath.Join(n.loader.ESP, bootloader.Folder))
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return held{slots[0].Labels, slots[1].Labels, slots[1].UUIDs[2], names}
}

var (
	labelsA = [3]string{"Holdfast_202611220104_verity_sig", "Holdfast_202611220104_verity", "Holdfast_202611220104"}
	labelsB = [3]string{"Holdfast_202611230000_verity_sig", "Holdfast_202611230000_verity", "Holdfast_202611230000"}
	labelsC = [3]string{"Holdfast_202611240000_verity_sig", "Holdfast_202611240000_verity", "Holdfast_202611240000"}
	empty   = [3]string{"_empty", "_empty", "_empty"}
)

const (
	fileA = "Holdfast_202611220104.efi"
	// uuidFree is that of slot B's content as installed; the others are the first half of
	// the SHA-256 of the version, which stands for the root hash.
	uuidFree = "cccccccc-0000-4000-8000-000000000008"
	uuidB    = "9a3bd1f1-7f83-3b4c-33ee-eab520924338"
	uuidC    = "28391cf0-5ee1-ae26-99ed-1e52b250fa7a"
)

var (
	untouched = held{labelsA, empty, uuidFree, []string{fileA}}
	withB     = held{labelsA, labelsB, uuidB, []string{fileA, "Holdfast_202611230000+3-0.efi"}}
	withC     = held{labelsA, labelsC, uuidC, []string{fileA, "Holdfast_202611240000+3-0.efi"}}
)

func (n node) wantHeld(t testing.TB, when string, want held) {
	t.Helper()
	if diff := cmp.Diff(want, n.held(t)); diff != "" {
		t.Errorf("%s: %s", when, diff)
	}
}

// wantContents compares every byte that arrived.
func (n node) wantContents(t testing.TB, r fakeRelease) {
	t.Helper()
	for i, number := range []int{layout.SigB, layout.VerityB, layout.UsrB} {
		data := r.contents[r.names[i]]
		got, err := hashPartition(n.slots.Disk, number, int64(len(data)))
		if err != nil || got != sumOf(data) {
			t.Errorf("partition %d of release %s: %s, %v", number, r.version, got, err)
		}
	}
	uki, err := os.ReadFile(filepath.Join(n.loader.ESP, bootloader.Folder, "Holdfast_"+r.version+"+3-0.efi"))
	if err != nil || !bytes.Equal(uki, r.contents[r.names[3]]) {
		t.Errorf("the kernel image of release %s: %d bytes, %v", r.version, len(uki), err)
	}
	slots, err := n.slots.Read()
	if err != nil {
		t.Fatal(err)
	}
	if !slots[0].Active || slots[1].Active || !slots[0].Complete() || !slots[1].Complete() || slots[1].Version != r.version {
		t.Errorf("got %+v", slots)
	}
	if err := sysupdate.Check(slots, releaseA); err != nil {
		t.Error(err)
	}
}

// Two updates in a row before a restart: the second takes the place of the first, and
// the release that runs is never touched.
func TestSysupdate_TwoReleasesInARow_TakeTheOtherSlot(t *testing.T) {
	n := newNode(t)
	b, c := newRelease(t, releaseB, 8<<20), newRelease(t, releaseC, 8<<20)
	for _, step := range []struct {
		release fakeRelease
		want    held
	}{{b, withB}, {c, withC}} {
		asked, err := n.take(t, step.release)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(step.release.names, asked); diff != "" {
			t.Errorf("files asked for: %s", diff)
		}
		n.wantHeld(t, step.release.version, step.want)
		n.wantContents(t, step.release)
	}
	got, err := n.update.List(t.Context())
	want := []sysupdate.Release{
		{Version: releaseC, Newest: true, Installed: true}, {Version: releaseA, Installed: true, Protected: true},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

// An update that is already there costs nothing and changes nothing.
func TestSysupdate_SameReleaseAgain_AsksForNothing(t *testing.T) {
	n, b := newNode(t), newRelease(t, releaseB, 1<<20)
	if _, err := n.take(t, b); err != nil {
		t.Fatal(err)
	}
	asked, err := n.take(t, b)
	if err != nil || len(asked) != 0 {
		t.Errorf("asked for %v, %v", asked, err)
	}
	n.wantHeld(t, "after the second time", withB)
}

// A release that came back as bad makes room for the next one, though it is newer than
// the one that runs; what fsck left on the ESP is in nobody's way.
func TestSysupdate_OtherSlotHoldsABadRelease_IsReplaced(t *testing.T) {
	n, b, c := newNode(t), newRelease(t, releaseB, 1<<20), newRelease(t, releaseC, 1<<20)
	if _, err := n.take(t, b); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(n.loader.ESP, bootloader.Folder)
	if err := errors.Join(
		os.Rename(filepath.Join(folder, "Holdfast_202611230000+3-0.efi"), filepath.Join(folder, "Holdfast_202611230000+0-3.efi")),
		os.WriteFile(filepath.Join(folder, "FSCK0000.REC"), []byte("lost"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	if _, err := n.take(t, c); err != nil {
		t.Fatal(err)
	}
	want := withC
	want.ESP = []string{"FSCK0000.REC", fileA, "Holdfast_202611240000+3-0.efi"}
	n.wantHeld(t, "after C", want)
}

// Files that are not what was promised leave a slot that nothing takes for a release,
// and the next update works: once the feed notices, once systemd-pull alone does.
func TestSysupdate_WrongContent_LeavesTheSlotEmpty(t *testing.T) {
	n, b := newNode(t), newRelease(t, releaseB, 4<<20)
	err := n.takeFrom(t, t.Context(), b, func(_ context.Context, name string) (io.ReadCloser, error) {
		data := bytes.Clone(b.contents[name])
		if name == b.names[2] {
			data[len(data)/2] ^= 1
		}
		return io.NopCloser(bytes.NewReader(data)), nil
	})
	if !errors.Is(err, slotfeed.ErrWrongContent) {
		t.Errorf("got %v", err)
	}
	n.wantHeld(t, "after a wrong source", untouched)

	var sums strings.Builder
	for _, file := range b.files() {
		fmt.Fprintf(&sums, "%s *%s\n", sumOf([]byte(file.Name)), file.Name)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/SHA256SUMS") {
			_, _ = io.WriteString(w, sums.String())
			return
		}
		_, _ = w.Write(b.contents[filepath.Base(r.URL.Path)])
	}))
	defer server.Close()
	n.transfers(t, server.URL+"/aa/")
	if code, ok := run.ExitCode(n.update.Update(t.Context(), releaseB, nil)); !ok || code != 1 {
		t.Errorf("exit code %d, %v", code, ok)
	}
	n.wantHeld(t, "after wrong sums", untouched)

	if _, err := n.take(t, b); err != nil {
		t.Fatal(err)
	}
	n.wantHeld(t, "after the right ones", withB)
	n.wantContents(t, b)
}

// cutter gives half of its content, calls, and then waits for its end.
type cutter struct {
	half io.Reader
	call func()
	end  <-chan struct{}
}

func (c *cutter) Read(p []byte) (int, error) {
	n, err := c.half.Read(p)
	if n > 0 || !errors.Is(err, io.EOF) {
		return n, err
	}
	c.call()
	<-c.end
	return 0, context.Canceled
}

func (c *cutter) Close() error { return nil }

// Power is cut, or the daemon killed, in the middle of each file: nothing is taken for a
// release, and the next run completes.
func TestSysupdate_KilledInTheMiddleOfAFile_NextRunCompletes(t *testing.T) {
	for i, what := range []string{"signature", "hash tree", "content", "kernel image"} {
		t.Run(what, func(t *testing.T) {
			n, b := newNode(t), newRelease(t, releaseB, 4<<20)
			ctx, kill := context.WithCancel(t.Context())
			defer kill()
			err := n.takeFrom(t, ctx, b, func(feed context.Context, name string) (io.ReadCloser, error) {
				data := b.contents[name]
				if name == b.names[i] {
					return &cutter{bytes.NewReader(data[:len(data)/2]), kill, feed.Done()}, nil
				}
				return io.NopCloser(bytes.NewReader(data)), nil
			})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			n.wantHeld(t, "after the cut", untouched)
			if _, err := n.take(t, b); err != nil {
				t.Fatal(err)
			}
			n.wantHeld(t, "after the next run", withB)
			n.wantContents(t, b)
		})
	}
}

// killPull ends the systemd-pull that writes below dir, as the kernel does when memory is
// short: without a chance to clear up.
func killPull(t *testing.T, dir string) {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		line, err := os.ReadFile(name)
		if err != nil || !bytes.Contains(line, []byte("systemd-pull")) || !bytes.Contains(line, []byte(dir)) {
			continue // ended meanwhile, or another program
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err == nil {
			err = syscall.Kill(pid, syscall.SIGKILL)
		}
		if err != nil {
			t.Error(err)
		}
		return
	}
	t.Error("there is no systemd-pull to kill")
}

// Whatever ends systemd-pull, no half kernel image stays on the ESP.
func TestSysupdate_PullKilledAtTheKernelImage_LeavesNoHalfFile(t *testing.T) {
	n, b := newNode(t), newRelease(t, releaseB, 1<<20)
	err := n.takeFrom(t, t.Context(), b, func(feed context.Context, name string) (io.ReadCloser, error) {
		data := b.contents[name]
		if name == b.names[3] {
			return &cutter{bytes.NewReader(data[:len(data)/2]), func() { killPull(t, n.loader.ESP) }, feed.Done()}, nil
		}
		return io.NopCloser(bytes.NewReader(data)), nil
	})
	if code, ok := run.ExitCode(err); !ok || code != 1 {
		t.Errorf("got %v", err)
	}
	n.wantHeld(t, "after the kill", untouched)
}

// After a power cut the half file is still there when the node starts: it is reported,
// counts as room, and goes.
func TestSysupdate_HalfFileOfAPowerCut_IsCleared(t *testing.T) {
	n := newNode(t)
	half := ".#sysupdateHoldfast_202611230000+3-0.efi0123456789abcdef"
	writeFile(t, filepath.Join(n.loader.ESP, bootloader.Folder, half), "MZ")
	state, err := n.loader.Read()
	if diff := cmp.Diff([]string{half}, state.Temporary); diff != "" || err != nil {
		t.Error(diff, err)
	}
	n.transfers(t, "http://127.0.0.1:1/00/")
	if err := n.update.Vacuum(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.wantHeld(t, "after clearing", untouched)
}

// A cut between two labels leaves a release of which a part is missing: the next run
// writes that part and asks for no other.
func TestSysupdate_CutBetweenTheLabels_WritesWhatIsMissing(t *testing.T) {
	n, b := newNode(t), newRelease(t, releaseB, 4<<20)
	if _, err := n.take(t, b); err != nil {
		t.Fatal(err)
	}
	command(t, "sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", "--force", "--part-label", n.disk, "8", "_empty")
	if err := n.loader.Remove("Holdfast_202611230000+3-0.efi"); err != nil {
		t.Fatal(err)
	}
	slots, err := n.slots.Read()
	if err != nil || slots[1].Problem != "the labels Holdfast_202611230000_verity_sig, Holdfast_202611230000_verity and _empty are not of one release" {
		t.Errorf("got %+v, %v", slots, err)
	}
	releases, err := n.update.List(t.Context())
	want := []sysupdate.Release{
		{Version: releaseB, Newest: true, Installed: true, Incomplete: true}, {Version: releaseA, Installed: true, Protected: true},
	}
	if diff := cmp.Diff(want, releases); diff != "" || err != nil {
		t.Error(diff, err)
	}
	asked, err := n.take(t, b)
	if diff := cmp.Diff(b.names[2:], asked); diff != "" || err != nil {
		t.Error(diff, err)
	}
	n.wantHeld(t, "after the next run", withB)
	n.wantContents(t, b)
}

// A full ESP is told before. Where it fills up all the same, the release that runs keeps
// its image, and no half file stays behind to fill the ESP for good.
func TestSysupdate_FullESP_KeepsTheOldImage(t *testing.T) {
	n, b := newNode(t), newRelease(t, releaseB, 1<<20)
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=512k", "esp", n.loader.ESP).CombinedOutput(); err != nil {
		t.Skipf("missing right: to mount (%v: %s)", err, out)
	}
	t.Cleanup(func() { command(t, "umount", n.loader.ESP) })
	folder := filepath.Join(n.loader.ESP, bootloader.Folder)
	if err := errors.Join(os.MkdirAll(folder, 0o700), os.WriteFile(filepath.Join(folder, fileA), []byte("MZ A"), 0o600)); err != nil {
		t.Fatal(err)
	}
	room := func() error {
		state, err := n.loader.Read()
		if err != nil {
			t.Fatal(err)
		}
		return state.CheckRoom(960_002)
	}
	if err := room(); !errors.Is(err, bootloader.ErrNoRoom) {
		t.Errorf("got %v", err)
	}
	_, err := n.take(t, b)
	if code, ok := run.ExitCode(err); !ok || code != 1 {
		t.Errorf("got %v", err)
	}
	n.wantHeld(t, "after the failure", untouched)
	state, err := n.loader.Read()
	if err != nil || state.Free != 520_192 { // 512 KiB without the page of A
		t.Errorf("%d bytes are free, %v", state.Free, err)
	}
	command(t, "mount", "-o", "remount,size=8m", n.loader.ESP)
	if err := room(); err != nil {
		t.Error(err)
	}
	if _, err := n.take(t, b); err != nil {
		t.Fatal(err)
	}
	n.wantHeld(t, "with room", withB)
}

// A release that outgrew the slot is refused; what lies behind the slot is not touched.
func TestSysupdate_FileLargerThanItsPartition_IsRefused(t *testing.T) {
	n, b := newNode(t), newRelease(t, releaseB, 1<<20)
	behind := func() string {
		sum, err := hashPartition(n.slots.Disk, layout.UsrB, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	before := behind()
	tree := make([]byte, layout.Size(layout.VerityB)+4096)
	copy(tree, b.contents[b.names[1]])
	tree[len(tree)-1] = 1
	b.contents[b.names[1]] = tree
	if _, err := n.take(t, b); err == nil {
		t.Error("no error")
	}
	n.wantHeld(t, "after the refusal", untouched)
	if behind() != before {
		t.Error("the next partition was written to")
	}
}

// A slot whose label is nobody's would not be found by systemd-sysupdate: it is told
// before an update, and freed.
func TestSlots_ForeignLabel_IsToldAndFreed(t *testing.T) {
	n, b := newNode(t), newRelease(t, releaseB, 1<<20)
	command(t, "sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", "--force", "--part-label", n.disk, "7", "backup")
	slots, err := n.slots.Read()
	if err != nil {
		t.Fatal(err)
	}
	err = sysupdate.Check(slots, releaseA)
	if !errors.Is(err, sysupdate.ErrLabels) || !strings.Contains(err.Error(), `"backup"`) {
		t.Errorf("got %v", err)
	}
	if err := n.slots.Free(t.Context(), slots[0]); err == nil {
		t.Error("the active slot was freed")
	}
	if err := n.slots.Free(t.Context(), slots[1]); err != nil {
		t.Fatal(err)
	}
	n.wantHeld(t, "after freeing", untouched)
	if _, err := n.take(t, b); err != nil {
		t.Fatal(err)
	}
	n.wantHeld(t, "after the update", withB)
}

// blessRunner runs systemd-bless-boot of the tools tree where it believes to be on a
// machine with firmware variables: in a mount namespace of its own, with a folder there,
// and as the first process, which is told by its environment whether it is in a container.
func blessRunner(t *testing.T, tree tooltree.Tree, variables string) run.Runner {
	t.Helper()
	script := `mount -t tmpfs none /sys/firmware && mkdir -p /sys/firmware/efi/efivars && mount --bind "$1" /sys/firmware/efi/efivars && shift && container= exec "$@"`
	in := func(args ...string) []string {
		return append([]string{"--mount", "--pid", "--fork", "sh", "-ec", script, "sh", variables}, args...)
	}
	if out, err := exec.Command("unshare", in("true")...).CombinedOutput(); err != nil {
		t.Skipf("missing right: a mount namespace with /sys/firmware (%v: %s)", err, out)
	}
	return func(ctx context.Context, c run.Command) (run.Result, error) {
		if c.Name == bootloader.DefaultProgram {
			command := tree.Command("../lib/systemd/systemd-bless-boot", c.Args...)
			c.Name, c.Args = "unshare", in(append([]string{command.Name}, command.Args...)...)
		}
		return run.Host(ctx, c)
	}
}

// The trial of the release that runs ends one way or the other, in the names that
// systemd-boot reads.
func TestBootloader_CountedStart_IsBlessedOrMarkedBad(t *testing.T) {
	tree := needs.Tree(t, "../lib/systemd/systemd-bless-boot")
	for name, c := range map[string]struct {
		end  func(bootloader.Loader, context.Context) error
		want []string
		next string
	}{
		"good": {bootloader.Loader.Bless, []string{fileA, "Holdfast_202611230000.efi"}, "Holdfast_202611230000.efi"},
		"bad":  {bootloader.Loader.MarkBad, []string{fileA, "Holdfast_202611230000+0-1.efi"}, fileA},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			variable := "\x06\x00\x00\x00"
			for _, r := range `\EFI\Linux\Holdfast_202611230000+2-1.efi` + "\x00" {
				variable += string([]byte{byte(r), 0})
			}
			writeFile(t, filepath.Join(root, "efivars/LoaderBootCountPath-"+efi.Loader), variable)
			folder := filepath.Join(root, "esp", bootloader.Folder)
			writeFile(t, filepath.Join(folder, fileA), "MZ A")
			writeFile(t, filepath.Join(folder, "Holdfast_202611230000+2-1.efi"), "MZ B")
			vars := filepath.Join(root, "efivars")
			l := bootloader.Loader{Run: blessRunner(t, tree, vars), ESP: filepath.Join(root, "esp"), Name: layout.Name, Running: releaseB, Vars: efi.Vars{Dir: vars}}
			for range 2 { // whoever was cut does it again
				if err := c.end(l, t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			state, err := l.Read()
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			entries, err := os.ReadDir(folder)
			if err != nil {
				t.Fatal(err)
			}
			for _, entry := range entries {
				got = append(got, entry.Name())
			}
			slices.Sort(c.want)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if next, _ := bootloader.Next(state.Entries); next.File != c.next || state.Trial {
				t.Errorf("%s is next, trial %v", next.File, state.Trial)
			}
		})
	}
}

// hashPartition sums up the beginning of a partition as the disk has it, not the memory.
func hashPartition(name string, number int, size int64) (string, error) {
	disk, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer func() { _ = disk.Close() }() // it was only read
	length, sector, err := block.Size(disk)
	if err != nil {
		return "", err
	}
	table, err := block.ReadTable(disk, length, sector)
	if err != nil {
		return "", err
	}
	at := slices.IndexFunc(table.Entries, func(e block.Entry) bool { return e.Number == number })
	if at < 0 {
		return "", fmt.Errorf("there is no partition %d", number)
	}
	if err := block.DropCache(disk); err != nil {
		return "", err
	}
	sum := sha256.New()
	_, err = io.Copy(sum, io.NewSectionReader(disk, int64(table.Entries[at].First)*int64(table.SectorSize), size))
	return hex.EncodeToString(sum.Sum(nil)), err
}
