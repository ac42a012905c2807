// Package bootinfo is the note that early boot leaves for the daemon: what kind of
// start this is, on which disk, and how the root volume was opened.
//
// The helper of the initrd writes /run/holdfast/boot.json once, before the root is
// entered; holdfastd reads it. The file holds no secret and is 0644. It lives in
// /run, so a note of an earlier start cannot be taken for one of this start. Beside it, on the
// root volume, starts are counted that never ended in a ready node (starts.go).
package bootinfo

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// Path is where the note lies, relative to the root directory.
const Path = "run/holdfast/boot.json"

// maxSize bounds what is read, in bytes; a note is about 300.
const maxSize = 64 << 10

// Mode is the kind of start.
type Mode string

// The two kinds of start.
const (
	// Node is a start from an installed disk.
	Node Mode = "node"
	// Install is a start from a medium that is to be installed.
	Install Mode = "install"
)

// Unlock says what opened the root volume.
type Unlock string

// The ways to open the root volume. A root that is not encrypted, as in install
// mode, has the empty value.
const (
	TPM      Unlock = "tpm"
	Recovery Unlock = "recovery"
)

// Info is the note.
type Info struct {
	Mode Mode `json:"mode"`
	// RootUnlock is empty when the root is not an encrypted volume.
	RootUnlock Unlock `json:"root_unlock,omitempty"`
	// FirstBoot is true when the root volume was made during this start.
	FirstBoot bool `json:"first_boot"`
	// BootDisk is the whole disk that was started from, as "/dev/vda".
	BootDisk string `json:"boot_disk,omitempty"`
	// Medium is what a person takes out to remove BootDisk, as "/dev/sr0"; empty when it is
	// BootDisk itself.
	Medium string `json:"medium,omitempty"`
	// ESP is the EFI system partition that was started from, as "/dev/vda1".
	ESP string `json:"esp,omitempty"`
	// UsrRootHash is the dm-verity root hash of /usr, 64 hexadecimal digits.
	UsrRootHash string `json:"usr_root_hash,omitempty"`
}

// Read gives the note under the directory root ("/" on a machine). A note that is
// missing is an error for which errors.Is(err, fs.ErrNotExist) holds.
func Read(root string) (Info, error) {
	info, err := read(root)
	if err != nil {
		return Info{}, fmt.Errorf("reading the note of early boot /%s: %w", Path, err)
	}
	return info, nil
}

func read(root string) (info Info, err error) {
	dir, err := os.OpenRoot(root)
	if err != nil {
		return Info{}, err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	file, err := dir.Open(Path)
	if err != nil {
		return Info{}, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	data, err := io.ReadAll(io.LimitReader(file, maxSize+1))
	if err != nil {
		return Info{}, err
	}
	if len(data) > maxSize {
		return Info{}, fmt.Errorf("more than %d bytes", maxSize)
	}
	if err := json.Unmarshal(data, &info); err != nil {
		return Info{}, err
	}
	return info, info.check()
}

func (i Info) check() error {
	if i.Mode != Node && i.Mode != Install {
		return fmt.Errorf("mode %q is neither %q nor %q", i.Mode, Node, Install)
	}
	if i.RootUnlock != "" && i.RootUnlock != TPM && i.RootUnlock != Recovery {
		return fmt.Errorf("root_unlock %q is neither %q nor %q", i.RootUnlock, TPM, Recovery)
	}
	return nil
}

// Write puts the note under the directory root, in one step: a reader sees the
// whole note or none.
func Write(root string, info Info) error {
	if err := write(root, info); err != nil {
		return fmt.Errorf("writing the note of early boot /%s: %w", Path, err)
	}
	return nil
}

func write(root string, info Info) (err error) {
	if err := info.check(); err != nil {
		return err
	}
	data, err := json.Marshal(info)
	if err != nil {
		return err
	}
	dir, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	if err := dir.MkdirAll("run/holdfast", 0o755); err != nil {
		return err
	}
	if err := dir.WriteFile(Path+".tmp", append(data, '\n'), 0o644); err != nil {
		return err
	}
	return dir.Rename(Path+".tmp", Path)
}
