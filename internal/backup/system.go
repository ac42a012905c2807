package backup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/state"
)

// Names below the folder of what a node keeps, /var/lib/incus-os.
const (
	// documents is the folder of the state documents.
	documents = "state"
	// configurationFile is the document of package change.
	configurationFile = documents + "/configuration.json"
	// applicationsFile is the document of the installed applications.
	applicationsFile = documents + "/applications.json"
	// recoveryKeyFile is the node's own recovery key. It opens its volumes, so it changes
	// with their keyslots alone.
	recoveryKeyFile = "recovery.key"
	// localKeyFile is the key of the pool "local".
	localKeyFile = "zpool.local.key"
)

// own are files of the machine itself: they mean nothing elsewhere.
var own = []string{"machine-id", "trusted-fuse-blown", "image-auth.key", markerFile, keysFile}

// ResetDocument is the name of the document that has the reset of an application under way.
const ResetDocument = "application-reset"

// ownDocuments are documents about the machine: what its slots hold, how an update goes, and
// which application it is resetting.
var ownDocuments = []string{"secure-boot", "update-agent", ResetDocument}

// ownDocument tells a file of such a document, with its copies.
func ownDocument(base string) bool {
	name, _, _ := strings.Cut(base, ".")
	return slices.Contains(ownDocuments, name)
}

var (
	flatForm     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
	documentForm = regexp.MustCompile(`^([a-z][a-z0-9-]{0,63})(\.v([0-9]{1,9}))?\.json$`)
	poolForm     = regexp.MustCompile(`^zpool\.([A-Za-z][A-Za-z0-9_.:-]{0,127})\.key$`)
)

// held tells whether a backup of the system has a file.
func held(name string) bool {
	folder, base := path.Split(name)
	switch folder {
	case "":
		return flatForm.MatchString(base) && !slices.Contains(own, base) &&
			!strings.HasSuffix(base, ".tmp") && !strings.HasSuffix(base, ".bak") && !strings.HasSuffix(base, ".creating")
	case documents + "/":
		return documentForm.MatchString(base) && !ownDocument(base)
	}
	return false
}

// System is the content of a backup of the system: what a node keeps, by name.
type System struct {
	// Manifest is nil for files that were just collected.
	Manifest *osapi.BackupManifest
	// Files are flat files and state documents ("state/NAME.json"). Many are secret.
	Files map[string][]byte
	// Ignored are members that this node does not take.
	Ignored []string
}

// Collect reads what a backup of the system has from the folder of what a node keeps. The
// document "configuration" is read first: the history may run ahead of it, not behind.
func Collect(dir string) (System, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return System{}, fmt.Errorf("reading what this node keeps: %w", err)
	}
	s := System{Files: map[string][]byte{}}
	err = s.collect(root)
	if err = errors.Join(err, root.Close()); err != nil {
		return System{}, fmt.Errorf("reading what this node keeps: %w", err)
	}
	return s, nil
}

func (s *System) collect(root *os.Root) error {
	all := []string{configurationFile}
	for _, folder := range []string{".", documents} {
		entries, err := fs.ReadDir(root.FS(), folder)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		for _, entry := range entries {
			if name := path.Join(folder, entry.Name()); entry.Type().IsRegular() && name != configurationFile {
				all = append(all, name)
			}
		}
	}
	for _, name := range all {
		if !held(name) {
			continue
		}
		text, err := readFile(root, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		s.Files[name] = text
	}
	return nil
}

// readFile reads a file up to what a state document may have.
func readFile(root *os.Root, name string) ([]byte, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, state.MaxSize+1))
	if err == nil && len(text) > state.MaxSize {
		err = fmt.Errorf("%s has more than %d bytes", name, state.MaxSize)
	}
	return text, errors.Join(err, f.Close())
}

// Write makes the archive. The manifest is that of the caller, without members.
func (s System) Write(ctx context.Context, w io.Writer, m osapi.BackupManifest) error {
	var packed bytes.Buffer
	now := m.CreatedAt
	members, err := Pack(ctx, &packed, SystemLimits, func(yield func(Source, error) bool) {
		for _, name := range slices.Sorted(maps.Keys(s.Files)) {
			if !yield(s.source(name, now), nil) {
				return
			}
		}
	}, nil)
	if err != nil {
		return fmt.Errorf("backing up the system: %w", err)
	}
	m.Format, m.Kind, m.Members = Format, KindSystem, members
	return Finish(w, m, &packed)
}

func (s System) source(name string, now time.Time) Source {
	text := s.Files[name]
	return Source{
		Member: Member{Name: name, Type: TypeFile, Mode: 0o600, ModTime: now},
		Open: func() (io.ReadCloser, int64, error) {
			return io.NopCloser(bytes.NewReader(text)), int64(len(text)), nil
		},
	}
}

