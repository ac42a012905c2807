package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"syscall"

	osapi "github.com/holdfast-os/holdfast/api/os"
)

// Spool is where an archive is made; an *os.File is one.
type Spool interface {
	io.ReadWriteSeeker
	Truncate(size int64) error
}

// Tree is what PackTree packs.
type Tree struct {
	// Dir is where the data really lies; Data.Folder on a node.
	Dir string
	Data
	// Complete also takes Data.Fetched.
	Complete bool
}

// attempts is how often steady folders are read until they stand still.
const attempts = 20

// slurp is up to which size a file is read in one go, in bytes, so that it has one length.
const slurp = 1 << 20

// PackTree packs the data of an application that may be running, from its one file system.
// The steady folders come first, and all is begun anew when they have changed meanwhile.
// leftOut are names that no archive can hold.
func PackTree(ctx context.Context, spool Spool, t Tree, progress func(done int64)) (members []osapi.BackupMember, leftOut []string, err error) {
	for range attempts {
		if _, err := spool.Seek(0, io.SeekStart); err != nil {
			return nil, nil, fmt.Errorf("making the backup: %w", err)
		}
		if err := spool.Truncate(0); err != nil {
			return nil, nil, fmt.Errorf("making the backup: %w", err)
		}
		w := &walk{tree: t, ctx: ctx}
		members, err := Pack(ctx, spool, ApplicationLimits, w.sources(), progress)
		if err == nil {
			return members, w.left, nil
		}
		if !errors.Is(err, errMoved) {
			return nil, nil, fmt.Errorf("backing up %s: %w", t.Folder, err)
		}
	}
	return nil, nil, fmt.Errorf("backing up %s: its database was written each of %d times while it was read: try again when less goes on", t.Folder, attempts)
}

// Bytes is how much PackTree will pack by what is there now; an application that runs
// changes it.
func (t Tree) Bytes(ctx context.Context) (int64, error) {
	stat, err := lstat(t.Dir)
	if err != nil {
		return 0, err
	}
	var all int64
	w := &walk{tree: t, ctx: ctx, dev: uint64(stat.Dev)}
	err = w.below(".", nil, func(s Source, _ error) bool {
		all += s.Size
		return ctx.Err() == nil
	})
	return all, err
}

// errMoved is a steady folder that has changed while it was read.
var errMoved = errors.New("it has changed while it was read")

type walk struct {
	tree Tree
	ctx  context.Context
	dev  uint64
	left []string
}

// sources are all members: the steady folders, then the rest.
func (w *walk) sources() iter.Seq2[Source, error] {
	return func(yield func(Source, error) bool) {
		if err := w.all(yield); err != nil && !errors.Is(err, errStopped) {
			yield(Source{}, err)
		}
	}
}

// errStopped is a caller that wants no more.
var errStopped = errors.New("stopped")

func (w *walk) all(yield func(Source, error) bool) error {
	stat, err := lstat(w.tree.Dir)
	if err != nil {
		return err
	}
	w.dev = uint64(stat.Dev)
	for _, folder := range w.tree.Steady {
		before, err := w.fingerprint(folder)
		if err != nil {
			return err
		}
		if err := w.below(folder, nil, yield); err != nil {
			return err
		}
		after, err := w.fingerprint(folder)
		if err != nil {
			return err
		}
		if before != after {
			return errMoved
		}
	}
	return w.below(".", w.tree.Steady, yield)
}

// below walks one folder, without those named.
func (w *walk) below(folder string, without []string, yield func(Source, error) bool) error {
	return filepath.WalkDir(filepath.Join(w.tree.Dir, folder), func(file string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it has gone since its folder was listed
		}
		if err != nil {
			return err
		}
		name, err := filepath.Rel(w.tree.Dir, file)
		if err != nil || name == "." {
			return err
		}
		for _, one := range without {
			if within(name, one) {
				return skip(entry)
			}
		}
		if w.tree.out(name, w.tree.Complete) {
			return skip(entry)
		}
		return w.entry(file, name, yield)
	})
}

func skip(entry fs.DirEntry) error {
	if entry.IsDir() {
		return fs.SkipDir
	}
	return nil
}

func (w *walk) entry(file, name string, yield func(Source, error) bool) error {
	info, err := os.Lstat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s has no owner", file)
	}
	source := Source{Member: Member{
		Name: name, Mode: info.Mode().Perm(), UID: int(stat.Uid), GID: int(stat.Gid), ModTime: info.ModTime(),
	}}
	foreign := uint64(stat.Dev) != w.dev
	if _, err := cleanName(name); err != nil {
		w.left = append(w.left, shown(name))
		return skip(fs.FileInfoToDirEntry(info))
	}
	switch {
	case info.IsDir():
		source.Type = TypeDirectory // a mount point is an empty folder
	case foreign:
		return nil // a file that something else is mounted over
	case info.Mode()&fs.ModeSymlink != 0:
		source.Type = TypeSymlink
		if source.Target, err = os.Readlink(file); err != nil {
			return err
		}
		if checkLink(name, source.Target, w.tree.Folder) != nil {
			w.left = append(w.left, name)
			return nil
		}
	case info.Mode().IsRegular():
		source.Type, source.Size = TypeFile, info.Size()
		source.Open = func() (io.ReadCloser, int64, error) { return open(file) }
	default:
		w.left = append(w.left, name)
		return nil
	}
	if !yield(source, nil) {
		return errStopped
	}
	if info.IsDir() && foreign {
		return fs.SkipDir
	}
	return nil
}

// open gives a file as it is now. A small one is read at once.
func open(file string) (io.ReadCloser, int64, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	if info.Size() > slurp {
		return f, info.Size(), nil
	}
	text, err := io.ReadAll(io.LimitReader(f, slurp))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, 0, err
	}
	return io.NopCloser(bytes.NewReader(text)), int64(len(text)), nil
}

// fingerprint changes when something in a folder is written.
func (w *walk) fingerprint(folder string) ([32]byte, error) {
	sum := sha256.New()
	err := filepath.WalkDir(filepath.Join(w.tree.Dir, folder), func(file string, _ fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		stat, err := lstat(file)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(sum, "%q %d %d %d %d\n", path.Clean(file), stat.Ino, stat.Size, stat.Mtim.Nano(), stat.Ctim.Nano())
		return err
	})
	return [32]byte(sum.Sum(nil)), err
}

func lstat(file string) (*syscall.Stat_t, error) {
	info, err := os.Lstat(file)
	if err != nil {
		return nil, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, fmt.Errorf("%s has no owner", file)
	}
	return stat, nil
}
