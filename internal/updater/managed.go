package updater

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/fetch"
	"github.com/holdfast-os/holdfast/internal/operationscenter"
	"github.com/holdfast-os/holdfast/internal/parts"
	node "github.com/holdfast-os/holdfast/internal/release"
	"github.com/holdfast-os/holdfast/internal/update"
)

// Managed is a manager's list of releases: whole files, and a list without a signature. What
// that means is said at package operationscenter.
type Managed struct {
	client  *operationscenter.Client
	arch    string
	running string
	now     func() time.Time

	mu    sync.Mutex
	asked map[string]answered
}

// answered is what the manager has said of a channel.
type answered struct {
	found update.Found
	at    time.Time
}

// ManagedOptions are what OpenManaged works with.
type ManagedOptions struct {
	// Client asks the manager.
	Client *operationscenter.Client
	// Architecture is "x86_64" or "aarch64".
	Architecture string
	// Running is the release that runs.
	Running string
}

// OpenManaged prepares a source and asks nobody yet.
func OpenManaged(o ManagedOptions) *Managed {
	return &Managed{client: o.Client, arch: o.Architecture, running: o.Running, now: time.Now, asked: map[string]answered{}}
}

// Close is part of Source.
func (*Managed) Close() error { return nil }

// Downloads is part of Source.
func (m *Managed) Downloads() parts.Downloads { return wholeFiles{m.client} }

// Changelog is part of update.Releases: a manager has none that is for programs.
func (*Managed) Changelog(context.Context, update.Found, string) (*release.Changelog, error) {
	return nil, nil
}

// Newest is part of update.Releases. As with Indexed, sizes and sums of the unpacked files
// are not known before they are here.
func (m *Managed) Newest(ctx context.Context, channel string, fresh bool) (update.Found, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if before, ok := m.asked[channel]; ok && !fresh && m.now().Sub(before.at) < remembered {
		return before.found, nil
	}
	listed, err := m.client.Latest(ctx, channel, m.arch, m.running)
	if err != nil {
		return update.Found{}, listError(err)
	}
	manifest := (&Indexed{arch: m.arch}).manifest(listed)
	for i := range manifest.Parts {
		blob := &manifest.Parts[i].Full
		// A manager's files are found by the release's UUID, which ends its URL.
		blob.Path = path.Base(listed.URL) + strings.TrimPrefix(blob.Path, listed.Version)
	}
	found := update.Found{Manifest: manifest}
	if found.Digest, err = digestOf(manifest); err != nil {
		return update.Found{}, err
	}
	m.asked[channel] = answered{found, m.now()}
	return found, nil
}

// listError gives an error of a list of releases the agent's name for it.
func listError(err error) error {
	for _, pair := range []struct{ cause, kind error }{
		{node.ErrOlder, update.ErrOlder}, {node.ErrNoUpdate, update.ErrNoRelease},
		{node.ErrUntrusted, update.ErrUntrusted}, {node.ErrIndex, update.ErrUntrusted},
	} {
		if errors.Is(err, pair.cause) {
			return fmt.Errorf("%w: %w", pair.kind, err)
		}
	}
	return fmt.Errorf("%w: %w", update.ErrUnreachable, err)
}

// wholeFiles is parts.Downloads for a manager: it gives whole files, each in one go.
type wholeFiles struct{ client *operationscenter.Client }

// Ranges is part of parts.Downloads. A manager lists no chunks, so nobody asks for any.
func (wholeFiles) Ranges(_ context.Context, blob release.Blob, _ []fetch.Range, _ func(fetch.Progress), _ func(fetch.Range, io.Reader) error) error {
	return fmt.Errorf("fetching pieces of %s: %w", blob.Path, fetch.ErrNoRanges)
}

// File is part of parts.Downloads. The file gets its name when its bytes are right and on
// the disk. What an earlier call has left is not gone on with.
func (w wholeFiles) File(ctx context.Context, blob release.Blob, dir fetch.Dir, name string, progress func(fetch.Progress)) (err error) {
	uuid, filename, _ := strings.Cut(blob.Path, "/")
	have, err := holds(dir, name, blob)
	if err != nil {
		return fmt.Errorf("fetching %s: %w", filename, err)
	}
	if have {
		tell(progress, blob.Size, blob.Size)
		return nil
	}
	free, err := dir.Free()
	if err != nil {
		return fmt.Errorf("fetching %s: asking how much space is free: %w", filename, err)
	}
	if need := blob.Size + managedReserve; free < need {
		return fmt.Errorf("fetching %s: %w", filename, &fetch.NoSpaceError{Need: need, Free: free})
	}
	packed, err := w.client.Open(ctx, uuid, operationscenter.File{Filename: filename, Size: blob.Size, SHA256: blob.SHA256})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, packed.Close()) }()
	if err := fetch.Discard(dir, name); err != nil {
		return fmt.Errorf("fetching %s: %w", filename, err)
	}
	if err := keep(dir, name+managedPart, packed, func(done int64) { tell(progress, done, blob.Size) }); err != nil {
		return errors.Join(fmt.Errorf("fetching %s: %w", filename, err), dir.Remove(name+managedPart))
	}
	if err := errors.Join(dir.Rename(name+managedPart, name), dir.Sync()); err != nil {
		return fmt.Errorf("keeping %s: %w", filename, err)
	}
	return nil
}

const (
	// managedReserve is how much room a download leaves, in bytes.
	managedReserve = 64 << 20
	// managedPart ends the name of a file that is being fetched.
	managedPart = ".part"
)

// holds tells whether a file is there and right.
func holds(dir fetch.Dir, name string, blob release.Blob) (_ bool, err error) {
	f, err := dir.Open(name, false)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sum := sha256.New()
	n, err := io.Copy(sum, io.LimitReader(f, blob.Size+1))
	return n == blob.Size && hex.EncodeToString(sum.Sum(nil)) == blob.SHA256, err
}

func tell(progress func(fetch.Progress), done, total int64) {
	if progress != nil {
		progress(fetch.Progress{Done: done, Total: total, Fetched: done, Remaining: -1})
	}
}

// keep writes what comes to a file, up to its end, and brings it to the disk.
func keep(dir fetch.Dir, name string, from io.Reader, hear func(done int64)) (err error) {
	f, err := dir.Open(name, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Truncate(0); err != nil {
		return err
	}
	buffer, done := make([]byte, 256<<10), int64(0)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if _, wrong := f.Write(buffer[:n]); wrong != nil {
				return wrong
			}
			done += int64(n)
			hear(done)
		}
		if err == io.EOF {
			return f.Sync()
		}
		if err != nil {
			return err
		}
	}
}