// ReadSystem reads an archive of the system and checks all that can be said without knowing
// the machine. A refusal is a *Problem.
func ReadSystem(ctx context.Context, r io.Reader) (System, error) {
	s := System{Files: map[string][]byte{}}
	found, err := Scan(ctx, r, Rules{Limits: SystemLimits}, func(m Member, content io.Reader) error {
		if m.Type == TypeDirectory {
			return nil
		}
		if !held(m.Name) {
			s.Ignored = append(s.Ignored, shown(m.Name))
			return nil
		}
		if m.Size > state.MaxSize {
			return refuse(m.Name, RuleLimit, "%d bytes, at most %d are read", m.Size, state.MaxSize)
		}
		text, err := io.ReadAll(content)
		s.Files[m.Name] = text
		return err
	})
	if err != nil {
		return System{}, err
	}
	if err := CheckManifest(found.Manifest, KindSystem, ""); err != nil {
		return System{}, err
	}
	s.Manifest = found.Manifest
	return s, s.check()
}

// check looks at what the files say.
func (s System) check() error {
	for _, name := range slices.Sorted(maps.Keys(s.Files)) {
		if path.Dir(name) == documents {
			if err := s.checkDocument(name); err != nil {
				return err
			}
		}
		if poolForm.MatchString(name) && len(s.Files[name]) != poolKeySize {
			return refuse(name, RuleContent, "a pool's key has %d bytes, this has %d", poolKeySize, len(s.Files[name]))
		}
	}
	if err := s.Whole(); err != nil {
		return err
	}
	if _, err := s.Sections(); err != nil {
		return err
	}
	_, err := s.Installed()
	return err
}

// Whole gives a *Problem when a file is missing without which the backup cannot be restored. A
// node in its first start has not made all of them yet.
func (s System) Whole() error {
	for _, name := range []string{configurationFile, applicationsFile} {
		if s.Files[name] == nil {
			return refuse(name, RuleContent, "it is missing: without it a node cannot be what it was")
		}
	}
	return nil
}

// poolKeySize is the length of a raw key of ZFS, in bytes.
const poolKeySize = 32

// readable are the newest versions of documents that this release reads; others have 1.
var readable = map[string]int{}

// checkDocument refuses a document that only a newer release can read, unless the copy for
// older ones is there.
func (s System) checkDocument(name string) error {
	form := documentForm.FindStringSubmatch(path.Base(name))
	if form[2] != "" {
		return nil
	}
	var document struct {
		Version int                        `json:"version"`
		Data    map[string]json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(s.Files[name], &document); err != nil || document.Version < 1 || document.Data == nil {
		return refuse(name, RuleContent, "it is no state document: it has no version and data")
	}
	known := max(readable[form[1]], 1)
	if document.Version <= known {
		return nil
	}
	if _, copied := s.Files[fmt.Sprintf("%s/%s.v%d.json", documents, form[1], known)]; !copied {
		return refuse(name, RuleNewer, "it has version %d and this release reads up to %d: update the node first", document.Version, known)
	}
	return nil
}

// Sections are the sections of the configuration in the backup, by name, with their secrets.
func (s System) Sections() (map[string]json.RawMessage, error) {
	var document struct {
		Data struct {
			Sections map[string]json.RawMessage `json:"sections"`
		} `json:"data"`
	}
	if err := json.Unmarshal(s.Files[configurationFile], &document); err != nil {
		return nil, refuse(configurationFile, RuleContent, "its sections cannot be read")
	}
	return document.Data.Sections, nil
}

// Installed are the names of the applications that the backup's node had, sorted.
func (s System) Installed() ([]string, error) {
	var document struct {
		Data map[string]json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(s.Files[applicationsFile], &document); err != nil {
		return nil, refuse(applicationsFile, RuleContent, "its applications cannot be read")
	}
	return slices.Sorted(maps.Keys(document.Data)), nil
}

// setSection replaces a section of the configuration, and keeps all else of the document as
// it is. An empty one is taken out.
func (s System) setSection(name string, section json.RawMessage) error {
	var document, data, sections map[string]json.RawMessage
	if err := json.Unmarshal(s.Files[configurationFile], &document); err != nil {
		return err
	}
	if err := json.Unmarshal(document["data"], &data); err != nil {
		return err
	}
	if err := json.Unmarshal(data["sections"], &sections); err != nil {
		return err
	}
	if sections == nil {
		sections = map[string]json.RawMessage{}
	}
	if sections[name] = section; len(section) == 0 {
		delete(sections, name)
	}
	var err error
	if data["sections"], err = json.Marshal(sections); err != nil {
		return err
	}
	if document["data"], err = json.Marshal(data); err != nil {
		return err
	}
	text, err := json.MarshalIndent(document, "", "  ")
	s.Files[configurationFile] = append(text, '\n')
	return err
}
