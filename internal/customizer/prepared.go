package customizer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
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

// get gives the prepared image, or waits for it. The work goes on when the one who waits
// leaves. path is where the file of the image lies.
func (i *images) get(ctx context.Context, path string, want published) (*splice.Image, error) {
	sum := want.file.SHA256
	i.mu.Lock()
	j := i.jobs[sum]
	if j == nil {
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
		i.mu.Lock()
		delete(i.jobs, sum) // the next one tries again
		i.mu.Unlock()
		return
	}
	i.log.Info("an image is prepared", "file", path)
}

// cuts are the places where a CD differs from the image that it is made of; none for an image
// that no CD can be made of.
func cuts(beginning []byte) (all []int64) {
	table, err := media.ReadBeginning(bytes.NewReader(beginning))
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
