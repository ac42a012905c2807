package operationscenter

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"regexp"
	"strings"
	"time"

	api "github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/release"
)

// Update is a release as the manager lists it.
type Update struct {
	// UUID is the manager's name for the release.
	UUID string `json:"uuid"`
	// Version is 12 digits, YYYYMMDDhhmm.
	Version string `json:"version"`
	// Channels are those that carry the release.
	Channels []string `json:"channels"`
	// PublishedAt is in UTC; zero when the manager does not say.
	PublishedAt time.Time `json:"published_at"`
	// Severity says how urgent the release is; empty when the manager does not say.
	Severity api.Severity `json:"severity"`
	// Origin names the publisher.
	Origin string `json:"origin"`
	// Status is "pending" while the manager has not got the files itself.
	Status string `json:"update_status"`
}

// File is one file of a release as the manager lists it. Its files are packed with gzip;
// size and sum are of the packed ones.
type File struct {
	// Filename is as "x86_64/incus.raw.gz" or "incus.raw.gz".
	Filename string `json:"filename"`
	// Size is in bytes.
	Size int64 `json:"size"`
	// Component is the part of the product that the file belongs to.
	Component api.Component `json:"component"`
	// Type says what the file is.
	Type api.Type `json:"type"`
	// Architecture is "x86_64", "aarch64", or empty for every one.
	Architecture string `json:"architecture"`
	// SHA256 is hexadecimal.
	SHA256 string `json:"sha256"`
}

