package backup

import (
	"archive/tar"
	"bufio"
	"compress/flate"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"strings"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
)

// Rules say what an archive may hold.
type Rules struct {
	Limits Limits
	// Folder is where the content lies on a node, as "/var/lib/incus": absolute links may
	// lead there. Empty refuses every link.
	Folder string
}

// Member is one file, folder or link.
type Member struct {
	// Name is relative to the folder, without "./".
	Name string
	// Type is TypeFile, TypeDirectory or TypeSymlink.
	Type string
	// Mode are the nine bits of permission.
	Mode fs.FileMode
	// UID and GID are the numbers of owner and group.
	UID, GID int
	// ModTime is when it was changed.
	ModTime time.Time
	// Size is the content of a file, in bytes.
	Size int64
	// Target is where a link leads.
	Target string
}

// Summary is what Scan has found.
type Summary struct {
	// Manifest is nil when the archive has none.
	Manifest *osapi.BackupManifest
	// Members is how many there are beside the manifest.
	Members int
	// Bytes is how much all files hold.
	Bytes int64
}

// Scan reads an archive to its end and checks all of it. visit is called for each member
// but the manifest, in the order of the archive, with the content of a file; nil visits
// nothing. What is visited is only known to be good when Scan has returned, so that the
// first scan of an archive must write nothing. A refusal is a *Problem.
func Scan(ctx context.Context, r io.Reader, rules Rules, visit func(Member, io.Reader) error) (Summary, error) {
	packed := &counted{r: r, ctx: ctx, left: rules.Limits.Packed}
	front := bufio.NewReaderSize(packed, 64<<10)
	if head, err := front.Peek(len(ageMagic)); err == nil && string(head) == ageMagic {
		return Summary{}, refuse("", RuleEncrypted, "it is encrypted: decrypt it before it is sent, as `holdfast` does with --passphrase-file or --identity, or `age -d`")
	}
	unzipped, err := gzip.NewReader(front)
	if err != nil {
		return Summary{}, readProblem(err)
	}
	s := &scan{rules: rules, visit: visit, all: names{}, named: names{}, sums: map[[16]byte]osapi.BackupMember{}}
	plain := &guarded{r: unzipped, packed: packed, limits: rules.Limits}
	archive := tar.NewReader(plain)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return Summary{}, readProblem(err)
		}
		if err := s.member(header, archive); err != nil {
			return Summary{}, readProblem(err)
		}
	}
	// The sum of the last part stands behind the end of the tar.
	if _, err := io.Copy(io.Discard, plain); err != nil {
		return Summary{}, readProblem(err)
	}
	return s.found, s.compare()
}

// readProblem names the faults of an archive; others, as a lost connection, stay.
func readProblem(err error) error {
	var known *Problem
	var corrupt flate.CorruptInputError
	switch {
	case errors.As(err, &known):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return refuse("", RuleArchive, "it ends in the middle: send it again")
	case errors.Is(err, tar.ErrFieldTooLong):
		return refuse("", RuleLimit, "a member has a header longer than a header may be: pack it without extended attributes and comments")
	case errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum), errors.Is(err, tar.ErrHeader), errors.As(err, &corrupt):
		return refuse("", RuleArchive, "it is damaged, or not a tar file packed with gzip")
	}
	return err
}

// scan is one reading of an archive.
type scan struct {
	rules      Rules
	visit      func(Member, io.Reader) error
	all, named names
	sums       map[[16]byte]osapi.BackupMember // what the archive has, by the name's sum
	found      Summary
}

func (s *scan) member(header *tar.Header, content io.Reader) error {
	name, err := cleanName(header.Name)
	if err != nil {
		return err
	}
	if sparse(header) {
		return refuse(name, RuleType, "it is packed as a sparse file, whose holes no limit can see: pack the archive without --sparse (-S)")
	}
	if name == ManifestName {
		return s.manifest(header, content)
	}
	m := Member{
		Name: name, Mode: fs.FileMode(header.Mode).Perm(), UID: header.Uid, GID: header.Gid,
		ModTime: header.ModTime, Target: header.Linkname,
	}
	if m.Type, err = typeOf(header, name); err != nil {
		return err
	}
	if name == "" {
		if m.Type == TypeDirectory {
			return nil // the folder itself, as `tar c .` puts it in
		}
		return refuse("", RuleName, "a member has no name")
	}
	if m.Type != TypeSymlink {
		m.Target = ""
	} else if s.rules.Folder == "" {
		return refuse(name, RuleLink, "it is a link, and such a backup has none")
	} else if err := checkLink(name, m.Target, s.rules.Folder); err != nil {
		return err
	}
	if err := s.all.add(name, m.Type == TypeDirectory, s.named); err != nil {
		return err
	}
	// Folders that no member names count too, some of them for nothing.
	if s.found.Members++; s.found.Members > s.rules.Limits.Entries || len(s.all) > 4*s.rules.Limits.Entries {
		return refuse("", RuleLimit, "it has more than %d members", s.rules.Limits.Entries)
	}
	if m.Type == TypeFile {
		m.Size = header.Size
	}
	if m.Size < 0 || m.Size > s.rules.Limits.Unpacked-s.found.Bytes {
		return refuse(name, RuleLimit, "with it the archive holds more than %d bytes", s.rules.Limits.Unpacked)
	}
	s.found.Bytes += m.Size
	return s.content(m, content)
}

