// Package publisher is what stands behind `holdfast release publish`: it brings together
// the release tree (internal/release), the shorter ways to get a part (internal/delta) and
// the trusted metadata (internal/tuf) with their keys.
//
// A folder of keys holds one PEM file for each role: root, targets, snapshot, timestamp,
// and channel-NAME for each channel; or, where the key is in a token, NAME.pkcs11 with its
// URI. For development all of them lie in one folder. A
// publisher of a product keeps root and targets elsewhere and hands in the other three:
// what needs a key that is not there says so.
package publisher

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/delta"
	tree "github.com/holdfast-os/holdfast/internal/release"
	"github.com/holdfast-os/holdfast/internal/sign"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/zstd"
	"github.com/holdfast-os/holdfast/internal/tuf"
)

// Extras makes chunks and deltas: release.Extras.
type Extras struct {
	// Run starts zstd.
	Run run.Runner
	// Workers is how many segments of a delta are made at a time; default 1.
	Workers int
}

// worthwhile is the size below which a part is always fetched whole, in bytes.
const worthwhile = 1 << 20

// Chunks is part of release.Extras. The kernel image has none: hardly a piece of it stays
// the same where there is no delta.
func (Extras) Chunks(ctx context.Context, part release.Part, unpacked string, from, to tree.ChunkFiles) (_ bool, err error) {
	if part.Size < worthwhile || part.Type == release.TypeUpdateEFI || part.Type == release.TypeUpdateUsrVerity {
		return false, nil
	}
	in, err := os.Open(unpacked)
	if err != nil {
		return false, fmt.Errorf("cutting %s: %w", part.Name, err)
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	var list, pieces *os.File
	if pieces, err = os.Create(to.Pack); err != nil {
		return false, fmt.Errorf("cutting %s: %w", part.Name, err)
	}
	defer func() { err = errors.Join(err, pieces.Close()) }()
	if list, err = os.Create(to.Index); err != nil {
		return false, fmt.Errorf("cutting %s: %w", part.Name, err)
	}
	defer func() { err = errors.Join(err, list.Close()) }()
	earlier, done := packedBefore(from)
	defer done()
	if _, err := delta.MakeChunks(ctx, in, list, pieces, earlier...); err != nil {
		return false, fmt.Errorf("cutting %s: %w", part.Name, err)
	}
	return true, nil
}

// packedBefore opens chunks that may be taken as they are. Files that are not there, or are
// not what they should be, only cost time.
func packedBefore(from tree.ChunkFiles) (earlier []delta.Earlier, done func()) {
	none := func() {}
	if from.Index == "" {
		return nil, none
	}
	list, err := os.Open(from.Index)
	if err != nil {
		return nil, none
	}
	defer func() { _ = list.Close() }() // only read
	index, err := delta.ReadIndex(list)
	if err != nil {
		return nil, none
	}
	pack, err := os.Open(from.Pack)
	if err != nil {
		return nil, none
	}
	return []delta.Earlier{{Index: index, Pack: pack}}, func() { _ = pack.Close() } // only read
}

// Delta is part of release.Extras. One that saves less than a tenth is not kept.
func (x Extras) Delta(ctx context.Context, part release.Part, unpacked string, base release.Part, baseUnpacked, patch string) (_ bool, err error) {
	if part.Size < worthwhile || base.SHA256 == part.SHA256 && base.Size != part.Size {
		return false, nil
	}
	before, done, err := section(baseUnpacked)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, done()) }()
	after, close, err := section(unpacked)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, close()) }()
	out, err := os.Create(patch)
	if err != nil {
		return false, fmt.Errorf("making a delta of %s: %w", part.Name, err)
	}
	_, err = delta.Make(ctx, before, after, out, delta.Options{Compress: zstd.Zstd{Run: x.Run}.Patch, Workers: x.Workers})
	size, seekErr := out.Seek(0, io.SeekEnd)
	if err = errors.Join(err, seekErr, out.Close()); err != nil {
		return false, fmt.Errorf("making a delta of %s: %w", part.Name, err)
	}
	if size > part.Full.Size-part.Full.Size/10 {
		return false, os.Remove(patch)
	}
	return true, nil
}

func section(name string) (*io.SectionReader, func() error, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return io.NewSectionReader(f, 0, info.Size()), f.Close, nil
}

// Roles of a tree that every tree has.
var roles = []string{"root", "targets", "snapshot", "timestamp"}

// channelKey is the name of a channel's key.
func channelKey(channel string) string { return "channel-" + channel }

// Keys is a folder of private keys: NAME.pem, or NAME.pkcs11 with the URI of a key in a token.
type Keys struct {
	Dir string
	// Run starts openssl for keys in tokens; default run.Host.
	Run run.Runner
}

