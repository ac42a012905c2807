package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"time"

	"github.com/klauspost/compress/gzip"

	osapi "github.com/holdfast-os/holdfast/api/os"
)

// Source is a member that is to be packed.
type Source struct {
	Member
	// Open gives the content of a file and its size in bytes. An error fs.ErrNotExist is a
	// file that has gone since, and is left out.
	Open func() (io.ReadCloser, int64, error)
}

// Pack writes the members of an archive, all but the manifest, and gives what the manifest
// says of them. It holds one list in memory, and no content. progress hears how many bytes
// were packed; it may be nil.
func Pack(ctx context.Context, w io.Writer, limits Limits, sources iter.Seq2[Source, error], progress func(done int64)) ([]osapi.BackupMember, error) {
	zipped, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	p := &packer{ctx: ctx, tar: tar.NewWriter(zipped), limits: limits, progress: progress, members: []osapi.BackupMember{}}
	for source, err := range sources {
		if err == nil {
			err = p.add(source)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := errors.Join(p.tar.Close(), zipped.Close()); err != nil {
		return nil, fmt.Errorf("packing the backup: %w", err)
	}
	return p.members, nil
}

// Finish writes a whole archive: the manifest, in a gzip stream of its own, and behind it
// what Pack has written. Every reader of gzip takes the two for one.
func Finish(w io.Writer, m osapi.BackupManifest, packed io.Reader) error {
	text, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return fmt.Errorf("encoding the manifest: %w", err)
	}
	most := ApplicationLimits.Manifest
	if m.Kind == KindSystem {
		most = SystemLimits.Manifest
	}
	if int64(len(text)) > most {
		return fmt.Errorf("the manifest has %d bytes, at most %d are possible: there are too many files", len(text), most)
	}
	zipped := gzip.NewWriter(w)
	archive := tar.NewWriter(zipped)
	header := &tar.Header{Typeflag: tar.TypeReg, Name: ManifestName, Mode: 0o600, Size: int64(len(text)), ModTime: m.CreatedAt.Truncate(time.Second)}
	if err := archive.WriteHeader(header); err != nil {
		return fmt.Errorf("writing the manifest: %w", err)
	}
	if _, err := archive.Write(text); err != nil {
		return fmt.Errorf("writing the manifest: %w", err)
	}
	// Flush, not Close: the end of the tar stands behind the members.
	if err := errors.Join(archive.Flush(), zipped.Close()); err != nil {
		return fmt.Errorf("writing the manifest: %w", err)
	}
	if _, err := io.Copy(w, packed); err != nil {
		return fmt.Errorf("writing the backup: %w", err)
	}
	return nil
}

type packer struct {
	ctx      context.Context
	tar      *tar.Writer
	limits   Limits
	progress func(int64)
	members  []osapi.BackupMember
	done     int64
}

func (p *packer) add(s Source) error {
	if err := p.ctx.Err(); err != nil {
		return err
	}
	if len(p.members) >= p.limits.Entries {
		return fmt.Errorf("there are more than %d files: that is more than can be restored", p.limits.Entries)
	}
	header := &tar.Header{
		Name: s.Name, Mode: int64(s.Mode.Perm()), Uid: s.UID, Gid: s.GID, ModTime: s.ModTime.Truncate(time.Second),
	}
	member := osapi.BackupMember{Name: s.Name, Type: s.Type}
	var content io.ReadCloser = io.NopCloser(bytes.NewReader(nil))
	switch s.Type {
	case TypeDirectory:
		header.Typeflag, header.Name = tar.TypeDir, s.Name+"/"
	case TypeSymlink:
		header.Typeflag, header.Linkname, header.Mode = tar.TypeSymlink, s.Target, 0o777
		member.SHA256 = sumOf([]byte(s.Target))
	default:
		opened, size, err := s.Open()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading %s for the backup: %w", s.Name, err)
		}
		content, header.Typeflag, header.Size = opened, tar.TypeReg, size
	}
	err := p.write(header, content, &member)
	return errors.Join(err, content.Close())
}

// write packs one member. A file that grows is cut where it ended when it was opened.
func (p *packer) write(header *tar.Header, content io.Reader, member *osapi.BackupMember) error {
	if p.done += header.Size; p.done > p.limits.Unpacked {
		return fmt.Errorf("there are more than %d bytes: that is more than can be restored", p.limits.Unpacked)
	}
	if err := p.tar.WriteHeader(header); err != nil {
		return fmt.Errorf("packing %s: %w", member.Name, err)
	}
	sum := sha256.New()
	n, err := io.CopyN(io.MultiWriter(p.tar, sum), &ending{content, p.ctx}, header.Size)
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("packing %s: it became shorter while it was read (%d of %d bytes): try again when less goes on", member.Name, n, header.Size)
	}
	if err != nil {
		return fmt.Errorf("packing %s: %w", member.Name, err)
	}
	if header.Typeflag == tar.TypeReg {
		member.Size, member.SHA256 = header.Size, hex.EncodeToString(sum.Sum(nil))
	}
	p.members = append(p.members, *member)
	if p.progress != nil {
		p.progress(p.done)
	}
	return nil
}

// ending is a reader that ends with its context.
type ending struct {
	r   io.Reader
	ctx context.Context
}

func (e *ending) Read(p []byte) (int, error) {
	if err := e.ctx.Err(); err != nil {
		return 0, err
	}
	return e.r.Read(p)
}
