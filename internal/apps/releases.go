package apps

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"

	api "github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/release"
)

// Releases is the Provider on top of the node's release provider.
type Releases struct {
	Source release.Provider
	// Channel gives the channel that the node follows now.
	Channel func() string
	// Architecture is "x86_64" or "aarch64".
	Architecture string
}

// ErrNoFile is a release that does not have the application.
var ErrNoFile = errors.New("the release does not have this application")

// Latest finds the newest release of the channel, and the application's file in it.
func (r Releases) Latest(ctx context.Context, file, running string) (Release, error) {
	update, err := r.Source.Latest(ctx, r.Channel(), r.Architecture, running)
	if errors.Is(err, release.ErrOlder) {
		return Release{}, fmt.Errorf("%w: %w", ErrOlder, err)
	}
	if err != nil {
		return Release{}, err
	}
	if _, err := r.find(update, file); err != nil {
		return Release{}, err
	}
	return Release{Version: update.Version, Handle: update}, nil
}

// Fetch downloads, unpacks and checks the application's file.
func (r Releases) Fetch(ctx context.Context, chosen Release, file, dst string, progress func(int)) error {
	update, ok := chosen.Handle.(api.Update)
	if !ok {
		return fmt.Errorf("release %s did not come from this provider", chosen.Version)
	}
	found, err := r.find(update, file)
	if err != nil {
		return err
	}
	var tell release.Progress
	if progress != nil {
		tell = func(done, total int64) { progress(int(100 * done / max(total, 1))) }
	}
	return r.Source.Fetch(ctx, update, found, dst, tell)
}

func (r Releases) find(update api.Update, file string) (api.File, error) {
	i := slices.IndexFunc(update.Files, func(f api.File) bool {
		return f.Type == api.TypeApplication && (f.Architecture == r.Architecture || f.Architecture == "") && path.Base(f.Filename) == file+".gz"
	})
	if i < 0 {
		return api.File{}, fmt.Errorf("%s for %s in release %s: %w", file, r.Architecture, update.Version, ErrNoFile)
	}
	return update.Files[i], nil
}
