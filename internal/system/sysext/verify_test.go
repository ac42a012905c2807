package sysext_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/system/sysext"
	"github.com/holdfast-os/holdfast/test/needs"
)

// blocks of 512 bytes keep the images small and the tree three levels high.
const testBlock = 512

func testData() []byte {
	data := make([]byte, 600*testBlock)
	for i := range data {
		data[i] = byte(i * 7 / 3)
	}
	return data
}

// world is one good image and everything to forge others from.
type world struct {
	ours, foreign signer
	data, tree    []byte
	root          string
}

func newWorld(t *testing.T) world {
	data := testData()
	tree, root := hashTree(data, testBlock, []byte("salt"))
	return world{newSigner(t, "ours"), newSigner(t, "foreign"), data, tree, root}
}

func (w world) image(document []byte, extra ...part) []byte {
	return gptImage(append([]part{{usrData, w.data}, {usrVerity, w.tree}, {usrSignature, document}}, extra...)...)
}

func (w world) good(t *testing.T) []byte {
	return w.image(signatureDocument(t, w.root, w.ours.fingerprint(), sign(t, w.root, w.ours)))
}

func (w world) verify(image []byte) (sysext.Image, error) {
	return sysext.VerifyReader(context.Background(), bytes.NewReader(image), int64(len(image)), [][]byte{w.ours.cert.Raw})
}

// A node must run what was published, and be able to say which key vouched for it.
func TestVerify_GoodImage_NamesRootHashAndSigner(t *testing.T) {
	w := newWorld(t)
	got, err := w.verify(w.good(t))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sysext.Image{RootHash: w.root, Signer: w.ours.fingerprint()}, got); diff != "" {
		t.Error(diff)
	}
}

// Small extensions have a tree without levels, or of one.
func TestVerify_TreeOfAnyHeight_IsAccepted(t *testing.T) {
	for _, blocks := range []int{1, 2, 16, 17, 256, 257} {
		w := newWorld(t)
		w.data = w.data[:blocks*testBlock]
		w.tree, w.root = hashTree(w.data, testBlock, nil)
		if _, err := w.verify(w.good(t)); err != nil {
			t.Errorf("%d blocks: %v", blocks, err)
		}
	}
}

