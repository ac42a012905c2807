package release

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/smime"
)

// tree is a tree that this program alone writes to.
type tree struct {
	dir      string
	lock     *os.File
	signer   Signer
	metadata Metadata
	// cut is asked before each change that a reader of the tree could see; an error ends
	// the work there, as a cut would. nil outside of tests.
	cut func(step string) error
	// read reads a file by its path in the tree; default from the tree.
	read func(path string) ([]byte, error)
}

// step asks whether the work goes on.
func (t *tree) step(name string) error {
	if t.cut == nil {
		return nil
	}
	return t.cut(name)
}

// openTree waits until nobody else publishes, and clears what a cut publication left.
func openTree(dir string, signer Signer) (*tree, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making the tree: %w", err)
	}
	lock, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the tree: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", dir, err), lock.Close())
	}
	t := &tree{dir: dir, lock: lock, signer: signer}
	rests, err := filepath.Glob(filepath.Join(dir, staging+"*"))
	for _, rest := range rests {
		err = errors.Join(err, os.RemoveAll(rest))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("clearing what a cut publication left: %w", err), t.close())
	}
	return t, nil
}

// close gives the lock back.
func (t *tree) close() error { return t.lock.Close() }

// readUpdate reads a release of the tree; os.ErrNotExist when there is none.
func (t *tree) readUpdate(version string) (release.Update, error) {
	name := filepath.Join(t.dir, version, "update.json")
	text, err := readFileAtMost(name, maxDocument)
	if err != nil {
		return release.Update{}, fmt.Errorf("reading the release: %w", err)
	}
	var update release.Update
	if err := json.Unmarshal(text, &update); err != nil {
		return release.Update{}, fmt.Errorf("reading %s: %w", name, err)
	}
	if update.Version != version {
		return release.Update{}, fmt.Errorf("reading %s: it describes version %q", name, update.Version)
	}
	if err := checkUpdate(update); err != nil {
		return release.Update{}, fmt.Errorf("reading %s: %w", name, err)
	}
	return update, nil
}

// updates are the releases of the tree, newest first.
func (t *tree) updates() ([]release.Update, error) {
	entries, err := os.ReadDir(t.dir)
	if err != nil {
		return nil, fmt.Errorf("reading the tree: %w", err)
	}
	all := []release.Update{}
	for _, entry := range entries {
		if !entry.IsDir() || !versionForm.MatchString(entry.Name()) {
			continue
		}
		update, err := t.readUpdate(entry.Name())
		if errors.Is(err, os.ErrNotExist) {
			continue // a rest of a cut publication: nothing names it
		}
		if err != nil {
			return nil, err
		}
		all = append(all, update)
	}
	slices.SortFunc(all, func(a, b release.Update) int { return cmp.Compare(b.Version, a.Version) })
	return all, nil
}

// finish shows to nodes what lies in the tree: first the metadata, and the index last.
// Both say the same when it is done again.
func (t *tree) finish(ctx context.Context, without ...string) error {
	updates, err := t.updates()
	if err != nil {
		return err
	}
	updates = slices.DeleteFunc(updates, func(u release.Update) bool { return slices.Contains(without, u.Version) })
	if err := t.publishMetadata(ctx, updates); err != nil {
		return err
	}
	for i := range updates {
		updates[i].URL = "/" + updates[i].Version
	}
	return t.writeSigned(ctx, t.dir, "index", release.Index{Format: release.Format, Updates: updates})
}

// writeSigned writes <name>.json and then <name>.sjson into dir. A pair that says
// the same already stays as it is: a new signature would be another file.
func (t *tree) writeSigned(ctx context.Context, dir, name string, document any) error {
	text, err := json.MarshalIndent(document, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding %s.json: %w", name, err)
	}
	text = append(text, '\n')
	plain, signed := filepath.Join(dir, name+".json"), filepath.Join(dir, name+".sjson")
	if saysAlready(plain, signed, text) {
		return nil
	}
	signature, err := t.signer.SignSMIME(ctx, text)
	if err != nil {
		return fmt.Errorf("signing %s: %w", plain, err)
	}
	if message, err := smime.Parse(signature); err != nil || !bytes.Equal(message.Text, text) {
		return fmt.Errorf("signing %s: %w", plain, cmp.Or(err, errors.New("the signature is over another text")))
	}
	if err := t.step(name + ".json"); err != nil {
		return err
	}
	if err := replaceFile(plain, text); err != nil {
		return err
	}
	if err := t.step(name + ".sjson"); err != nil {
		return err
	}
	return replaceFile(signed, signature)
}

func saysAlready(plain, signed string, text []byte) bool {
	old, err := os.ReadFile(plain)
	if err != nil || !bytes.Equal(old, text) {
		return false
	}
	signature, err := os.ReadFile(signed)
	if err != nil {
		return false
	}
	message, err := smime.Parse(signature)
	return err == nil && bytes.Equal(message.Text, text)
}

// replaceFile writes a file whole or not at all. Its temporary name begins with a
// dot, which Serve does not give out.
func replaceFile(name string, data []byte) (err error) {
	dir, base := filepath.Split(name)
	f, err := os.CreateTemp(dir, staging+strings.TrimPrefix(base, ".")+"-")
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignore(f.Close(), os.ErrClosed), ignore(os.Remove(f.Name()), os.ErrNotExist))
		}
	}()
	if _, err := f.Write(data); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	if err := errors.Join(f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing %s to the disk: %w", name, err)
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return fmt.Errorf("naming %s: %w", name, err)
	}
	return syncDir(filepath.Dir(name))
}

func readAtMost(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrLimit, limit)
	}
	return data, nil
}
