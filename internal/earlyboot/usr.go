package earlyboot

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/holdfast-os/holdfast/internal/bootinfo"
)

// usrMapping is /usr behind its hash tree.
const usrMapping = "/dev/mapper/usr"

// usrBeginning is how much of /usr is read before it is mounted, in bytes: the head of its file
// system, and the way through the hash tree to it.
const usrBeginning = 1 << 20

// doubtfulStarts is after how many starts in a row that never ended in a ready node the next one
// reads all of /usr. One or two are a power cut, or a person at the switch.
const doubtfulStarts = 2

// readUsr fails when the first size bytes of /usr cannot be read. Without its beginning nobody
// would see a file system in the mapping, and systemd waits ten minutes for one.
func readUsr(path string, size int64) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("reading /usr: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if read, err := io.CopyN(io.Discard, f, size); err != nil {
		return fmt.Errorf("reading /usr: it is damaged %d bytes from its beginning, or the disk is: %w", read, err)
	}
	return nil
}

// doubtUsr counts this start, and reads all of /usr when those before it did not end well. A
// wrong block that only the system meets restarts the machine (commandEtc) and leaves no trace
// but that; found here, while it is an error, it counts as a failed start of this release, and
// the third one leads to the other release (after.go).
func (h Host) doubtUsr(info bootinfo.Info, mapping string, out io.Writer) error {
	if info.Mode != bootinfo.Node {
		return nil // it runs in memory, and a person is there
	}
	before, err := bootinfo.CountStart(h.paths.Sysroot, info.UsrRootHash)
	if err != nil {
		// A root volume that is full or worn out is the daemon's to tell.
		fmt.Fprintln(out, "this start is not counted:", err)
	}
	if before < doubtfulStarts {
		return nil
	}
	size, err := h.fileSystemSize()
	if err != nil {
		fmt.Fprintln(out, "what the release consists of is not read:", err)
		return nil
	}
	fmt.Fprintf(out, "The last %d starts of this release did not end in a ready node: reading all of /usr (%d MB).\n", before, size/1e6)
	return readUsr(mapping, size)
}

// fileSystemSize is how much of the mapping the file system of /usr takes, in bytes; behind it
// the partition has zeros that nobody reads.
func (h Host) fileSystemSize() (int64, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(h.paths.Sysusr+"/usr", &stat); err != nil {
		return 0, fmt.Errorf("asking for the size of /usr: %w", err)
	}
	return int64(stat.Blocks) * stat.Bsize, nil
}
