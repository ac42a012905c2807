package release

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/holdfast-os/holdfast/api/release"
)

// Prune keeps the newest count releases of every channel, removes the others from the tree,
// and gives the versions that are gone, newest first. A release that one channel keeps stays
// in all its channels.
func Prune(ctx context.Context, o TreeOptions, count int) ([]string, error) {
	if count < 1 {
		return nil, fmt.Errorf("pruning to %d releases: at least one of each channel must stay", count)
	}
	t, err := o.open()
	if err != nil {
		return nil, fmt.Errorf("pruning: %w", err)
	}
	gone, err := t.prune(ctx, count)
	if err := errors.Join(err, t.close()); err != nil {
		return nil, fmt.Errorf("pruning: %w", err)
	}
	return gone, nil
}

// surplus are the releases, newest first, that no channel keeps.
func surplus(updates []release.Update, count int) []release.Update {
	var out []release.Update
	have := map[string]int{}
	for _, update := range updates {
		kept := false
		for _, channel := range update.Channels {
			have[channel]++
			kept = kept || have[channel] <= count
		}
		if !kept {
			out = append(out, update)
		}
	}
	return out
}

// prune takes away in the order in which nodes look: the metadata, the index, and the files
// last. A cut leaves releases that nobody is pointed to, or that are pruned again.
func (t *tree) prune(ctx context.Context, count int) ([]string, error) {
	updates, err := t.updates()
	if err != nil {
		return nil, err
	}
	var gone []string
	for _, update := range surplus(updates, count) {
		for _, channel := range update.Channels {
			if err := t.withdraw(ctx, channel, update.Version); err != nil {
				return nil, err
			}
		}
		gone = append(gone, update.Version)
	}
	if err := t.finish(ctx, gone...); err != nil {
		return nil, err
	}
	for _, version := range gone {
		if err := t.step("removal of " + version); err != nil {
			return nil, err
		}
		// Under a hidden name it is no release any more, and what is left of a cut goes
		// with the next change of the tree.
		hiddenName := t.path(staging + "pruned-" + version)
		if err := os.Rename(t.path(version), hiddenName); err != nil {
			return nil, fmt.Errorf("taking %s out of the tree: %w", version, err)
		}
		if err := os.RemoveAll(hiddenName); err != nil {
			return nil, fmt.Errorf("removing %s: %w", version, err)
		}
	}
	return gone, syncDir(t.dir)
}

// List reads the index of a tree on this computer, newest release first. It believes what it
// reads; VerifyTree does not.
func List(dir string) (release.Index, error) {
	text, err := readFileAtMost((&tree{dir: dir}).path("index.json"), maxDocument)
	if err != nil {
		return release.Index{}, fmt.Errorf("reading the tree: %w", err)
	}
	index, err := parseIndex(text)
	if err != nil {
		return release.Index{}, fmt.Errorf("reading the tree %s: %w", dir, err)
	}
	return index, nil
}

// parseUpdate reads an update document.
func parseUpdate(text []byte) (release.Update, error) {
	var update release.Update
	if err := json.Unmarshal(text, &update); err != nil {
		return release.Update{}, fmt.Errorf("%w: %w", ErrIndex, err)
	}
	return update, checkUpdate(update)
}
