// Package zfs is the adapter of zpool and zfs.
//
// The node's own pool is `local`: one encrypted pool on the partition with the label
// local-data, its key in a file on the encrypted root. EnsureLocal imports or makes it,
// and survives a power cut at any point, because what it writes has an order:
//
//	key file            32 random bytes, on disk before the pool exists
//	<key>.creating      marker: from here to its removal the partition may hold half a
//	                    pool, which may be overwritten
//	zpool create
//	marker removed      from here on nothing ever overwrites the partition
//
// A key without a pool is used again. A pool without its key is never touched: its data
// can be opened with a key that the owner kept.
package zfs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

const (
	// Local is the name of the node's own pool.
	Local = "local"
	// DefaultKeyDirectory holds the keys of managed pools, as zpool.<name>.key.
	DefaultKeyDirectory = "/var/lib/incus-os"
	// keySize is the size of a raw key of ZFS, in bytes.
	keySize = 32
)

var (
	// ErrNoKey is an encrypted pool whose key the node does not have.
	ErrNoKey = errors.New("the key of the pool is not on this node")
	// ErrOccupied is a partition that holds something else than the wanted pool.
	ErrOccupied = errors.New("the partition holds something else")
)

// ZFS runs the tools on one machine.
type ZFS struct {
	Run run.Runner
	// KeyDirectory holds the keys; default DefaultKeyDirectory.
	KeyDirectory string
}

// KeyPath is where the key of a managed pool lies.
func (z *ZFS) KeyPath(pool string) string {
	directory := z.KeyDirectory
	if directory == "" {
		directory = DefaultKeyDirectory
	}
	return filepath.Join(directory, "zpool."+pool+".key")
}

// EnsureLocal imports the pool `local` from device, or makes it there when the device is
// blank, and loads its key. It may be repeated. ErrNoKey, ErrOccupied.
func (z *ZFS) EnsureLocal(ctx context.Context, device, keyPath string) error {
	marker := keyPath + ".creating"
	unfinished, err := exists(marker)
	if err != nil {
		return err
	}
	imported, err := z.Exists(ctx, Local)
	if err != nil {
		return err
	}
	if !imported {
		imported, err = z.importLocal(ctx, device, keyPath, unfinished)
		if err != nil {
			return err
		}
	}
	if !imported {
		if err := z.makeLocal(ctx, device, keyPath, marker, unfinished); err != nil {
			return err
		}
	}
	if err := remove(marker); err != nil {
		return err
	}
	return z.LoadKey(ctx, Local)
}

// importLocal imports the pool if device holds it, and says whether it did. False means
// that a pool may be made on device. The import is forced: the partition is on this
// node's own disk, so no other machine can be using it.
func (z *ZFS) importLocal(ctx context.Context, device, keyPath string, unfinished bool) (bool, error) {
	kind, label, err := z.probe(ctx, device)
	if err != nil {
		return false, err
	}
	if kind == "" {
		return false, nil
	}
	if kind != "zfs_member" || (label != Local && label != "" && !unfinished) {
		return false, fmt.Errorf("%s has %s %q, so pool %s is not made there: %w; wipe it or import it through the API", device, kind, label, Local, ErrOccupied)
	}
	hasKey, err := exists(keyPath)
	if err != nil {
		return false, err
	}
	if !hasKey {
		return false, fmt.Errorf("pool %s is on %s, but %s does not exist: %w; import the pool through the API with the key from its recovery information", Local, device, keyPath, ErrNoKey)
	}
	_, err = z.Run(ctx, run.Command{Name: "zpool", Args: []string{"import", "-f", "-N", "-d", device, Local}})
	if err != nil && unfinished && ctx.Err() == nil {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("importing pool %s from %s: %w", Local, device, err)
	}
	return true, nil
}

func (z *ZFS) makeLocal(ctx context.Context, device, keyPath, marker string, unfinished bool) error {
	if err := ensureKey(keyPath); err != nil {
		return err
	}
	if err := writeSynced(marker, nil); err != nil {
		return err
	}
	return z.CreateLocal(ctx, device, keyPath, unfinished)
}

// CreateLocal makes the pool `local` on device, encrypted with the 32 bytes in keyPath.
// With overwrite it goes over what an earlier, unfinished call left there.
func (z *ZFS) CreateLocal(ctx context.Context, device, keyPath string, overwrite bool) error {
	if !filepath.IsAbs(keyPath) {
		return fmt.Errorf("making pool %s: key path %q is not absolute", Local, keyPath)
	}
	args := []string{"create"}
	if overwrite {
		args = append(args, "-f")
	}
	args = append(args,
		"-o", "ashift=12",
		"-O", "mountpoint=none",
		"-O", "encryption=aes-256-gcm",
		"-O", "keyformat=raw",
		"-O", "keylocation=file://"+keyPath,
		"-O", "compression=on",
		"-O", "acltype=posix",
		"-O", "xattr=sa",
		Local, device)
	if _, err := z.Run(ctx, run.Command{Name: "zpool", Args: args}); err != nil {
		return fmt.Errorf("making pool %s on %s: %w", Local, device, err)
	}
	return nil
}

// Exists says whether a pool of this name is imported.
func (z *ZFS) Exists(ctx context.Context, pool string) (bool, error) {
	names, err := z.names(ctx)
	return slices.Contains(names, pool), err
}

