package customizer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/holdfast-os/holdfast/internal/media"
	"github.com/holdfast-os/holdfast/internal/splice"
)

// images prepares images, each once, one at a time, and remembers them.
type images struct {
	ctx    context.Context
	dir    string
	region splice.Region
	log    *slog.Logger
	turn   chan struct{}
	work   sync.WaitGroup

	mu   sync.Mutex
	jobs map[string]*job
}

type job struct {
	done  chan struct{}
	image *splice.Image
	err   error
	// cd makes a CD of the image, once.
	cd func() (*splice.Image, error)
}

func newImages(ctx context.Context, dir string, region splice.Region, log *slog.Logger) *images {
	return &images{ctx: ctx, dir: dir, region: region, log: log, turn: make(chan struct{}, 1), jobs: map[string]*job{}}
}

// wait waits for the end of the work, after the context has ended.
func (i *images) wait() { i.work.Wait() }

// stale tells whether the files of a finished job are gone.
func (j *job) stale() bool {
	select {
	case <-j.done:
		return j.err == nil && !j.image.Ready()
	default:
		return false
	}
}

// forget forgets jobs; what they have prepared stays on the disk.
func (i *images) forget(which func(sum string, j *job) bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	maps.DeleteFunc(i.jobs, which)
}

// prune removes what was prepared for images whose sums are not among keep. It waits for the
// image that is being prepared.
func (i *images) prune(ctx context.Context, keep []string) error {
	select {
	case i.turn <- struct{}{}:
		defer func() { <-i.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	i.forget(func(sum string, _ *job) bool { return !slices.Contains(keep, sum) })
	return splice.Prune(i.dir, keep)
}

// get gives the prepared image, or waits for it. One whose files are gone is prepared anew.
// The work goes on when the one who waits leaves. path is where the file of the image lies.
func (i *images) get(ctx context.Context, path string, want published) (*splice.Image, error) {
	sum := want.file.SHA256
	i.mu.Lock()
	j := i.jobs[sum]
	if j == nil || j.stale() {
		j = &job{done: make(chan struct{})}
		j.cd = sync.OnceValues(func() (*splice.Image, error) { return makeCD(j.image) })
		i.jobs[sum] = j
		i.work.Add(1)
		go i.prepare(j, path, sum)
	}
	i.mu.Unlock()
	select {
	case <-j.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if j.err != nil || !want.madeCD {
		return j.image, j.err
	}
	cd, err := j.cd()
	if err != nil {
		i.log.Error("making a CD of an image", "file", path, "error", err)
		return nil, fmt.Errorf("%w: version %s has no iso image for %s, and none can be made of its raw image: the log of the service says why",
			errNoRelease, want.version, want.file.Architecture)
	}
	return cd, nil
}

func (i *images) prepare(j *job, path, sum string) {
	defer i.work.Done()
	defer close(j.done)
	select {
	case i.turn <- struct{}{}:
		defer func() { <-i.turn }()
	case <-i.ctx.Done():
		j.err = i.ctx.Err()
		return
	}
	if j.image, j.err = splice.Open(i.dir, sum, i.region); j.err == nil {
		return
	}
	i.log.Info("preparing an image", "file", path)
	if j.image, j.err = splice.Prepare(i.ctx, splice.Source{Path: path, SHA256: sum, Cuts: cuts}, i.region, i.dir); j.err != nil {
		i.log.Error("preparing an image", "error", j.err)
		i.forget(func(one string, other *job) bool { return one == sum && other == j }) // the next one tries again
		return
	}
	i.log.Info("an image is prepared", "file", path)
}

// cuts are the places where a CD differs from the image that it is made of; none for an image
// that no CD can be made of.
func cuts(beginning []byte) (all []int64) {
	table, err := media.ReadTable(bytes.NewReader(beginning), media.MaxImage)
	if err != nil {
		return nil
	}
	plan, err := media.ISO(table)
	if err != nil {
		return nil
	}
	for _, r := range plan.Rewrites {
		all = append(all, r.Offset, r.Offset+r.Size)
	}
	return all
}

// makeCD is the image as a CD. Only its partition table is packed for that.
func makeCD(image *splice.Image) (cd *splice.Image, err error) {
	reader, err := image.Open()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, reader.Close()) }()
	table, err := media.ReadBeginning(reader)
	if err != nil {
		return nil, err
	}
	plan, err := media.ISO(table)
	if err != nil {
		return nil, err
	}
	return image.With(plan)
}
