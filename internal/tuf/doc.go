// Package tuf is the trusted metadata of a release tree, after The Update Framework
// (TUF 1.0): it tells a node which release is the newest of its channel, whatever the
// server, the network or a mirror does.
//
// Parties. Holders of the offline keys sign "root" (who may sign what) and "targets"
// (which channels there are, and who signs each). A channel's keys sign which releases
// the channel has. Keys on the publishing computer sign "snapshot" (which of these
// documents belong together) and "timestamp" (that this is the newest state). A node
// has a root document in its image and trusts nothing else.
//
// The files lie below "tuf/" in the tree and are plain files for any web server:
//
//	tuf/N.root.json, tuf/N.targets.json, tuf/N.snapshot.json, tuf/N.<channel>.json
//	tuf/timestamp.json
//	tuf/targets/<channel>/<arch>/<sha256>.<version>.json    one api/release.Manifest each
//
// A file with a number in its name is never written twice with other content once a
// timestamp has named it, so that caches and mirrors may keep it for ever.
//
// What always holds on the publishing side (Publisher):
//   - Every document is made and signed before the first file is written, and
//     timestamp.json, by which alone a node sees the rest, is written last. A cut leaves
//     the state of before valid. Doing the same again changes no byte.
//   - What is there is verified before anything is signed on top of it: a changed file
//     in the tree does not get a new signature.
//
// What always holds on the node (Client):
//   - Every file is bounded before it is read, and its text is held to be hostile until
//     size, sum, signatures, version and expiry are right. go-tuf does the signatures;
//     strict.go has the checks that it leaves out (see there).
//   - No version of any document ever goes back, and no number stands for two contents.
//   - Root documents are remembered as soon as their chain is verified, since they may
//     revoke a key; timestamp and snapshot only when everything below them is verified,
//     in one write. A refused document is never remembered.
//   - Several mirrors are asked. One that is slow, stale or lies costs time, not the
//     update, as long as one other is honest.
//   - The clock is not trusted; docs/decisions/0015-trusted-time.md says how expiry is
//     judged all the same.
//
// What can fail: with all mirrors in one hand, a node can be held back until the
// timestamp expires (14 days), then it says so. A thief of keys below the threshold of
// a role can do nothing; one of a whole channel's keys can publish in that channel, but
// needs the snapshot's and timestamp's too; rotation ends it.
package tuf

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Bounds of what is read, in bytes and pieces. They are those that go-tuf itself has,
// where it has one.
const (
	maxRoot       = 512 << 10
	maxTimestamp  = 16 << 10
	maxSnapshot   = 2 << 20
	maxTargets    = 5 << 20
	maxManifest   = 1 << 20
	maxRotations  = 256
	maxMirrors    = 16
	maxSignatures = 32
	maxKeys       = 32
	maxRoles      = 64
	maxReleases   = 4096
)

// What can be wrong. Errors of this package wrap one of these; one that wraps none is
// of the network or of the local disk.
var (
	// ErrUntrusted: not signed by enough of the keys that may sign it.
	ErrUntrusted = errors.New("not signed by the keys that may sign it")
	// ErrExpired: no longer valid. Either the publisher has not renewed the metadata, or
	// a mirror holds the newer ones back: try another mirror, then ask the publisher.
	ErrExpired = errors.New("expired")
	// ErrVersion: older than what was seen before, not the next one, or the same number
	// with another content.
	ErrVersion = errors.New("not the version that it must be")
	// ErrMismatch: not of the size or the sum that the signed metadata say.
	ErrMismatch = errors.New("not what the signed metadata say")
	// ErrLimit: larger than is accepted.
	ErrLimit = errors.New("beyond the limit")
	// ErrMetadata: a document that is malformed, whoever signed it.
	ErrMetadata = errors.New("the metadata are malformed")
	// ErrManifest: a signed manifest that says what it must not say.
	ErrManifest = errors.New("the manifest is malformed")
	// ErrNoRelease: the channel, or the channel for the architecture, has no release.
	ErrNoRelease = errors.New("no release")
	// ErrKeys: keys that are needed to sign are not at hand, or a role cannot have them.
	ErrKeys = errors.New("the keys do not fit")
	// ErrExists: there is a tree already.
	ErrExists = errors.New("there is a tree already")
	// ErrPublished: the release is published with other files. A release never changes,
	// since nodes may have it already: build a new version.
	ErrPublished = errors.New("the release is published with other files")
)

// translate gives an error of go-tuf the error of this package that says the same.
func translate(err error) error {
	kinds := []struct{ theirs, ours error }{
		{&metadata.ErrUnsignedMetadata{}, ErrUntrusted},
		{&metadata.ErrExpiredMetadata{}, ErrExpired},
		{&metadata.ErrBadVersionNumber{}, ErrVersion},
		{&metadata.ErrLengthOrHashMismatch{}, ErrMismatch},
	}
	if err == nil {
		return nil
	}
	for _, kind := range kinds {
		if errors.Is(err, kind.theirs) {
			return fmt.Errorf("%w: %w", kind.ours, err)
		}
	}
	return fmt.Errorf("%w: %w", ErrMetadata, err)
}

func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