// Forms and limits of what a manager lists.
var (
	uuidForm    = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	versionForm = regexp.MustCompile(`^[0-9]{12}$`)
	nameForm    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._+-]*$`)
	sumForm     = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// maxFile bounds what a manager may promise for one file, in bytes.
const maxFile = 16 << 30

// Updates lists the releases in the manager's order, newest first. What stands in an entry
// was not looked at: Latest does, for those it could choose.
func (c *Client) Updates(ctx context.Context) ([]Update, error) {
	address := c.at("1.0", "provisioning", "updates")
	address.RawQuery = "recursion=1"
	var updates []Update
	if err := c.ask(ctx, address, &updates); err != nil {
		return nil, fmt.Errorf("listing the releases of %s: %w", c.server, err)
	}
	return updates, nil
}

func (u Update) check() error {
	if !uuidForm.MatchString(u.UUID) || !versionForm.MatchString(u.Version) {
		return fmt.Errorf("%w: a release without UUID or with a version that is not 12 digits", release.ErrIndex)
	}
	return nil
}

// Files lists the files of one release. release.ErrIndex for a file that has no safe name,
// no sum or no size.
func (c *Client) Files(ctx context.Context, uuid string) ([]File, error) {
	if !uuidForm.MatchString(uuid) {
		return nil, fmt.Errorf("listing the files of release %q: %w: it is not a UUID", uuid, release.ErrIndex)
	}
	var files []File
	if err := c.ask(ctx, c.at("1.0", "provisioning", "updates", uuid, "files"), &files); err != nil {
		return nil, fmt.Errorf("listing the files of release %s: %w", uuid, err)
	}
	seen := map[string]bool{}
	for i := range files {
		file := &files[i]
		file.SHA256 = strings.ToLower(file.SHA256)
		if err := file.check(); err != nil {
			return nil, fmt.Errorf("listing the files of release %s: %w: file %q: %s", uuid, release.ErrIndex, c.foreign(file.Filename), err)
		}
		if seen[file.Filename] {
			return nil, fmt.Errorf("listing the files of release %s: %w: %q is there twice", uuid, release.ErrIndex, file.Filename)
		}
		seen[file.Filename] = true
	}
	return files, nil
}

func (f File) check() error {
	parts := strings.Split(f.Filename, "/")
	good := fs.ValidPath(f.Filename) && len(parts) <= 2
	for _, part := range parts {
		good = good && nameForm.MatchString(part)
	}
	switch {
	case !good:
		return errors.New("its name leads elsewhere")
	case len(parts) == 2 && f.Architecture != "" && parts[0] != f.Architecture:
		return fmt.Errorf("it is not of %s", f.Architecture)
	case !sumForm.MatchString(f.SHA256):
		return errors.New("its sum is not 64 hexadecimal digits")
	case f.Size <= 0 || f.Size > maxFile:
		return fmt.Errorf("%d bytes", f.Size)
	}
	return nil
}

// Open begins the download of a file. The reader gives the packed bytes and ends with
// io.EOF only when there were exactly file.Size of them and their sum is right;
// release.ErrMismatch otherwise. What was read before the end is not to be trusted.
func (c *Client) Open(ctx context.Context, uuid string, file File) (io.ReadCloser, error) {
	if !uuidForm.MatchString(uuid) {
		return nil, fmt.Errorf("fetching %s: %w: release %q is not a UUID", file.Filename, release.ErrIndex, uuid)
	}
	if err := file.check(); err != nil {
		return nil, fmt.Errorf("fetching %q: %w: %w", file.Filename, release.ErrIndex, err)
	}
	segments := append([]string{"1.0", "provisioning", "updates", uuid, "files"}, strings.Split(file.Filename, "/")...)
	got, err := c.send(ctx, http.MethodGet, c.at(segments...), nil, c.limits.FileTotal)
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w", file.Filename, err)
	}
	if got.response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("fetching %s: %w", file.Filename, c.noFile(got))
	}
	if length := got.response.ContentLength; length >= 0 && length != file.Size {
		defer got.Close()
		return nil, fmt.Errorf("fetching %s: %w: %d bytes are offered, %d were promised", file.Filename, release.ErrMismatch, length, file.Size)
	}
	return &checked{answer: got, left: file.Size, want: file.SHA256, sum: sha256.New(), name: file.Filename}, nil
}

// noFile says what came in the place of a file.
func (c *Client) noFile(got *answer) error {
	defer got.Close()
	text, err := io.ReadAll(io.LimitReader(got, 64<<10))
	if err == nil {
		err = c.read(got.response.StatusCode, text, nil)
	}
	var refusal *Refusal
	if errors.As(err, &refusal) {
		return fmt.Errorf("%w: %w", release.ErrServer, refusal)
	}
	return fmt.Errorf("%w: it answers %d", release.ErrServer, got.response.StatusCode)
}

// checked hands out exactly the promised bytes, summing them up.
type checked struct {
	answer *answer
	left   int64
	want   string
	sum    hash.Hash
	name   string
	done   error
}

func (r *checked) Read(p []byte) (int, error) {
	if r.done != nil {
		return 0, r.done
	}
	if len(p) == 0 {
		return 0, nil
	}
	if r.left == 0 {
		r.done = r.end()
		return 0, r.done
	}
	n, err := r.answer.Read(p[:min(int64(len(p)), r.left)])
	r.sum.Write(p[:n])
	r.left -= int64(n)
	switch {
	case err == io.EOF && r.left > 0:
		r.done = fmt.Errorf("fetching %s: %w: it ends %d bytes early", r.name, release.ErrMismatch, r.left)
	case err != nil && err != io.EOF:
		r.done = fmt.Errorf("fetching %s: %w", r.name, err)
	}
	return n, r.done
}

// end looks for bytes behind the promised ones, and at the sum.
func (r *checked) end() error {
	var extra [1]byte
	if n, err := r.answer.Read(extra[:]); n > 0 {
		return fmt.Errorf("fetching %s: %w: there is more than was promised", r.name, release.ErrMismatch)
	} else if err != nil && err != io.EOF {
		return fmt.Errorf("fetching %s: %w", r.name, err)
	}
	if hex.EncodeToString(r.sum.Sum(nil)) != r.want {
		return fmt.Errorf("fetching %s: %w: the sum is another", r.name, release.ErrMismatch)
	}
	r.answer.accept()
	return io.EOF
}

// Close ends the download.
func (r *checked) Close() error {
	r.answer.Close()
	return nil
}
