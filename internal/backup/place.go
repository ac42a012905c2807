package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Place is the folder of an application's data, and the two beside it that a restore or a
// reset needs. The application does not run between Swap and Back.
//
//	beside it      what it means                       what Recover does
//	.new           data that nobody has started with   removes it
//	.old, .new     a swap that was cut in the middle   goes back to .old
//	.old           the data of before; the new one     nothing: Back or Settle decides when the
//	               was not yet seen to work            application has been started
//
// A reset is noted elsewhere and goes on with Rewind or Finish in the place of Recover.
//
// While .new is made it has no meaning, so a power cut then leaves the data as it was.
type Place struct {
	// Dir is the folder, as "/var/lib/incus". It is no mount point.
	Dir string
}

func (p Place) fresh() string  { return p.Dir + ".new" }
func (p Place) before() string { return p.Dir + ".old" }

// Pending tells whether data of before is there, so that a start has to be judged.
func (p Place) Pending() (bool, error) { return exists(p.before()) }

// Found is what Recover has found.
type Found int

const (
	// Nothing was under way, or it is up to Settle and Back.
	Nothing Found = iota
	// Swept is new data that nobody had started with: it is gone.
	Swept
	// WentBack is a swap that was cut in the middle: the data of before is there again.
	WentBack
)

// Recover puts right what a power cut has left. It comes before the application is started.
func (p Place) Recover() (Found, error) {
	old, err := exists(p.before())
	if err != nil {
		return Nothing, err
	}
	fresh, err := exists(p.fresh())
	if err != nil || !fresh {
		return Nothing, err
	}
	if !old {
		return Swept, p.removeAll(p.fresh())
	}
	if err := p.restoreOld(); err != nil {
		return Nothing, err
	}
	return WentBack, p.removeAll(p.fresh())
}

// restoreOld puts the data of before back. What stands in its place is an empty folder that
// the start of the machine has made, or nothing.
func (p Place) restoreOld() error {
	if err := os.Remove(p.Dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("going back to the data of before: %s is not empty: %w", p.Dir, err)
	}
	return p.rename(p.before(), p.Dir)
}

// Prepare makes the new folder, empty, with owner and mode of the present one.
func (p Place) Prepare() error {
	if pending, err := p.Pending(); err != nil || pending {
		return errors.Join(err, fmt.Errorf("%s is there: an earlier restore was not finished; restart the node first", p.before()))
	}
	if err := p.removeAll(p.fresh()); err != nil {
		return err
	}
	stat, err := lstat(p.Dir)
	if err != nil {
		return fmt.Errorf("looking at the data of the application: %w", err)
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		return fmt.Errorf("%s is not a folder", p.Dir)
	}
	if err := os.Mkdir(p.fresh(), 0o700); err != nil {
		return fmt.Errorf("making room for the new data: %w", err)
	}
	err = errors.Join(chown(p.fresh(), int(stat.Uid), int(stat.Gid)), os.Chmod(p.fresh(), fs.FileMode(stat.Mode).Perm()))
	if err != nil {
		return fmt.Errorf("making room for the new data: %w", err)
	}
	return nil
}

// Extract fills the new folder with an archive, and returns when it is on the disk. The
// archive was scanned before. On an error the new folder is gone.
func (p Place) Extract(ctx context.Context, archive io.Reader, rules Rules, progress func(done int64)) (err error) {
	if err := p.Prepare(); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.removeAll(p.fresh()))
		}
	}()
	root, err := os.OpenRoot(p.fresh())
	if err != nil {
		return fmt.Errorf("unpacking the backup: %w", err)
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	x := &extraction{root: root, progress: progress}
	if _, err := Scan(ctx, archive, rules, x.member); err != nil {
		return fmt.Errorf("unpacking the backup: %w", err)
	}
	// The modes of folders come last, the deepest first: one may forbid to write in it.
	for _, folder := range slices.Backward(x.folders) {
		if err := root.Chmod(folder.Name, folder.Mode); err != nil {
			return fmt.Errorf("unpacking the backup: %w", err)
		}
	}
	return syncTree(p.fresh())
}

type extraction struct {
	root     *os.Root
	progress func(int64)
	folders  []Member
	done     int64
}

