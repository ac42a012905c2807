package simulate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	seedapi "github.com/holdfast-os/holdfast/api/seed"
	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/reset"
	seeds "github.com/holdfast-os/holdfast/internal/seed"
)

const (
	// espDir stands for the ESP, seedFile for the partition of the seed.
	espDir   = "esp"
	seedFile = "seed.tar"
	// removedFile says that the partitions were removed: the next start makes them anew.
	removedFile = "partitions-removed"
)

// resets is daemon.Resets and its reset.Hands.
type resets struct{ *Node }

func (r resets) Hands() reset.Hands    { return r }
func (r resets) HasTPM() (bool, error) { return true, nil }

func (r resets) Seed(context.Context) (io.ReadCloser, error) { return os.Open(r.path(seedFile)) }

func (r resets) Read(name string, limit int64) ([]byte, error) {
	f, err := os.Open(filepath.Join(r.path(espDir), name))
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", name, limit)
	}
	return text, errors.Join(err, f.Close())
}

func (r resets) Write(name string, data []byte) error {
	file := filepath.Join(r.path(espDir), name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	return os.WriteFile(file, data, 0o600)
}

func (r resets) Remove(name string) error {
	return os.RemoveAll(filepath.Join(r.path(espDir), filepath.Clean("/"+name)))
}

func (r resets) ClearTPM(ctx context.Context) error { return r.faults.hit(ctx, "reset.tpm") }

func (r resets) WriteSeed(ctx context.Context, archive []byte) error {
	if err := r.faults.hit(ctx, "reset.seed"); err != nil {
		return err
	}
	return os.WriteFile(r.path(seedFile), archive, 0o600)
}

// RemovePartitions leaves all in its place: a node runs from them until it restarts.
func (r resets) RemovePartitions(ctx context.Context, _ ...int) error {
	if err := r.faults.hit(ctx, "reset.partitions"); err != nil {
		return err
	}
	return os.WriteFile(r.path(removedFile), nil, 0o600)
}

// early is what early boot does: it carries on with a reset, and makes partitions that are
// not there. What belongs to the machine stays: its cards, its firmware, its certificates.
func (n *Node) early() error {
	if _, err := reset.Continue(context.Background(), resets{n}, func(text string) { n.log.Warn(text) }); err != nil {
		return fmt.Errorf("going on with a factory reset: %w", err)
	}
	_, err := os.Stat(n.path(removedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, name := range []string{keptDir, auditDir, rootDir, poolLock, volumesFile, machineFile} {
		err = errors.Join(err, os.RemoveAll(n.path(name)))
	}
	return errors.Join(err, os.Remove(n.path(removedFile)))
}

// writeSeed makes the seed partition of a machine that has none.
func (n *Node) writeSeed() error {
	_, err := os.Stat(n.path(seedFile))
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	set := seeds.Set{}
	if len(n.o.Seed.Applications) > 0 {
		set.Applications = &seedapi.Applications{}
	}
	for _, name := range n.o.Seed.Applications {
		set.Applications.Applications = append(set.Applications.Applications, seedapi.Application{Name: name})
	}
	if c := n.o.Seed.Update; c != nil {
		set.Update = &seedapi.Update{UpdateConfig: *c}
	}
	if c := n.o.Seed.Provider; c != nil {
		set.Provider = &seedapi.Provider{ProviderConfig: *c}
	}
	if c := n.o.Seed.Network; c != nil {
		set.Network = &seedapi.Network{NetworkConfig: *c}
	}
	var archive bytes.Buffer
	if err := seeds.Write(&archive, &set); err != nil {
		return fmt.Errorf("writing the seed: %w", err)
	}
	return os.WriteFile(n.path(seedFile), archive.Bytes(), 0o600)
}

// seed is daemon.Seed: what lies in the seed partition, read as a node does.
type seed struct{ *Node }

func (s seed) Read(context.Context) (*seeds.Set, error) {
	f, err := os.Open(s.path(seedFile))
	if err != nil {
		return nil, err
	}
	set, err := seeds.Parse(io.LimitReader(f, layout.Size(layout.Seed)))
	if errors.Is(err, seeds.Missing) {
		set, err = &seeds.Set{}, nil
	}
	return set, errors.Join(err, f.Close())
}

// Replace is part of daemon.Seed.
func (s seed) Replace(_ context.Context, name string, document json.RawMessage) error {
	before, err := os.ReadFile(s.path(seedFile))
	if err != nil {
		return err
	}
	var set seeds.Set
	if document != nil {
		if err := set.Decode(name+".json", document); err != nil {
			return err
		}
	}
	var archive bytes.Buffer
	if err := seeds.Merge(bytes.NewReader(before), &archive, &set, name); err != nil {
		return err
	}
	if err := os.WriteFile(s.path(seedFile+".new"), archive.Bytes(), 0o600); err != nil {
		return err
	}
	return os.Rename(s.path(seedFile+".new"), s.path(seedFile))
}

// Used is part of daemon.Seed: nothing here is wiped, so that tests can reset a node again.
func (seed) Used(context.Context) error { return nil }