// content hands a member on, and takes its sum.
func (s *scan) content(m Member, content io.Reader) error {
	sum := sha256.New()
	read := io.TeeReader(io.LimitReader(content, m.Size), sum)
	if s.visit != nil {
		if err := s.visit(m, read); err != nil {
			return err
		}
	}
	if _, err := io.Copy(io.Discard, read); err != nil {
		return err
	}
	is := osapi.BackupMember{Type: m.Type, Size: m.Size}
	switch m.Type {
	case TypeFile:
		is.SHA256 = hex.EncodeToString(sum.Sum(nil))
	case TypeSymlink:
		is.SHA256 = sumOf([]byte(m.Target))
	}
	s.sums[key(m.Name)] = is
	return nil
}

func (s *scan) manifest(header *tar.Header, content io.Reader) error {
	switch {
	case s.found.Manifest != nil:
		return refuse(ManifestName, RuleUnique, "the archive has it twice")
	case header.Typeflag != tar.TypeReg:
		return refuse(ManifestName, RuleType, "it is not a file")
	case header.Size > s.rules.Limits.Manifest:
		return refuse(ManifestName, RuleLimit, "%d bytes, at most %d are read", header.Size, s.rules.Limits.Manifest)
	}
	var err error
	s.found.Manifest, err = readManifest(content, s.rules.Limits)
	return err
}

// compare holds the manifest against what was there.
func (s *scan) compare() error {
	m := s.found.Manifest
	if m == nil || m.Format > Format {
		return nil // CheckManifest has a word for both
	}
	for _, want := range m.Members {
		is, there := s.sums[key(want.Name)]
		if !there {
			return refuse(want.Name, RuleSum, "the manifest lists it once, and the archive does not have it as often")
		}
		if is != (osapi.BackupMember{Type: want.Type, Size: want.Size, SHA256: want.SHA256}) {
			return refuse(want.Name, RuleSum, "it is not what the manifest says: the archive was changed or is damaged")
		}
		delete(s.sums, key(want.Name))
	}
	if len(s.sums) > 0 {
		return refuse("", RuleSum, "it has %d members that its manifest does not list", len(s.sums))
	}
	return nil
}

func sumOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// sparse tells a file whose holes are in no byte of the archive. guarded does not see them.
func sparse(header *tar.Header) bool {
	if header.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for record := range header.PAXRecords {
		if strings.HasPrefix(record, "GNU.sparse.") {
			return true
		}
	}
	return false
}

func typeOf(header *tar.Header, name string) (string, error) {
	switch header.Typeflag {
	case tar.TypeReg:
		return TypeFile, nil
	case tar.TypeDir:
		return TypeDirectory, nil
	case tar.TypeSymlink:
		return TypeSymlink, nil
	case tar.TypeLink:
		return "", refuse(name, RuleType, "it is a hard link; a backup has files, folders and symbolic links alone")
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return "", refuse(name, RuleType, "it is a device or a pipe; a backup has files, folders and symbolic links alone")
	}
	return "", refuse(name, RuleType, "it is of the type %q; a backup has files, folders and symbolic links alone", header.Typeflag)
}

// counted counts what was read of the packed archive, and ends with the context.
type counted struct {
	r    io.Reader
	ctx  context.Context
	n    int64
	left int64
}

func (c *counted) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	if c.left <= 0 {
		// One byte more tells an archive that ends here from one that goes on.
		n, err := c.r.Read(make([]byte, 1))
		if n > 0 {
			return 0, refuse("", RuleLimit, "it is longer than %d bytes", c.n)
		}
		return 0, err
	}
	n, err := c.r.Read(p[:min(int64(len(p)), c.left)])
	c.n, c.left = c.n+int64(n), c.left-int64(n)
	return n, err
}

// guarded stops an archive that unpacks to more than it may.
type guarded struct {
	r      io.Reader
	packed *counted
	limits Limits
	n      int64
}

// headers is what a member may take beside its content, in bytes.
const headers = 2048

func (g *guarded) Read(p []byte) (int, error) {
	n, err := g.r.Read(p)
	g.n += int64(n)
	switch {
	case g.n > g.limits.Unpacked+g.limits.Manifest+int64(g.limits.Entries+1)*headers:
		return 0, refuse("", RuleLimit, "it unpacks to more than %d bytes", g.limits.Unpacked)
	case g.n > g.limits.RatioFrom && g.n/g.limits.Ratio > g.packed.n:
		return 0, refuse("", RuleLimit, "it unpacks to more than %d times its size", g.limits.Ratio)
	}
	return n, err
}
