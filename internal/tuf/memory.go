package tuf

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/holdfast-os/holdfast/internal/state"
)

// A node remembers two documents. Each is replaced whole, and each is useful without the
// other, so that a cut between the two costs nothing.
var (
	rootDocument  = state.Document{Name: "root", Version: 1}
	stateDocument = state.Document{Name: "trusted", Version: 1}
)

// rememberedRoot is the newest verified root document.
type rememberedRoot struct {
	Root []byte `json:"root"`
}

// remembered is the last accepted state below the root.
type remembered struct {
	Timestamp []byte `json:"timestamp"`
	Snapshot  []byte `json:"snapshot"`
	// Seen is the newest confirmed time at which the timestamp was accepted.
	Seen time.Time `json:"seen,omitzero"`
}

// known is the remembered state, read and verified against a root.
type known struct {
	remembered
	timestamp *metadata.Metadata[metadata.TimestampType]
	snapshot  *metadata.Metadata[metadata.SnapshotType]
	issued    time.Time
}

// recall reads what is remembered. What cannot be read (damaged, or of a newer release)
// counts as never seen, since a node that waited for it would never update again; the
// error then says so, and is for showing. Whatever was read is verified before it counts.
func recall(store *state.Store) (rememberedRoot, remembered, error) {
	var root rememberedRoot
	var rest remembered
	foundRoot, rootErr := store.Load(rootDocument, &root)
	foundRest, restErr := store.Load(stateDocument, &rest)
	return root, rest, errors.Join(rootErr, restErr, foundRoot.Damage, foundRest.Damage)
}

// newestRoot is the root to start from: the image's, or the remembered one when it is
// newer and whole.
func newestRoot(image, stored []byte) ([]byte, *metadata.Metadata[metadata.RootType], error) {
	first, err := selfSigned(image)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the root document of the image: %w", err)
	}
	later, err := selfSigned(stored)
	if err != nil || later.Signed.Version <= first.Signed.Version {
		return image, first, nil
	}
	return stored, later, nil
}

func selfSigned(data []byte) (*metadata.Metadata[metadata.RootType], error) {
	root, err := parse[metadata.RootType](data, maxRoot)
	if err != nil {
		return nil, err
	}
	return root, translate(root.VerifyDelegate(metadata.ROOT, root))
}

// verifyKnown keeps of the remembered state what the root still vouches for. When the
// keys of one of the two were replaced, all goes: versions and times that a thief of the
// old keys has pushed ahead must not hold the node back after the rotation.
func verifyKnown(root *metadata.Metadata[metadata.RootType], r remembered) *known {
	timestamp, err := parse[metadata.TimestampType](r.Timestamp, maxTimestamp)
	if err != nil || root.VerifyDelegate(metadata.TIMESTAMP, timestamp) != nil {
		return nil
	}
	snapshot, err := parse[metadata.SnapshotType](r.Snapshot, maxSnapshot)
	if err != nil || root.VerifyDelegate(metadata.SNAPSHOT, snapshot) != nil {
		return nil
	}
	issued, err := issuedAt(&timestamp.Signed)
	if err != nil {
		return nil
	}
	return &known{remembered: r, timestamp: timestamp, snapshot: snapshot, issued: issued}
}

// equal tells whether writing would change nothing.
func (r remembered) equal(other remembered) bool {
	return bytes.Equal(r.Timestamp, other.Timestamp) && bytes.Equal(r.Snapshot, other.Snapshot) && r.Seen.Equal(other.Seen)
}