func (x *extraction) member(m Member, content io.Reader) error {
	if err := x.write(m, content); err != nil {
		return fmt.Errorf("%s: %w", shown(m.Name), err)
	}
	if x.done += m.Size; x.progress != nil {
		x.progress(x.done)
	}
	return nil
}

func (x *extraction) write(m Member, content io.Reader) error {
	if parent := filepath.Dir(m.Name); parent != "." {
		if err := x.root.MkdirAll(parent, 0o700); err != nil {
			return err
		}
	}
	switch m.Type {
	case TypeDirectory:
		if err := x.root.MkdirAll(m.Name, 0o700); err != nil {
			return err
		}
		x.folders = append(x.folders, m)
		return x.own(m)
	case TypeSymlink:
		if err := x.root.Symlink(m.Target, m.Name); err != nil {
			return err
		}
		return x.own(m)
	}
	f, err := x.root.OpenFile(m.Name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := x.own(m); err != nil {
		return err
	}
	if err := x.root.Chmod(m.Name, m.Mode); err != nil {
		return err
	}
	return x.root.Chtimes(m.Name, m.ModTime, m.ModTime)
}

// own gives a member its owner.
func (x *extraction) own(m Member) error {
	if m.UID == os.Getuid() && m.GID == os.Getgid() {
		return nil
	}
	return x.root.Lchown(m.Name, m.UID, m.GID)
}

func chown(file string, uid, gid int) error {
	if uid == os.Getuid() && gid == os.Getgid() {
		return nil
	}
	return os.Lchown(file, uid, gid)
}

// Swap puts the new data in the place of the present one, which it keeps. On an error all
// is as it was.
func (p Place) Swap() error {
	if err := p.rename(p.Dir, p.before()); err != nil {
		return err
	}
	if err := p.rename(p.fresh(), p.Dir); err != nil {
		return errors.Join(err, p.rename(p.before(), p.Dir))
	}
	return nil
}

// Back puts the data of before back, and removes the new one.
func (p Place) Back() error {
	if err := p.rename(p.Dir, p.fresh()); err != nil {
		return err
	}
	if err := p.rename(p.before(), p.Dir); err != nil {
		return err
	}
	return p.removeAll(p.fresh())
}

// Settle removes the data of before: the application has started with the new one. It is
// renamed first, so that a part of it is never gone back to.
func (p Place) Settle() error {
	if err := p.removeAll(p.fresh()); err != nil {
		return err
	}
	if err := p.rename(p.before(), p.fresh()); err != nil {
		return err
	}
	return p.removeAll(p.fresh())
}

// Rewind gives the folder the data of before again, whatever a swap that was cut has left, so
// that it can begin once more. The application does not run.
func (p Place) Rewind() error {
	if _, err := p.Recover(); err != nil {
		return err
	}
	pending, err := p.Pending()
	if err != nil || !pending {
		return err
	}
	return p.Back()
}

// Finish is Settle for a swap whose Settle may have been cut. The new data was seen to work.
func (p Place) Finish() error {
	pending, err := p.Pending()
	if err != nil {
		return err
	}
	if pending {
		return p.Settle()
	}
	return p.Discard()
}

// Discard removes new data that is not wanted after all.
func (p Place) Discard() error { return p.removeAll(p.fresh()) }

func (p Place) rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return fmt.Errorf("moving the data of an application: %w", err)
	}
	return syncFolder(filepath.Dir(p.Dir))
}

// removeAll removes a folder, but never what is mounted in it.
func (p Place) removeAll(dir string) error {
	stat, err := lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("removing %s: %w", dir, err)
	}
	err = filepath.WalkDir(dir, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		below, err := lstat(file)
		if err == nil && below.Dev != stat.Dev {
			err = fmt.Errorf("%s is on another file system: unmount it first", file)
		}
		return err
	})
	if err == nil {
		err = os.RemoveAll(dir)
	}
	if err != nil {
		return fmt.Errorf("removing %s: %w", dir, err)
	}
	return nil
}

func exists(file string) (bool, error) {
	_, err := os.Lstat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// syncTree brings the file system of a folder to the disk.
func syncTree(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
}
