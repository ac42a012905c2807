package operationscenter

import (
	"bufio"
	"compress/flate"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	api "github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/release"
)

var _ release.Provider = (*Client)(nil)

// urlPrefix is what api/release.Update.URL begins with for a release of a manager; the
// UUID follows. In this way a release says itself where its files are.
const urlPrefix = "/1.0/provisioning/updates/"

// maxCandidates is how many releases' files are looked at in search of one for the
// architecture.
const maxCandidates = 16

// Latest is described at release.Provider: the first release in the manager's order that
// is in the channel, or runs, and has files for the architecture. What the manager has not
// got itself is left out.
func (c *Client) Latest(ctx context.Context, channel, arch, running string) (api.Update, error) {
	updates, err := c.Updates(ctx)
	if err != nil {
		return api.Update{}, err
	}
	looked := 0
	for _, update := range updates {
		wanted := slices.Contains(update.Channels, channel) || (running != "" && update.Version == running)
		if !wanted || update.Status == "pending" || looked == maxCandidates {
			continue
		}
		if err := update.check(); err != nil {
			return api.Update{}, fmt.Errorf("reading the releases of %s: %w", c.server, err)
		}
		looked++
		files, err := c.Files(ctx, update.UUID)
		if err != nil {
			return api.Update{}, err
		}
		found := convert(update, files, arch)
		if len(found.Files) == 0 {
			continue
		}
		if update.Version < running {
			return api.Update{}, fmt.Errorf("%w: %s runs, the channel %q of %s has %s", release.ErrOlder, running, channel, c.server, update.Version)
		}
		return found, nil
	}
	return api.Update{}, fmt.Errorf("%w %q of %s for %s", release.ErrNoUpdate, channel, c.server, arch)
}

// convert gives a release in the shape that every provider has, with the files for one
// architecture.
func convert(update Update, files []File, arch string) api.Update {
	made := api.Update{Format: api.Format, Channels: update.Channels, Origin: update.Origin, PublishedAt: update.PublishedAt,
		Severity: update.Severity, Version: update.Version, URL: urlPrefix + update.UUID}
	if !made.Severity.Valid() {
		made.Severity = api.SeverityNone
	}
	for _, f := range files {
		if f.Architecture == "" || f.Architecture == arch {
			made.Files = append(made.Files, api.File{Architecture: f.Architecture, Component: f.Component, Filename: f.Filename,
				SHA256: f.SHA256, Size: f.Size, Type: f.Type})
		}
	}
	return made
}

// Fetch is described at release.Provider. The file is written to dst+".part", mode 0600,
// and gets its name only when size and sum are right and its bytes are on the disk. Two
// calls for one dst must not overlap.
func (c *Client) Fetch(ctx context.Context, update api.Update, file api.File, dst string, progress release.Progress) error {
	uuid, ours := strings.CutPrefix(update.URL, urlPrefix)
	if !ours || !slices.Contains(update.Files, file) {
		return fmt.Errorf("fetching %s: %w: release %s of this manager does not list it", file.Filename, release.ErrIndex, update.Version)
	}
	packed, err := c.Open(ctx, uuid, File{Filename: file.Filename, Size: file.Size, Component: file.Component, Type: file.Type,
		Architecture: file.Architecture, SHA256: file.SHA256})
	if err != nil {
		return err
	}
	err = writePart(dst, func(w io.Writer) error { return c.unpack(w, packed, file, progress) })
	return errors.Join(err, packed.Close())
}

// unpack writes the unpacked file to w. gzip reads to the end of packed in search of one
// more member, and at the end the sum is looked at.
func (c *Client) unpack(w io.Writer, packed io.Reader, file api.File, progress release.Progress) error {
	counted := &counter{r: packed, total: file.Size, progress: progress}
	limit := min(c.limits.MaxExpanded, 64<<20+file.Size*c.limits.MaxRatio)
	reader, err := gzip.NewReader(bufio.NewReaderSize(counted, 64<<10))
	if err != nil {
		return counted.blame(fmt.Errorf("fetching %s: %w: it is no gzip file", file.Filename, release.ErrMismatch))
	}
	n, err := io.Copy(w, io.LimitReader(reader, limit+1))
	if n > limit {
		return fmt.Errorf("fetching %s: %w: it unpacks to more than %d bytes", file.Filename, release.ErrLimit, limit)
	}
	var corrupt flate.CorruptInputError
	if errors.As(err, &corrupt) || errors.Is(err, gzip.ErrHeader) || errors.Is(err, gzip.ErrChecksum) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("fetching %s: %w: %w", file.Filename, release.ErrMismatch, err)
	}
	return counted.blame(err)
}

// counter tells of each piece of a download, and remembers what went wrong with it.
type counter struct {
	r           io.Reader
	done, total int64
	progress    release.Progress
	err         error
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.done += int64(n)
	if n > 0 && c.progress != nil {
		c.progress(c.done, c.total)
	}
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}

// blame prefers what the download did over what the unpacking made of it.
func (c *counter) blame(err error) error {
	if c.err != nil {
		return c.err
	}
	return err
}

// writePart writes dst whole or not at all.
func writePart(dst string, write func(io.Writer) error) (err error) {
	part := dst + ".part"
	if err := gone(os.Remove(part)); err != nil {
		return fmt.Errorf("clearing %s: %w", part, err)
	}
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("making %s: %w", part, err)
	}
	if err := errors.Join(writeOut(f, write), f.Close()); err != nil {
		return errors.Join(err, gone(os.Remove(part)))
	}
	if err := os.Rename(part, dst); err != nil {
		return errors.Join(fmt.Errorf("naming %s: %w", dst, err), gone(os.Remove(part)))
	}
	dir, err := os.Open(filepath.Dir(dst))
	if err != nil {
		return fmt.Errorf("opening the directory of %s: %w", dst, err)
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func writeOut(f *os.File, write func(io.Writer) error) error {
	if err := write(f); err != nil {
		return err
	}
	return f.Sync()
}

func gone(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
