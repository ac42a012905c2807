// Package efi reads and writes the variables of the firmware.
//
// The kernel shows each variable as a file: four bytes of attributes, then the
// data. Variables that a machine needs to start are marked immutable there; Write
// and Delete take that mark off for the moment of the change. A variable that
// already holds the wanted value is not written again, because the memory behind
// it wears out.
package efi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf16"

	"golang.org/x/sys/unix"
)

// Vendors of variables.
const (
	// Global is the vendor of the specification's own variables.
	Global = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
	// ImageSecurity is the vendor of db and dbx.
	ImageSecurity = "d719b2cb-3d3a-4596-a3bc-dad00e67656f"
	// Loader is the vendor of the boot loader interface of systemd.
	Loader = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
	// Install is the vendor of the variables that an installation leaves.
	Install = "12f075e0-2d07-493d-811a-00920a72c04c"
)

// Attributes of a variable.
const (
	NonVolatile    uint32 = 1
	BootService    uint32 = 2
	RuntimeService uint32 = 4
	// Persistent is what a variable needs to be kept and seen by the operating system.
	Persistent = NonVolatile | BootService | RuntimeService
)

// DefaultDir is where the kernel shows the variables.
const DefaultDir = "/sys/firmware/efi/efivars"

// immutable is FS_IMMUTABLE_FL, the mark that keeps a file from being changed.
const immutable = 0x10

// maxVariable bounds a variable, in bytes. Real ones stay below 64 KiB; dbx is the largest.
const maxVariable = 1 << 20

// Vars is the set of variables in one directory.
type Vars struct {
	// Dir is the directory; default DefaultDir.
	Dir string
}

// Variable is the value of one variable.
type Variable struct {
	Attributes uint32
	Data       []byte
}

func (v Vars) dir() string {
	if v.Dir == "" {
		return DefaultDir
	}
	return v.Dir
}

func (v Vars) path(name, vendor string) string {
	return filepath.Join(v.dir(), name+"-"+vendor)
}

// Available reports whether the machine was started by UEFI firmware whose
// variables can be seen.
func (v Vars) Available() bool {
	entries, err := os.ReadDir(v.dir())
	return err == nil && len(entries) > 0
}

// Read gives a variable. One that does not exist is fs.ErrNotExist.
func (v Vars) Read(name, vendor string) (Variable, error) {
	f, err := os.Open(v.path(name, vendor))
	if err != nil {
		return Variable{}, fmt.Errorf("reading firmware variable %s: %w", name, err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxVariable+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return Variable{}, fmt.Errorf("reading firmware variable %s: %w", name, err)
	}
	if len(data) > maxVariable {
		return Variable{}, fmt.Errorf("reading firmware variable %s: more than %d bytes", name, maxVariable)
	}
	if len(data) == 0 {
		// An interrupted write of the kernel's own leaves such a file until the next start.
		return Variable{}, fmt.Errorf("reading firmware variable %s: %w", name, fs.ErrNotExist)
	}
	if len(data) < 4 {
		return Variable{}, fmt.Errorf("reading firmware variable %s: %d bytes are too few", name, len(data))
	}
	return Variable{Attributes: binary.LittleEndian.Uint32(data), Data: data[4:]}, nil
}

// Write sets a variable, unless it already has this value.
func (v Vars) Write(name, vendor string, value Variable) error {
	old, err := v.Read(name, vendor)
	if err == nil && old.Attributes == value.Attributes && bytes.Equal(old.Data, value.Data) {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	path := v.path(name, vendor)
	restore, err := mutable(path)
	if err != nil {
		return fmt.Errorf("making firmware variable %s writable: %w", name, err)
	}
	data := append(binary.LittleEndian.AppendUint32(nil, value.Attributes), value.Data...)
	if err := errors.Join(writeOnce(path, data), restore()); err != nil {
		return fmt.Errorf("writing firmware variable %s: %w", name, err)
	}
	return nil
}

// writeOnce hands the whole value to the kernel in one call, as the file system of
// the variables wants it.
func writeOnce(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	var stat unix.Statfs_t
	if err = unix.Fstatfs(int(f.Fd()), &stat); err == nil && uint32(stat.Type) != unix.EFIVARFS_MAGIC {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.Write(data)
	}
	return errors.Join(err, f.Close())
}

// Delete removes a variable. One that does not exist is no error.
func (v Vars) Delete(name, vendor string) error {
	path := v.path(name, vendor)
	if _, err := mutable(path); err != nil {
		return fmt.Errorf("making firmware variable %s removable: %w", name, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing firmware variable %s: %w", name, err)
	}
	return nil
}

// mutable takes the immutable mark off a file and gives the way to put it back.
// File systems that know no such mark, and files that do not exist, need nothing.
func mutable(path string) (restore func() error, err error) {
	nothing := func() error { return nil }
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nothing, nil
	}
	if err != nil {
		return nil, err
	}
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if unsupported(err) || (err == nil && flags&immutable == 0) {
		return nothing, f.Close()
	}
	if err == nil {
		err = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags&^immutable)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	return func() error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags), f.Close())
	}, nil
}

