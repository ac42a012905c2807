package bootinfo

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
)

// StartsPath is where starts are counted, relative to the root directory. It lies on the root
// volume, since it has to outlive them.
const StartsPath = "var/lib/incus-os/unfinished-starts.json"

// maxStarts bounds what is counted; beyond it nothing changes.
const maxStarts = 1000

// starts counts the starts of one /usr since the last that ended in a ready node.
type starts struct {
	UsrRootHash string `json:"usr_root_hash"`
	Unfinished  int    `json:"unfinished"`
}

// CountStart notes under the directory root that a start with this /usr has begun, and gives how
// many of the same have begun before it without ending in a ready node. FinishStart ends the
// counting. A count that cannot be read is taken for none, and is replaced: it decides how much
// is looked at, and nothing else.
func CountStart(root, usrRootHash string) (before int, err error) {
	dir, err := os.OpenRoot(root)
	if err != nil {
		return 0, fmt.Errorf("counting this start: %w", err)
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	if old, known := readStarts(dir); known && old.UsrRootHash == usrRootHash {
		before = min(max(old.Unfinished, 0), maxStarts)
	}
	if err := writeStarts(dir, starts{usrRootHash, before + 1}); err != nil {
		return before, fmt.Errorf("counting this start in /%s: %w", StartsPath, err)
	}
	return before, nil
}

// FinishStart notes that this start has ended in a ready node.
func FinishStart(root string) (err error) {
	dir, err := os.OpenRoot(root)
	if err != nil {
		return fmt.Errorf("ending the count of starts: %w", err)
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	if err := dir.Remove(StartsPath); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("ending the count of starts: %w", err)
	}
	if err := syncFolder(dir); err != nil { // else a power cut brings the count back
		return fmt.Errorf("ending the count of starts: %w", err)
	}
	return nil
}

func syncFolder(dir *os.Root) error {
	folder, err := dir.Open(path.Dir(StartsPath))
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

func readStarts(dir *os.Root) (s starts, known bool) {
	file, err := dir.Open(StartsPath)
	if err != nil {
		return starts{}, false
	}
	defer file.Close()
	err = json.NewDecoder(io.LimitReader(file, maxSize)).Decode(&s)
	return s, err == nil
}

// writeStarts is durable: the machine may be restarted by its kernel at any moment after it.
func writeStarts(dir *os.Root, s starts) (err error) {
	file, err := dir.OpenFile(StartsPath+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(json.NewEncoder(file).Encode(s), file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := dir.Rename(StartsPath+".new", StartsPath); err != nil {
		return err
	}
	return syncFolder(dir)
}
