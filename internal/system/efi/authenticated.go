package efi

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// Attributes of variables that only the owner of a key can change.
const (
	// TimeAuthenticated says that the data begins with a signature and its time.
	TimeAuthenticated uint32 = 0x20
	// AppendWrite says that the data is added to what is there. It is never stored.
	AppendWrite uint32 = 0x40
	// Append is how an update of a signature database is written.
	Append = Persistent | TimeAuthenticated | AppendWrite
)

// Why the firmware did not take a variable.
var (
	// ErrFull means that its memory for variables is full.
	ErrFull = errors.New("the firmware's memory for variables is full: restart, so that it is tidied up, and if that does not help remove dump-* variables or boot entries that nobody needs")
	// ErrReadOnly means that variables cannot be written at all now.
	ErrReadOnly = errors.New("the firmware's variables are read-only: restart, and look for a write protection of variables in the firmware's setup")
	// ErrRefused means that the firmware did not accept the signature.
	ErrRefused = errors.New("the firmware refused the signature: the update must be signed by a key in PK (for KEK) or KEK (for db, dbx) of this machine")
	// ErrUnusable means that the firmware rejected the form of the update.
	ErrUnusable = errors.New("the firmware does not take the update in this form; look for a newer firmware")
)

// AppendAuthenticated hands a signed update to the firmware, which checks it and adds its
// content to a variable. update is the whole of an .auth file. Entries that are there
// already are left out by the firmware.
//
// The update has taken place when this returns, and shows in Read. It counts for the next
// start. ErrFull, ErrReadOnly, ErrRefused and ErrUnusable, wrapped, say that nothing was
// changed; after any other error Read tells.
func (v Vars) AppendAuthenticated(name, vendor string, update []byte) error {
	if len(update) > maxVariable {
		return fmt.Errorf("adding to firmware variable %s: %d bytes are too many, at most %d are written", name, len(update), maxVariable)
	}
	path := v.path(name, vendor)
	restore, err := mutable(path)
	if err != nil {
		return fmt.Errorf("making firmware variable %s writable: %w", name, classify(err))
	}
	data := append(binary.LittleEndian.AppendUint32(nil, Append), update...)
	err = writeOnce(path, data)
	if err = errors.Join(classify(err), restore()); err != nil {
		return fmt.Errorf("adding to firmware variable %s: %w", name, err)
	}
	return nil
}

// classify adds to an error of the kernel what it means for variables.
func classify(err error) error {
	for _, known := range []struct {
		number unix.Errno
		means  error
	}{
		{unix.ENOSPC, ErrFull}, {unix.EROFS, ErrReadOnly}, {unix.EACCES, ErrRefused}, {unix.EINVAL, ErrUnusable},
		// Kernels in lockdown and mounts without the right to write.
		{unix.EPERM, ErrReadOnly},
	} {
		if errors.Is(err, known.number) {
			return fmt.Errorf("%w: %w", known.means, err)
		}
	}
	return err
}

// Room is an error that wraps ErrFull when a variable of so many bytes, name and all, will
// not fit beside those that are there, and ErrReadOnly when nothing can be written. Firmware
// writes the whole variable anew when something is added, so size is that of the whole. It
// is nil where the kernel cannot tell. What the firmware itself needs free is left alone.
func (v Vars) Room(size int) error {
	var stat unix.Statfs_t
	if err := unix.Statfs(v.dir(), &stat); err != nil {
		return fmt.Errorf("looking for room for firmware variables: %w", err)
	}
	return room(stat, size)
}

func room(stat unix.Statfs_t, size int) error {
	if stat.Flags&unix.ST_RDONLY != 0 {
		return fmt.Errorf("looking for room for firmware variables: %w", ErrReadOnly)
	}
	// Kernels before 6.7 say nothing, as does some firmware.
	if stat.Blocks == 0 {
		return nil
	}
	if free := stat.Bavail * uint64(stat.Bsize); free < uint64(size) {
		return fmt.Errorf("looking for room for firmware variables: %d bytes are free, %d are needed: %w", free, size, ErrFull)
	}
	return nil
}

// SecureBootVariables gives the raw contents of what register 7 of the TPM depends on:
// SecureBoot, PK, KEK, db and dbx, and dbt and dbr where the firmware has them. One of the
// first five that does not exist is empty, as the firmware measures it.
func (v Vars) SecureBootVariables() (map[string][]byte, error) {
	contents := map[string][]byte{}
	for _, variable := range []struct {
		name, vendor string
		always       bool
	}{
		{"SecureBoot", Global, true}, {"PK", Global, true}, {"KEK", Global, true},
		{"db", ImageSecurity, true}, {"dbx", ImageSecurity, true}, {"dbt", ImageSecurity, false}, {"dbr", ImageSecurity, false},
	} {
		value, err := v.Read(variable.name, variable.vendor)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if variable.always {
				contents[variable.name] = []byte{}
			}
		case err != nil:
			return nil, err
		default:
			contents[variable.name] = value.Data
		}
	}
	return contents, nil
}
