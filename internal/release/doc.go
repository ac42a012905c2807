// Package release publishes, serves and reads release trees (api/release has their
// shape).
//
// A tree is plain files behind any web server, and the server is not trusted: the
// index is signed, and it names the size and the sum of every file. What a node
// accepts therefore depends on the certificate that it was told, never on whom it
// talks to. Reading assumes the worst of the other end: other content, no content,
// endless content, content at a byte an hour, content from somewhere else. Every one
// of these ends in an error and leaves no file behind.
//
// What a signed index alone cannot show is its age: a server that keeps serving an
// old one holds a node back without a trace. A Provider with expiry closes that gap
// later, behind the same two methods.
//
// Publish's order is what makes it safe to cut: files first, under a name that
// nobody reads; then the release's directory by one rename; then index.json; and
// index.sjson last, by which alone a node sees the release.
package release

import (
	"context"
	"errors"

	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/fetch"
	"github.com/holdfast-os/holdfast/internal/smime"
)

// Provider is where a node gets its releases from. Source is the one for the
// provider named "images".
type Provider interface {
	// Latest is the release to run: the newest of the channel for the architecture,
	// or the running one when it is the newest. The caller compares versions.
	// ErrNoUpdate means that the channel has nothing, ErrOlder that all it has is
	// older than what runs.
	Latest(ctx context.Context, channel, arch, running string) (release.Update, error)
	// Fetch writes a file of the release to dst, unpacked. On error dst is as before.
	Fetch(ctx context.Context, update release.Update, file release.File, dst string, progress Progress) error
}

// Progress is told how many bytes of a download have arrived, of how many; nil for
// nobody to tell. It runs on the download's own goroutine and must be quick.
type Progress func(done, total int64)

// What can be wrong with a tree. Errors of this package wrap one of these; an error
// that wraps none is one of the network (package fetch has their names) or of the local disk.
var (
	// ErrUntrusted: the signature is missing, broken, or not by the update CA.
	ErrUntrusted = smime.ErrUntrusted
	// ErrMismatch: a file is not what the signed index says.
	ErrMismatch = fetch.ErrMismatch
	// ErrLimit: more or deeper than is accepted.
	ErrLimit = fetch.ErrLimit
	// ErrServer: the server answers, but not with the file.
	ErrServer = fetch.ErrServer
	// ErrRedirect: the server points somewhere that is not followed.
	ErrRedirect = fetch.ErrRedirect
	// ErrAddress: the server has an address that is not connected to.
	ErrAddress = fetch.ErrAddress
	// ErrIndex: the signed index itself is malformed.
	ErrIndex = errors.New("the index is malformed")
	// ErrNoUpdate: the channel has no release for the architecture.
	ErrNoUpdate = errors.New("no release in the channel")
	// ErrOlder: the channel's newest release is older than the running one.
	ErrOlder = errors.New("the running release is newer than the channel's")
)
