package backup

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
)

// folder is Folder on a disk.
type folder struct{ root *os.Root }

// OpenFolder opens the folder of what a node keeps. It is the caller's to close.
func OpenFolder(dir string) (interface {
	Folder
	io.Closer
}, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the folder of what this node keeps: %w", err)
	}
	return folder{root}, nil
}

func (f folder) Close() error { return f.root.Close() }

func (f folder) Read(name string, limit int64) ([]byte, error) {
	file, err := f.root.Open(name)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", name, limit)
	}
	return text, errors.Join(err, file.Close())
}

func (f folder) Write(name string, data []byte) error {
	parent := path.Dir(name)
	if err := f.root.MkdirAll(parent, 0o700); err != nil {
		return err
	}
	if err := f.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := f.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	// The names of new folders have to last too.
	for ; parent != "."; parent = path.Dir(parent) {
		if err := f.sync(parent); err != nil {
			return err
		}
	}
	return f.sync(".")
}

func (f folder) Rename(from, to string) error {
	if err := f.root.MkdirAll(path.Dir(to), 0o700); err != nil {
		return err
	}
	if err := f.root.Rename(from, to); err != nil {
		return err
	}
	// The new name first: a file with two names is better than one with none.
	return errors.Join(f.sync(path.Dir(to)), f.sync(path.Dir(from)))
}

func (f folder) Remove(name string) error {
	if err := f.root.RemoveAll(name); err != nil {
		return err
	}
	return f.sync(path.Dir(name))
}

func (f folder) List(dir string) ([]string, error) {
	entries, err := fs.ReadDir(f.root.FS(), dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var all []string
	for _, entry := range entries {
		if entry.Type().IsRegular() {
			all = append(all, entry.Name())
		}
	}
	return all, err
}

func (f folder) sync(dir string) error {
	file, err := f.root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}