// Import imports a pool without mounting it. force also takes one that another system
// used last, which destroys it when that system still does.
func (z *ZFS) Import(ctx context.Context, pool string, force bool) error {
	if err := checkName(pool); err != nil {
		return err
	}
	args := []string{"import", "-N"}
	if force {
		args = append(args, "-f")
	}
	if _, err := z.Run(ctx, run.Command{Name: "zpool", Args: append(args, pool)}); err != nil {
		return fmt.Errorf("importing pool %s: %w", pool, err)
	}
	return nil
}

// LoadKey opens an encrypted pool with the key file that its property names. A pool that
// is open or not encrypted is left alone.
func (z *ZFS) LoadKey(ctx context.Context, pool string) error {
	if err := checkName(pool); err != nil {
		return err
	}
	result, err := z.Run(ctx, run.Command{Name: "zfs", Args: []string{"get", "-Hp", "-o", "value", "keystatus", pool}})
	if err != nil {
		return fmt.Errorf("asking for the key status of pool %s: %w", pool, err)
	}
	if strings.TrimSpace(string(result.Stdout)) != "unavailable" {
		return nil
	}
	args := []string{"load-key", pool}
	if hasKey, err := exists(z.KeyPath(pool)); err != nil {
		return err
	} else if hasKey {
		args = []string{"load-key", "-L", "file://" + z.KeyPath(pool), pool}
	}
	if _, err := z.Run(ctx, run.Command{Name: "zfs", Args: args}); err != nil {
		return fmt.Errorf("loading the key of pool %s: %w", pool, err)
	}
	return nil
}

// probe tells what a device holds, empty for nothing, and its label.
func (z *ZFS) probe(ctx context.Context, device string) (kind, label string, err error) {
	result, err := z.Run(ctx, run.Command{Name: "blkid", Args: []string{"--probe", "--output", "export", device}})
	if code, ok := run.ExitCode(err); ok && code == 2 {
		if _, err := os.Stat(device); err != nil {
			return "", "", fmt.Errorf("looking at the partition of pool %s: %w", Local, err)
		}
		return "", "", nil
	}
	if err != nil {
		return "", "", fmt.Errorf("looking at what %s holds: %w", device, err)
	}
	for line := range strings.Lines(string(result.Stdout)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key {
		case "TYPE":
			kind = value
		case "LABEL":
			label = value
		case "PTTYPE":
			if kind == "" {
				kind = "partition table"
			}
		}
	}
	return kind, label, nil
}

var poolName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.:-]{0,254}$`)

// checkName keeps a name from the API from being read as an option or a dataset.
func checkName(pool string) error {
	if !poolName.MatchString(pool) {
		return fmt.Errorf("pool name %.80q is not a letter followed by letters, digits or _ . : -", pool)
	}
	return nil
}

// ensureKey makes sure that a whole key is on disk; one that is there is used again.
func ensureKey(path string) error {
	key, err := os.ReadFile(path)
	switch {
	case err == nil && len(key) == keySize:
		return nil
	case err == nil:
		return fmt.Errorf("key %s has %d bytes, want %d; it is not replaced because a pool may need it", path, len(key), keySize)
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("reading the key of pool %s: %w", Local, err)
	}
	key = make([]byte, keySize)
	if _, err := rand.Read(key); err != nil {
		return fmt.Errorf("making the key of pool %s: %w", Local, err)
	}
	return writeSynced(path, key)
}

// writeSynced writes a file of mode 0400 under another name, and names it when it is on disk.
func writeSynced(path string, content []byte) error {
	next := path + ".next"
	if err := remove(next); err != nil {
		return err
	}
	file, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return fmt.Errorf("making %s: %w", next, err)
	}
	_, err = file.Write(content)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", next, err)
	}
	if err := os.Rename(next, path); err != nil {
		return fmt.Errorf("naming %s: %w", path, err)
	}
	return syncDirectory(filepath.Dir(path))
}

func remove(path string) error {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("removing %s: %w", path, err)
	}
	return syncDirectory(filepath.Dir(path))
}

func syncDirectory(path string) error {
	directory, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("opening %s to write it to disk: %w", path, err)
	}
	if err := errors.Join(directory.Sync(), directory.Close()); err != nil {
		return fmt.Errorf("writing %s to disk: %w", path, err)
	}
	return nil
}

func exists(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for %s: %w", path, err)
	}
	return true, nil
}

// UsableForIncus says whether the pool `local` may carry a new storage pool of Incus: it
// is imported, and its dataset local/incus is missing or has no datasets below it.
func (z *ZFS) UsableForIncus(ctx context.Context) (bool, error) {
	imported, err := z.Exists(ctx, Local)
	if err != nil || !imported {
		return false, err
	}
	result, err := z.Run(ctx, run.Command{Name: "zfs", Args: []string{"list", "-H", "-o", "name", "-r", Local}})
	if err != nil {
		return false, fmt.Errorf("listing the datasets of pool %s: %w", Local, err)
	}
	for name := range strings.Lines(string(result.Stdout)) {
		if strings.HasPrefix(name, Local+"/incus/") {
			return false, nil
		}
	}
	return true, nil
}
