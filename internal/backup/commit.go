package backup

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
)

// Names that a restore of the system uses in the folder of what a node keeps.
const (
	// markerFile commits a restore; its removal ends it.
	markerFile = "restore.json"
	// stageDir holds the files of a restore until they are moved.
	stageDir = "restore.new"
	// keysFile is there while keys of a backup may open the volumes that the kept state does
	// not know.
	keysFile = "restore.keys"
	// maxMarker is the longest marker, in bytes.
	maxMarker = 1 << 20
)

// Folder is the folder of what a node keeps, as a restore sees it. What has returned is on
// the disk. OpenFolder gives the real one.
type Folder interface {
	// Read gives a file of at most limit bytes; a longer one is an error.
	Read(name string, limit int64) ([]byte, error)
	// Write makes a file, 0600, with the folders above it; what is there is replaced, and a
	// power cut may leave a part of it.
	Write(name string, data []byte) error
	// Rename moves a file over another one, whole or not at all.
	Rename(from, to string) error
	// Remove removes a file or folder with all in it; a missing one is no error.
	Remove(name string) error
	// List gives the files of a folder, none for a missing one.
	List(folder string) ([]string, error)
}

// marker is the file that commits a restore.
type marker struct {
	Format int `json:"format"`
	// Files are the sums of the files to keep, by name.
	Files map[string]string `json:"files"`
	// Begun is true once all of them were found whole, before the first one is moved.
	Begun bool `json:"begun,omitempty"`
	// Moved is true once all of them are in their places.
	Moved bool `json:"moved"`
	// RecoveryKeys are to open the volumes, and no others; nil changes none. The file is
	// 0600, in the folder that has these keys in a document too.
	RecoveryKeys []string `json:"recovery_keys,omitempty"`
}

// Pending is what is left to do of a restore.
type Pending struct {
	// RecoveryKeys are to open the volumes, and no others.
	RecoveryKeys []string
	// ForeignKeys is true when keys of a restore that has not come about may open the
	// volumes: those of the kept state are to open them, and no others.
	ForeignKeys bool
	// Abandoned is why a restore was not carried out: the state of before stays. Nil when it
	// was, or when there was none.
	Abandoned error
}

// Commit makes a restore take effect at the next start: its last step is one rename. On an
// error nothing has changed.
func Commit(dir Folder, r Restore) error {
	if err := dir.Remove(stageDir); err != nil {
		return fmt.Errorf("keeping the restored files: %w", err)
	}
	m := marker{Format: 1, Files: map[string]string{}, RecoveryKeys: r.RecoveryKeys}
	for _, name := range slices.Sorted(maps.Keys(r.Files)) {
		if err := dir.Write(path.Join(stageDir, name), r.Files[name]); err != nil {
			return errors.Join(fmt.Errorf("keeping the restored files: %w", err), dir.Remove(stageDir))
		}
		m.Files[name] = sumOf(r.Files[name])
	}
	if err := writeMarker(dir, m); err != nil {
		return errors.Join(fmt.Errorf("keeping the restored files: %w", err), Abandon(dir))
	}
	return nil
}

func writeMarker(dir Folder, m marker) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := dir.Write(markerFile+".tmp", text); err != nil {
		return errors.Join(err, dir.Remove(markerFile+".tmp"))
	}
	return dir.Rename(markerFile+".tmp", markerFile)
}

// NoteKeys notes that keys of a backup are about to open the volumes; it comes before they
// do. The note stays until Done.
func NoteKeys(dir Folder) error {
	if err := dir.Write(keysFile, nil); err != nil {
		return fmt.Errorf("noting that recovery keys are added: %w", err)
	}
	return nil
}

// Abandon forgets a restore that was committed and has not begun: the node could not be
// started anew.
func Abandon(dir Folder) error {
	return errors.Join(dir.Remove(markerFile), dir.Remove(markerFile+".tmp"), dir.Remove(stageDir))
}