// Whoever can write to the update server, or to the disk, must not get code onto a node.
//
//	attack                                   what would happen without the check
//	a byte of data changed                   found by the kernel only when the block is read
//	a byte of the hash tree changed          reads fail on a running node
//	a byte of the last hash block's padding  the same
//	salt changed                             no block fits
//	signed by a key the firmware lacks       foreign code
//	foreign signature, our fingerprint       foreign code
//	our signature of another root hash       an older image's signature reused
//	two signers, one of them ours            unclear who vouches
//	no signature partition                   unsigned code: systemd accepts by default
//	unsigned root beside the signed usr      both are merged
//	unknown partition                        unclear what systemd does with it
//	two data partitions                      unclear which one is merged
//	no partition table                       bare file system, unsigned
//	partition beyond the end                 reads outside of the image
//	partitions overlap                       signed bytes read as another thing
//	verity claims no blocks                  nothing is protected
//	verity claims too many blocks            reads outside of the partition
//	wrong checksum of the table              broken download
func TestVerify_Attack_IsRefused(t *testing.T) {
	w := newWorld(t)
	document := func(root string, by ...signer) []byte {
		return signatureDocument(t, root, w.ours.fingerprint(), sign(t, root, by...))
	}
	le := binary.LittleEndian
	dataAt := 34 * 512
	treeAt := dataAt + len(w.data)
	entry := func(i int) int { return 1024 + i*128 }
	edit := func(change func(image []byte)) []byte {
		image := w.good(t)
		change(image)
		return image
	}
	other := strings.Repeat("ab", 32)
	cases := map[string][]byte{
		"byte of data changed":         edit(func(b []byte) { b[dataAt+5*testBlock+3] ^= 1 }),
		"last byte of data changed":    edit(func(b []byte) { b[treeAt-1] ^= 1 }),
		"byte of hash tree changed":    edit(func(b []byte) { b[treeAt+testBlock+1] ^= 1 }),
		"padding of hash tree changed": edit(func(b []byte) { b[treeAt+len(w.tree)-1] ^= 1 }),
		"salt changed":                 edit(func(b []byte) { b[treeAt+88] ^= 1 }),
		"foreign signer": w.image(signatureDocument(t, w.root, w.foreign.fingerprint(),
			sign(t, w.root, w.foreign))),
		"foreign signature, our fingerprint": w.image(document(w.root, w.foreign)),
		"signature of another root hash": w.image(signatureDocument(t, w.root, w.ours.fingerprint(),
			sign(t, other, w.ours))),
		"signed root hash of other data": w.image(document(other, w.ours)),
		"two signers":                    w.image(document(w.root, w.ours, w.foreign)),
		"signed twice by us":             w.image(document(w.root, w.ours, w.ours)),
		"two families": gptImage(part{usrData, w.data}, part{rootVerity, w.tree},
			part{usrSignature, document(w.root, w.ours)}),
		"signature document cut off":     w.image([]byte(`{"rootHash":"`)),
		"signature empty":                w.image(signatureDocument(t, w.root, w.ours.fingerprint(), nil)),
		"root hash in capitals":          w.image(document(strings.ToUpper(w.root), w.ours)),
		"no signature partition":         gptImage(part{usrData, w.data}, part{usrVerity, w.tree}),
		"unsigned root beside":           w.image(document(w.root, w.ours), part{rootData, w.data}),
		"unknown partition":              w.image(document(w.root, w.ours), part{espType, w.data}),
		"two data partitions":            w.image(document(w.root, w.ours), part{usrData, w.data}),
		"no partition table":             w.data,
		"empty file":                     {},
		"cut off in the data":            w.good(t)[:dataAt+100],
		"partition beyond the end":       edit(func(b []byte) { le.PutUint64(b[entry(0)+40:], 1<<40); resum(b) }),
		"partition of negative size":     edit(func(b []byte) { le.PutUint64(b[entry(0)+40:], 3); resum(b) }),
		"partition sector overflows":     edit(func(b []byte) { le.PutUint64(b[entry(0)+32:], 1<<63); resum(b) }),
		"partitions overlap":             edit(func(b []byte) { le.PutUint64(b[entry(1)+32:], 40); resum(b) }),
		"verity claims no blocks":        edit(func(b []byte) { le.PutUint64(b[treeAt+72:], 0) }),
		"verity claims too many blocks":  edit(func(b []byte) { le.PutUint64(b[treeAt+72:], 1<<60) }),
		"verity block of size 0":         edit(func(b []byte) { le.PutUint32(b[treeAt+64:], 0) }),
		"verity salt too long":           edit(func(b []byte) { le.PutUint16(b[treeAt+80:], 65535) }),
		"wrong checksum of the table":    edit(func(b []byte) { b[entry(0)+60] ^= 1 }),
		"entries outside of the image":   edit(func(b []byte) { le.PutUint64(b[512+72:], 1<<55); resum(b) }),
		"more entries than are possible": edit(func(b []byte) { le.PutUint32(b[512+80:], 1<<31); resum(b) }),
	}
	for name, image := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := w.verify(image)
			if !errors.Is(err, sysext.ErrRefused) || got != (sysext.Image{}) {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

// A person who stops an installation must not wait for a large image to be read.
func TestVerify_CancelledContext_StopsAndDoesNotCallTheImageBad(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	image := w.good(t)
	_, err := sysext.VerifyReader(ctx, bytes.NewReader(image), int64(len(image)), [][]byte{w.ours.cert.Raw})
	if !errors.Is(err, context.Canceled) || errors.Is(err, sysext.ErrRefused) {
		t.Errorf("got %v", err)
	}
}

// A firmware with one malformed vendor certificate must still accept our images, and one
// with nothing readable must accept none.
func TestVerify_MalformedCertificates_AreSkipped(t *testing.T) {
	w := newWorld(t)
	image := w.good(t)
	broken := []byte("not a certificate")
	_, err := sysext.VerifyReader(context.Background(), bytes.NewReader(image), int64(len(image)), [][]byte{broken, w.ours.cert.Raw})
	if err != nil {
		t.Errorf("with one malformed certificate: %v", err)
	}
	if _, err = sysext.VerifyReader(context.Background(), bytes.NewReader(image), int64(len(image)), [][]byte{broken}); err == nil {
		t.Error("accepted without any certificate")
	}
}

// Our own reading of the hash tree format must be the one that the kernel's tools write.
func TestVerify_TreeWrittenByVeritysetup_IsAccepted(t *testing.T) {
	needs.Programs(t, "veritysetup")
	w := newWorld(t)
	w.data = bytes.Repeat(testData(), 8)
	directory := t.TempDir()
	data, tree := filepath.Join(directory, "data"), filepath.Join(directory, "tree")
	if err := os.WriteFile(data, w.data, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("veritysetup", "format", "--root-hash-file="+filepath.Join(directory, "root"), data, tree).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	root, err := os.ReadFile(filepath.Join(directory, "root"))
	if err != nil {
		t.Fatal(err)
	}
	if w.tree, err = os.ReadFile(tree); err != nil {
		t.Fatal(err)
	}
	w.root = strings.TrimSpace(string(root))
	if _, err := w.verify(w.good(t)); err != nil {
		t.Error(err)
	}
}

// Whatever bytes a server sends, the check must end with an answer.
func FuzzVerify(f *testing.F) {
	ours := newSigner(f, "ours")
	data := testData()[:20*testBlock]
	tree, root := hashTree(data, testBlock, []byte("salt"))
	document := signatureDocument(f, root, ours.fingerprint(), sign(f, root, ours))
	f.Add(gptImage(part{usrData, data}, part{usrVerity, tree}, part{usrSignature, document}))
	f.Add([]byte("EFI PART"))
	f.Fuzz(func(t *testing.T, image []byte) {
		got, err := sysext.VerifyReader(context.Background(), bytes.NewReader(image), int64(len(image)), [][]byte{ours.cert.Raw})
		if err == nil && got.RootHash != root {
			t.Errorf("accepted %+v", got)
		}
	})
}