// Make makes the keys of development that are missing, and root.json: what a node trusts
// that shall take releases signed by them.
func (k Keys) Make(ctx context.Context, channels ...string) error {
	names := slices.Clone(roles)
	for _, channel := range channels {
		if err := tuf.CheckChannel(channel); err != nil {
			return err
		}
		names = append(names, channelKey(channel))
	}
	if err := os.MkdirAll(k.Dir, 0o700); err != nil {
		return fmt.Errorf("making the folder of keys: %w", err)
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		_, err := os.Stat(filepath.Join(k.Dir, name+tokenSuffix))
		return err == nil // it is in a token
	})
	if _, err := tuf.GenerateKeys(k.Dir, names...); err != nil {
		return err
	}
	anchor := filepath.Join(k.Dir, "root.json")
	if _, err := os.Stat(anchor); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	signers, err := k.signers(ctx)
	if err != nil {
		return err
	}
	memory := memory{}
	if err := k.begin(ctx, &tuf.Publisher{Store: memory, Signers: all(signers)}, signers, nil); err != nil {
		return err
	}
	if err := os.WriteFile(anchor+".new", memory["1.root.json"], 0o644); err != nil {
		return fmt.Errorf("keeping the root document: %w", err)
	}
	return os.Rename(anchor+".new", anchor)
}

// tokenSuffix ends the name of a file that says where in a token the key of a role is.
const tokenSuffix = ".pkcs11"

// signers gives all keys of the folder by their names: those in files, and those in tokens.
func (k Keys) signers(ctx context.Context) (map[string]tuf.Signer, error) {
	entries, err := os.ReadDir(k.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing the keys: %w", err)
	}
	found := map[string]tuf.Signer{}
	for _, entry := range entries {
		suffix := filepath.Ext(entry.Name())
		name := strings.TrimSuffix(entry.Name(), suffix)
		if suffix != ".pem" && suffix != tokenSuffix {
			continue
		}
		if found[name] != nil {
			return nil, fmt.Errorf("the key of %s lies in %s both as a file and in a token: remove one of %s.pem and %s%s", name, k.Dir, name, name, tokenSuffix)
		}
		if found[name], err = k.open(ctx, filepath.Join(k.Dir, entry.Name())); err != nil {
			return nil, err
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("there is no key in %s: make some with `holdfast release keys`", k.Dir)
	}
	return found, nil
}

// maxKeyFile bounds a file with a key or a URI, in bytes.
const maxKeyFile = 64 << 10

// open reads a key: a PEM file, or a file NAME.pkcs11 whose one line is the URI of a key in
// a token.
func (k Keys) open(ctx context.Context, file string) (tuf.Signer, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("reading a key: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("reading a key: %w", err)
	}
	if filepath.Ext(file) != tokenSuffix {
		signer, err := tuf.ParseKey(text)
		if err != nil {
			return nil, fmt.Errorf("reading the key %s: %w", file, err)
		}
		return signer, nil
	}
	uri := strings.TrimSpace(string(text))
	if !strings.HasPrefix(uri, "pkcs11:") || strings.ContainsAny(uri, "\n\r\x00") {
		return nil, fmt.Errorf("reading %s: want one line, a pkcs11: URI", file)
	}
	if strings.Contains(uri, "pin-value=") {
		info, err := os.Stat(file)
		if err != nil {
			return nil, fmt.Errorf("reading a key: %w", err)
		}
		if info.Mode().Perm()&0o077 != 0 {
			return nil, fmt.Errorf("reading %s: it has a PIN and others can read it: set its mode to 0600, and change the PIN", file)
		}
	}
	key, err := sign.OpenKey(ctx, sign.OpenSSL{Run: k.Run, Key: uri})
	if err != nil {
		return nil, fmt.Errorf("opening the key that %s names: %w", file, err)
	}
	return key, nil
}

func all(signers map[string]tuf.Signer) []tuf.Signer {
	var list []tuf.Signer
	for _, s := range signers {
		list = append(list, s)
	}
	return list
}

func role(s tuf.Signer) tuf.Role { return tuf.Role{Keys: []crypto.PublicKey{s.Public()}, Threshold: 1} }

// begin makes the metadata of a new tree.
func (k Keys) begin(ctx context.Context, p *tuf.Publisher, signers map[string]tuf.Signer, channels []string) error {
	for _, name := range roles {
		if signers[name] == nil {
			return fmt.Errorf("beginning the metadata of a tree: the key of %s is not in %s", name, k.Dir)
		}
	}
	wanted := tuf.Roles{Root: role(signers["root"]), Targets: role(signers["targets"]), Snapshot: role(signers["snapshot"]),
		Timestamp: role(signers["timestamp"]), Channels: map[string]tuf.Role{}}
	for _, channel := range channels {
		wanted.Channels[channel] = role(signers[channelKey(channel)])
	}
	return p.Init(ctx, wanted)
}

// memory is a store that is thrown away.
type memory map[string][]byte

func (m memory) Read(name string) ([]byte, error) {
	data, ok := m[name]
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	return data, nil
}

func (m memory) Write(name string, data []byte) error { m[name] = bytes.Clone(data); return nil }
