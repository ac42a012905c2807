package release

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/secureboot"
)

// keysName is the archive of Secure Boot keys of a release, packed. It is for every
// architecture, and lies beside their folders.
func keysName(version string) string { return "SecureBootKeys_" + version + ".tar.gz" }

// readKeys reads an archive of Secure Boot keys, plain or packed, and gives it plain. One
// that no node would read is an error: whether a node's firmware believes it, nobody knows
// here.
func readKeys(name string) ([]byte, error) {
	data, err := readFileAtMost(name, secureboot.MaxArchive)
	if err != nil {
		return nil, fmt.Errorf("reading the Secure Boot keys: %w", err)
	}
	archive, err := secureboot.ReadArchive(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(archive) == 0 {
		return nil, fmt.Errorf("the archive %s has no update of a variable: make one with `holdfast release secureboot-update`", name)
	}
	if !bytes.HasPrefix(data, []byte{0x1f, 0x8b}) {
		return data, nil
	}
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("unpacking %s: %w", name, err)
	}
	plain, err := readAtMost(r, secureboot.MaxArchive)
	if err != nil {
		return nil, fmt.Errorf("unpacking %s: %w", name, err)
	}
	return plain, nil
}

// stageKeys packs an archive of Secure Boot keys into the stage: the same archive gives the
// same file, however it was packed before.
func stageKeys(ctx context.Context, version string, plain []byte, stage string) (_ staged, err error) {
	name := keysName(version)
	fail := func(err error) (staged, error) { return staged{}, fmt.Errorf("packing %s: %w", name, err) }
	out, err := os.OpenFile(filepath.Join(stage, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fail(err)
	}
	digest := sha256.New()
	counter := &countingWriter{w: io.MultiWriter(out, digest)}
	err = pack(ctx, counter, bytes.NewReader(plain))
	if err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return fail(err)
	}
	sum := sha256.Sum256(plain)
	p := packed{counter.n, hex.EncodeToString(digest.Sum(nil)), int64(len(plain)), hex.EncodeToString(sum[:])}
	kind := artifact{name: name[:len(name)-len(".gz")], component: release.ComponentOS, kind: release.TypeUpdateSecureBoot}
	return staged{kind, release.File{
		Component: kind.component, Filename: name, SHA256: p.sum, Size: p.size, Type: kind.kind,
	}, p}, syncDir(stage)
}

// same says whether a release that nodes may have still has the parts that it had. A file
// that follows later would have to be in the manifest, and nodes take no second manifest
// with other parts for one version.
func same(old, now []release.Part) error {
	key := func(p release.Part) string { return p.Name + " " + p.SHA256 }
	for _, p := range now {
		if !slices.ContainsFunc(old, func(o release.Part) bool { return key(o) == key(p) }) {
			return fmt.Errorf("%w: it was published without %s: build a new version that has it", ErrPublished, p.Name)
		}
	}
	return nil
}