func unsupported(err error) bool {
	return errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS)
}

// Modes are the switches of Secure Boot.
type Modes struct {
	// SecureBoot is true when the firmware checks what it starts.
	SecureBoot bool
	// SetupMode is true while no platform key is enrolled.
	SetupMode bool
	// AuditMode is true when the firmware only notes what it would refuse.
	AuditMode bool
	// DeployedMode is true when the keys can be changed by their owner only.
	DeployedMode bool
}

// Modes reads the switches of Secure Boot. A variable that is missing counts as off.
func (v Vars) Modes() (Modes, error) {
	var m Modes
	for name, field := range map[string]*bool{
		"SecureBoot": &m.SecureBoot, "SetupMode": &m.SetupMode, "AuditMode": &m.AuditMode, "DeployedMode": &m.DeployedMode,
	} {
		value, err := v.Read(name, Global)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return Modes{}, err
		}
		*field = len(value.Data) > 0 && value.Data[0] == 1
	}
	return m, nil
}

// LoaderPartition gives the unique GUID, in lower case, of the ESP that the boot
// loader was started from. fs.ErrNotExist when the boot loader left no such note.
func (v Vars) LoaderPartition() (string, error) {
	value, err := v.Read("LoaderDevicePartUUID", Loader)
	if err != nil {
		return "", err
	}
	return strings.ToLower(decodeUTF16(value.Data)), nil
}

// installComplete is set when an installation has ended well, and read by the next
// start from the install medium.
const installComplete = "IncusOSInstallComplete"

// InstallComplete reports whether an installation ended on this machine since the
// variable was last cleared.
func (v Vars) InstallComplete() (bool, error) {
	_, err := v.Read(installComplete, Install)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// SetInstallComplete sets or clears the note that an installation ended.
func (v Vars) SetInstallComplete(complete bool) error {
	if !complete {
		return v.Delete(installComplete, Install)
	}
	return v.Write(installComplete, Install, Variable{Attributes: Persistent, Data: make([]byte, 4)})
}

// decodeUTF16 reads little-endian UTF-16 up to the first NUL.
func decodeUTF16(data []byte) string {
	var units []uint16
	for ; len(data) >= 2; data = data[2:] {
		unit := binary.LittleEndian.Uint16(data)
		if unit == 0 {
			break
		}
		units = append(units, unit)
	}
	return string(utf16.Decode(units))
}

// encodeUTF16 writes text as little-endian UTF-16 with a closing NUL.
func encodeUTF16(text string) []byte {
	var data []byte
	for _, unit := range utf16.Encode([]rune(text)) {
		data = binary.LittleEndian.AppendUint16(data, unit)
	}
	return append(data, 0, 0)
}
