// Package state keeps what a node has to remember: small JSON documents in one
// directory, each with a version number.
//
// A document NAME is the file NAME.json: {"version": N, "data": {...}}. Invariants:
//
//   - A file is replaced as a whole: written under another name, synced, renamed, and
//     the directory synced. After a power cut either the old or the new text is there.
//   - The text before the last change stays as NAME.json.bak. It is used, and the
//     damage reported, when NAME.json cannot be read.
//   - Keys that this program does not know are kept when it writes, so that an older
//     release does not lose what a newer one has written.
//   - Before a document of an older version is replaced, its text is kept as
//     NAME.vN.json. A release that only knows version N reads that copy, so that going
//     back to the older slot works. What is saved last is what counts.
//   - Files are 0600 and never larger than MaxSize.
package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"sync"
)

// MaxSize is the largest document that is read or written, in bytes.
const MaxSize = 4 << 20

// ErrNewer is the error for a document that only a newer release can read.
var ErrNewer = errors.New("written by a newer release")

var nameForm = regexp.MustCompile(`^[a-z][a-z0-9-]{0,63}$`)

// Migration changes the data of a document of one version into that of the next.
type Migration func(data map[string]json.RawMessage) error

// Document says how one document is called and how its older versions are read.
type Document struct {
	// Name is lower-case letters, digits and dashes; the file is Name.json.
	Name string
	// Version is what this program writes, from 1.
	Version int
	// Migrations has Version-1 members; member i leads from version i+1 to i+2.
	Migrations []Migration
}

// Loaded says how a document was found.
type Loaded struct {
	// Found is false when the document was never saved.
	Found bool
	// Damage says why the document itself could not be read, when the copy of before
	// the last change was used instead; nil when all is well.
	Damage error
}

// Store is a directory of documents. Its methods may be called at the same time.
type Store struct {
	mu   sync.Mutex
	root *os.Root
}

// Open opens a directory of documents, and makes it (0700) when it is missing.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making state directory %s: %w", dir, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening state directory %s: %w", dir, err)
	}
	return &Store{root: root}, nil
}

// Close gives the directory back.
func (s *Store) Close() error { return s.root.Close() }

// file is what stands in a document's file.
type file struct {
	Version int             `json:"version"`
	Data    json.RawMessage `json:"data"`
}

// Load reads a document into a pointer; what the document leaves out keeps the value
// it has there, so defaults are set before. A document that was never saved is no
// error: Found is false.
func (s *Store) Load(doc Document, into any) (Loaded, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := doc.check(); err != nil {
		return Loaded{}, err
	}
	found, damage, err := s.current(doc)
	if err != nil || found == nil {
		return Loaded{}, err
	}
	data, err := doc.migrate(*found)
	if err != nil {
		return Loaded{}, err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return Loaded{}, fmt.Errorf("reading state document %s: %w", doc.Name, err)
	}
	return Loaded{Found: true, Damage: damage}, nil
}

// Save writes a document. On an error the document is as it was before.
func (s *Store) Save(doc Document, value any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := doc.check(); err != nil {
		return err
	}
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encoding state document %s: %w", doc.Name, err)
	}
	path := doc.Name + ".json"
	before, err := s.read(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		before = nil // damaged: the good copy of before stays as it is
	}
	if before != nil && before.Version == doc.Version {
		if data, err = keepUnknown(before.Data, data, value); err != nil {
			return fmt.Errorf("encoding state document %s: %w", doc.Name, err)
		}
	}
	text, err := json.MarshalIndent(file{Version: doc.Version, Data: data}, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding state document %s: %w", doc.Name, err)
	}
	if len(text) >= MaxSize {
		return fmt.Errorf("saving state document %s: %d bytes are more than the limit of %d", doc.Name, len(text), MaxSize)
	}
	if before != nil {
		if err := s.keepCopies(doc, before.Version); err != nil {
			return fmt.Errorf("keeping the last state document %s: %w", doc.Name, err)
		}
	}
	if err := s.replace(path, append(text, '\n')); err != nil {
		return fmt.Errorf("saving state document %s: %w", doc.Name, err)
	}
	return nil
}

