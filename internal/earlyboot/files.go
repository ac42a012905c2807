package earlyboot

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Root gives the files under /sysroot.
func (h Host) Root() RootFiles { return hostRoot{h} }

type hostRoot struct{ host Host }

func (r hostRoot) MountTemporary() error {
	sysroot := r.host.paths.Sysroot
	if err := os.MkdirAll(sysroot, 0o755); err != nil {
		return fmt.Errorf("making %s: %w", sysroot, err)
	}
	if err := r.host.mounts.Mount("tmpfs", sysroot, "tmpfs", unix.MS_NODEV|unix.MS_NOSUID, "mode=0755,size=50%"); err != nil {
		return fmt.Errorf("mounting a tmpfs at %s: %w", sysroot, err)
	}
	return nil
}

func (r hostRoot) Unmount(ctx context.Context) error {
	if err := r.host.mounts.Unmount(r.host.paths.Sysroot, 0); err != nil {
		return fmt.Errorf("unmounting %s: %w", r.host.paths.Sysroot, err)
	}
	return r.host.detach(ctx)
}

func (r hostRoot) Exists(name string) (bool, error) {
	_, err := os.Lstat(filepath.Join(r.host.paths.Sysroot, name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func (r hostRoot) WriteNew(name, content string) error {
	if err := r.makeStateDir(); err != nil {
		return err
	}
	path := filepath.Join(r.host.paths.Sysroot, name)
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o400)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(f, content); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(dir.Fd())), dir.Close())
}

// makeStateDir makes the folders of the state. Those above it belong to everybody:
// programs that are not root look below /var. The umask has no say.
func (r hostRoot) makeStateDir() error {
	path := r.host.paths.Sysroot
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	for part := range strings.SplitSeq(StateDir, "/") {
		path = filepath.Join(path, part)
		mode := fs.FileMode(0o755)
		if strings.HasSuffix(path, StateDir) {
			mode = 0o700
		}
		if err := os.Mkdir(path, mode); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := os.Chmod(path, mode); err != nil {
			return err
		}
	}
	return os.Chmod(r.host.paths.Sysroot, 0o755)
}

// NewMachineID makes a machine id as machine-id(5) has it: a random UUID (version 4)
// in 32 lower-case hexadecimal digits.
func NewMachineID() (string, error) {
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		return "", fmt.Errorf("reading random bytes: %w", err)
	}
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return hex.EncodeToString(id[:]), nil
}

// option gives the value of name=value on a kernel command line, or nothing.
func option(cmdline, name string) string {
	for _, word := range strings.Fields(cmdline) {
		if value, found := strings.CutPrefix(word, name+"="); found {
			return value
		}
	}
	return ""
}