// Resume carries a committed restore out; it comes before anybody reads the documents. It
// may be called again after it was cut short anywhere. Without a restore it removes what an
// uncommitted one has left. A restore whose files are damaged before the first is moved is
// abandoned, since nobody could repair it on a node that does not start. The pending part
// stays until Done.
func Resume(dir Folder) (Pending, error) {
	m, err := readMarker(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return abandoned(dir, nil)
	}
	if err == nil && !m.Moved && !m.Begun {
		err = begin(dir, &m)
	}
	var damaged *damageError
	if errors.As(err, &damaged) {
		return abandoned(dir, err)
	}
	if err == nil && !m.Moved {
		err = carryOut(dir, &m)
	}
	if err != nil {
		return Pending{}, fmt.Errorf("carrying out the restore: %w", err)
	}
	if err := dir.Remove(stageDir); err != nil {
		return Pending{}, fmt.Errorf("ending the restore: %w", err)
	}
	return Pending{RecoveryKeys: m.RecoveryKeys, ForeignKeys: m.RecoveryKeys == nil && noted(dir)}, nil
}

// abandoned forgets a restore, and says whether its keys may open the volumes.
func abandoned(dir Folder, reason error) (Pending, error) {
	return Pending{Abandoned: reason, ForeignKeys: noted(dir)}, Abandon(dir)
}

// noted tells whether keys of a backup may open the volumes.
func noted(dir Folder) bool {
	_, err := dir.Read(keysFile, maxMarker)
	return !errors.Is(err, fs.ErrNotExist)
}

// damageError is a restore that the disk has not kept.
type damageError struct{ error }

func (d *damageError) Unwrap() error { return d.error }

// begin looks whether every file is as it was committed, and notes that.
func begin(dir Folder, m *marker) error {
	for _, name := range slices.Sorted(maps.Keys(m.Files)) {
		whole, err := isFile(dir, path.Join(stageDir, name), m.Files[name])
		if err == nil && !whole {
			err = errors.New("it is missing, or not what was received")
		}
		if err != nil {
			return &damageError{fmt.Errorf("the restored %s is damaged: %w", name, err)}
		}
	}
	m.Begun = true
	return writeMarker(dir, *m)
}

func carryOut(dir Folder, m *marker) error {
	if err := move(dir, *m); err != nil {
		return err
	}
	m.Moved = true
	if m.RecoveryKeys == nil {
		return dir.Remove(markerFile)
	}
	return writeMarker(dir, *m)
}

// Done notes that the pending part of a restore is done too.
func Done(dir Folder) error {
	if err := errors.Join(dir.Remove(markerFile), dir.Remove(keysFile)); err != nil {
		return fmt.Errorf("ending the restore: %w", err)
	}
	return nil
}

func readMarker(dir Folder) (marker, error) {
	var m marker
	text, err := dir.Read(markerFile, maxMarker)
	if errors.Is(err, fs.ErrNotExist) {
		return m, err
	}
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err == nil && m.Format != 1 {
		err = fmt.Errorf("it has format %d, and this release reads 1", m.Format)
	}
	if err != nil {
		return m, &damageError{fmt.Errorf("%s cannot be read: %w", markerFile, err)}
	}
	for name := range m.Files {
		if !held(name) {
			return m, &damageError{fmt.Errorf("%s names %q, which no restore has", markerFile, name)}
		}
	}
	return m, nil
}

// move puts every file into its place, and removes the documents that the backup did not
// have. First it looks whether all of them are there, here or in their places.
func move(dir Folder, m marker) error {
	var staged []string
	for _, name := range slices.Sorted(maps.Keys(m.Files)) {
		here, err := isFile(dir, path.Join(stageDir, name), m.Files[name])
		if err != nil {
			return err
		}
		if here {
			staged = append(staged, name)
			continue
		}
		moved, err := isFile(dir, name, m.Files[name])
		if err != nil {
			return err
		}
		if !moved {
			return fmt.Errorf("the restored %s is damaged, and others are in their places already: install the node anew and restore the backup again", name)
		}
	}
	for _, name := range staged {
		if err := dir.Rename(path.Join(stageDir, name), name); err != nil {
			return err
		}
	}
	present, err := dir.List(documents)
	if err != nil {
		return err
	}
	for _, base := range present {
		// Copies of before (.bak) would stand in for a document that is missing.
		name := path.Join(documents, base)
		if _, wanted := m.Files[name]; !wanted && strings.Contains(base, ".json") && !ownDocument(base) {
			if err := dir.Remove(name); err != nil {
				return err
			}
		}
	}
	return nil
}

func isFile(dir Folder, name, sum string) (bool, error) {
	text, err := dir.Read(name, SystemLimits.Unpacked)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && sumOf(text) == sum, err
}