// Remove removes a document with its copies; one that is not there is no error.
func (s *Store) Remove(doc Document) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := doc.check(); err != nil {
		return err
	}
	path := doc.Name + ".json"
	// The copy goes first: it would stand in for a document that is missing.
	for _, name := range []string{path + ".bak", path + ".bak.tmp", path + ".tmp", path} {
		if err := s.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing state document %s: %w", doc.Name, err)
		}
	}
	return nil
}

// current gives the newest readable text of a document, nil when there is none.
func (s *Store) current(doc Document) (*file, error, error) {
	path := doc.Name + ".json"
	found, damage := s.read(path)
	if errors.Is(damage, fs.ErrNotExist) {
		damage = nil
	}
	if found == nil {
		var err error
		found, err = s.read(path + ".bak")
		switch {
		case errors.Is(err, fs.ErrNotExist) && damage == nil:
			return nil, nil, nil
		case err != nil:
			return nil, nil, fmt.Errorf("reading state document %s: %w; its copy: %w", doc.Name, damage, err)
		case damage == nil:
			damage = fmt.Errorf("state document %s is missing, its copy is there", path)
		}
	}
	if found.Version <= doc.Version {
		return found, damage, nil
	}
	older, err := s.read(versionedName(doc.Name, doc.Version))
	if err != nil {
		return nil, nil, fmt.Errorf("reading state document %s: %w: it has version %d, this release reads up to %d",
			path, ErrNewer, found.Version, doc.Version)
	}
	return older, damage, nil
}

// read gives nil and an error when the file is not a whole document.
func (s *Store) read(path string) (*file, error) {
	f, err := s.root.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	switch {
	case err != nil:
		return nil, err
	case len(text) > MaxSize:
		return nil, fmt.Errorf("%s is larger than %d bytes", path, MaxSize)
	case len(bytes.TrimSpace(text)) == 0:
		return nil, fmt.Errorf("%s is empty", path)
	}
	var found file
	if err := json.Unmarshal(text, &found); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w", path, err)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(found.Data, &members); err != nil || members == nil || found.Version < 1 {
		return nil, fmt.Errorf("%s is damaged: it holds no version and data", path)
	}
	return &found, nil
}

// keepCopies makes the .bak, and the copy for releases that know this version only.
func (s *Store) keepCopies(doc Document, version int) error {
	path := doc.Name + ".json"
	names := []string{path + ".bak"}
	if version < doc.Version {
		names = append(names, versionedName(doc.Name, version))
	}
	for _, name := range names {
		tmp := name + ".tmp"
		if err := s.root.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := s.root.Link(path, tmp); err != nil {
			return err
		}
		if err := s.root.Rename(tmp, name); err != nil {
			return err
		}
		// Renaming one name of a file over another name of it does nothing.
		if err := s.root.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// replace puts text in the place of a file such that a power cut leaves one of both.
func (s *Store) replace(path string, text []byte) error {
	tmp := path + ".tmp"
	if err := s.root.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := s.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = s.root.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(err, s.root.Remove(tmp))
	}
	dir, err := s.root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func (d Document) check() error {
	if !nameForm.MatchString(d.Name) {
		return fmt.Errorf("state document %q: the name must match %s", d.Name, nameForm)
	}
	if d.Version < 1 || len(d.Migrations) != d.Version-1 {
		return fmt.Errorf("state document %s: version %d needs %d migrations, it has %d",
			d.Name, d.Version, d.Version-1, len(d.Migrations))
	}
	return nil
}

// migrate gives the data of a document in the version of this program.
func (d Document) migrate(found file) (json.RawMessage, error) {
	if found.Version == d.Version {
		return found.Data, nil
	}
	var data map[string]json.RawMessage
	if err := json.Unmarshal(found.Data, &data); err != nil {
		return nil, fmt.Errorf("reading state document %s: %w", d.Name, err)
	}
	for version := found.Version; version < d.Version; version++ {
		if err := d.Migrations[version-1](data); err != nil {
			return nil, fmt.Errorf("migrating state document %s from version %d: %w", d.Name, version, err)
		}
	}
	return json.Marshal(data)
}

func versionedName(name string, version int) string {
	return fmt.Sprintf("%s.v%d.json", name, version)
}
