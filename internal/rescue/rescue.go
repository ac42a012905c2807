// Package rescue reads a rescue medium: a stick or CD with the label RESCUE_DATA, which
// somebody has put into a node that cannot be helped over the network.
//
// It is pure. The caller mounts the medium and gives its files, and whom the image trusts;
// Read says what is on it and may be used:
//
//	hotfix.sh.sig          a script, S/MIME signed, to be run as root
//	update/update.sjson    a release, S/MIME signed
//	update/FILE            its files, each with the SHA-256 that the release promises
//
// Who holds the medium can do nothing that its signers did not: a document is used only when
// its signature holds, and the files are compared by whoever copies them. An older medium of
// the same signer can be shown again, though; the release is never an older one than the
// caller accepts, and a script must be written so that it can be run again: it runs at each
// start with the medium in.
//
// Two read media: the daemon of a node that has started, which uses all of it, and early boot
// when no release starts any more, which takes a whole release and no script.
package rescue

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"time"

	api "github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/smime"
)

// Label is the name of the partition or of the file system.
const Label = "RESCUE_DATA"

// Names on the medium.
const (
	HotfixFile = "hotfix.sh.sig"
	UpdateDir  = "update"
	UpdateFile = UpdateDir + "/update.sjson"
)

// maxDocument bounds the two signed documents, in bytes.
const maxDocument = 8 << 20

// AnchorDir is the folder of an image, and of its initrd, with whom it trusts: UpdateAnchor
// signs releases, and scripts too unless there is a HotfixAnchor.
const (
	AnchorDir    = "/usr/lib/holdfast/releases"
	UpdateAnchor = "update.crt"
	HotfixAnchor = "hotfix.crt"
)

// maxAnchors bounds a file with certificates, in bytes.
const maxAnchors = 1 << 20

// Anchors are the certificates that may have signed what is on a medium.
type Anchors struct {
	// Update signs releases; Hotfix signs scripts.
	Update, Hotfix []*x509.Certificate
}

// ReadAnchors reads whom an image trusts out of its AnchorDir; nobody is no error.
func ReadAnchors(files fs.FS) (anchors Anchors, err error) {
	if anchors.Update, err = readAnchors(files, UpdateAnchor); err != nil {
		return Anchors{}, err
	}
	if anchors.Hotfix, err = readAnchors(files, HotfixAnchor); err != nil {
		return Anchors{}, err
	}
	if anchors.Hotfix == nil {
		anchors.Hotfix = anchors.Update
	}
	return anchors, nil
}

func readAnchors(files fs.FS, name string) ([]*x509.Certificate, error) {
	f, err := files.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading whom this image trusts with rescue media: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxAnchors+1))
	if err == nil && len(text) > maxAnchors {
		err = fmt.Errorf("it has more than %d bytes", maxAnchors)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("reading whom this image trusts with rescue media, in %s: %w", name, err)
	}
	list, err := smime.ParseCA(text)
	if err != nil {
		return nil, fmt.Errorf("reading whom this image trusts with rescue media, in %s: %w", name, err)
	}
	return list, nil
}

// Found is what is on a medium and may be used.
type Found struct {
	// Hotfix is the script, its lines ending in LF; nil without one.
	Hotfix []byte
	// Update is the release, with those of its files that are on the medium; nil without one.
	Update *api.Update
	// System is true when every part of the operating system is among them.
	System bool
}

// ErrOlder is a release that is older than Facts.Oldest.
var ErrOlder = errors.New("the release on the medium is older than one that this node has had")

// Facts are what a medium is read for.
type Facts struct {
	// Architecture is "x86_64" or "aarch64".
	Architecture string
	// Oldest is the oldest release that is accepted, which is the newest that the node is
	// known to have had; "" accepts any.
	Oldest string
	// Now is the node's time; see smime.Verify.
	Now time.Time
}

// Read reads a medium. What is wrong with one document does not keep the other from being
// used: the errors come with what was found.
func Read(files fs.FS, anchors Anchors, facts Facts) (found Found, err error) {
	script, hotfixErr := signed(files, HotfixFile, anchors.Hotfix, facts.Now)
	if hotfixErr == nil {
		found.Hotfix = script
	}
	update, updateErr := readUpdate(files, anchors.Update, facts)
	if updateErr == nil {
		found.Update = update
		found.System = update != nil && whole(*update)
	}
	return found, errors.Join(hotfixErr, updateErr)
}

// signed gives the text of a signed file; nil for one that is not there.
func signed(files fs.FS, name string, anchors []*x509.Certificate, now time.Time) ([]byte, error) {
	f, err := files.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("opening %s of the rescue medium: %w", name, err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxDocument+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("reading %s of the rescue medium: %w", name, err)
	}
	switch {
	case len(data) > maxDocument:
		return nil, fmt.Errorf("reading %s of the rescue medium: it has more than %d bytes", name, maxDocument)
	case len(anchors) == 0:
		return nil, fmt.Errorf("%s of the rescue medium is left alone: this image has no certificate of anybody who may sign it", name)
	}
	text, err := smime.Verify(data, anchors, now)
	if err != nil {
		return nil, fmt.Errorf("checking %s of the rescue medium: %w", name, err)
	}
	return text, nil
}

func readUpdate(files fs.FS, anchors []*x509.Certificate, facts Facts) (*api.Update, error) {
	text, err := signed(files, UpdateFile, anchors, facts.Now)
	if err != nil || text == nil {
		return nil, err
	}
	var update api.Update
	decoder := json.NewDecoder(bytes.NewReader(text))
	if err := decoder.Decode(&update); err != nil {
		return nil, fmt.Errorf("reading %s of the rescue medium: %w", UpdateFile, err)
	}
	if update.Version < facts.Oldest {
		return nil, fmt.Errorf("%w: it is %.40q, and the node has had %s", ErrOlder, update.Version, facts.Oldest)
	}
	listed := update.Files
	update.Files = nil
	for _, file := range listed {
		name := path.Join(UpdateDir, file.Filename)
		if !fs.ValidPath(name) || path.Dir(name) == "." || (file.Architecture != "" && file.Architecture != facts.Architecture) {
			continue
		}
		info, err := fs.Stat(files, name)
		if err == nil && info.Mode().IsRegular() && info.Size() == file.Size {
			update.Files = append(update.Files, file)
		}
	}
	if len(update.Files) == 0 {
		return nil, fmt.Errorf("none of the files of release %s for %s is on the rescue medium, under %s", update.Version, facts.Architecture, UpdateDir)
	}
	return &update, nil
}

// whole tells whether the operating system can be updated from these files.
func whole(u api.Update) bool {
	needed := map[api.Type]bool{api.TypeUpdateEFI: true, api.TypeUpdateUsr: true, api.TypeUpdateUsrVerity: true, api.TypeUpdateUsrSignature: true}
	for _, file := range u.Files {
		delete(needed, file.Type)
	}
	return len(needed) == 0
}
