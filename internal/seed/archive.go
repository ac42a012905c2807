package seed

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// Member is one file of a seed.
type Member struct {
	// Name is as in the archive, without "./".
	Name string
	Data []byte
}

// Parse reads an archive from its first byte; what follows its end is not read.
// No archive at all is Missing. With other errors (joined *Problem) the set holds
// the documents that are sound, for a caller that can only report: a document with
// a problem is never half there.
func Parse(r io.Reader) (*Set, error) {
	members, err := ReadMembers(r)
	if err != nil {
		return &Set{}, err
	}
	return Read(members)
}

// Read reads documents out of files, in their order. Of two files for one document the
// first counts, and a warning says so. The error is as that of Parse.
func Read(members []Member) (*Set, error) {
	set := &Set{}
	var problems []error
	first := map[string]string{}
	for _, m := range members {
		name, known := NameOf(m.Name)
		if name == "" {
			continue
		}
		if !known {
			problems = append(problems, notRead(m.Name, name))
			continue
		}
		if earlier, twice := first[name]; twice {
			set.Warnings = append(set.Warnings, &Problem{File: m.Name, Rule: "unique", Text: fmt.Sprintf("it is not read, since %s stands before it: remove one of them", earlier)})
			continue
		}
		first[name] = m.Name
		if err := set.Decode(m.Name, m.Data); err != nil {
			problems = append(problems, err)
		}
	}
	return set, errors.Join(problems...)
}

// ReadMembers reads the regular files of an archive, in their order. No archive at all is
// Missing.
func ReadMembers(r io.Reader) ([]Member, error) {
	head := make([]byte, 512)
	n, err := io.ReadFull(r, head)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return nil, fmt.Errorf("reading the seed archive: %w", err)
	}
	if n < 262 || string(head[257:262]) != "ustar" {
		return nil, Missing
	}
	limit := &limitedReader{r: io.MultiReader(bytes.NewReader(head[:n]), r), left: MaxArchive}
	archive := tar.NewReader(limit)
	var members []Member
	for count := 0; ; count++ {
		header, err := archive.Next()
		if err == io.EOF {
			return members, nil
		}
		if err != nil {
			return nil, archiveProblem(err)
		}
		if count >= MaxMembers {
			return nil, &Problem{Rule: "limit", Text: fmt.Sprintf("the archive has more than %d members", MaxMembers)}
		}
		m, err := readMember(archive, header)
		if err != nil {
			return nil, err
		}
		if m != nil {
			members = append(members, *m)
		}
	}
}

// readMember is nil for what is no file.
func readMember(archive *tar.Reader, header *tar.Header) (*Member, error) {
	name := strings.TrimPrefix(header.Name, "./")
	if header.Typeflag != tar.TypeReg {
		if seedNamed, known := NameOf(name); known {
			return nil, &Problem{File: name, Rule: "type", Text: fmt.Sprintf("the member for seed %s is not a regular file", seedNamed)}
		}
		return nil, nil
	}
	if header.Size > MaxMember {
		return nil, &Problem{File: name, Rule: "limit", Text: fmt.Sprintf("%d bytes, at most %d are read", header.Size, MaxMember)}
	}
	data, err := io.ReadAll(io.LimitReader(archive, MaxMember+1))
	if err != nil {
		return nil, archiveProblem(err)
	}
	if len(data) > MaxMember {
		return nil, &Problem{File: name, Rule: "limit", Text: fmt.Sprintf("more than %d bytes", MaxMember)}
	}
	return &Member{name, data}, nil
}

func archiveProblem(err error) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &Problem{Rule: "archive", Text: "the archive is cut off in the middle: write it again"}
	case errors.Is(err, errTooLong):
		return &Problem{Rule: "limit", Text: fmt.Sprintf("the archive is longer than %d bytes", MaxArchive)}
	case errors.Is(err, tar.ErrHeader):
		return &Problem{Rule: "archive", Text: "the archive is damaged: write it again"}
	}
	return fmt.Errorf("reading the seed archive: %w", err)
}

// NameOf is the document that a file of that name holds, sealed or not. An empty name
// means that the file is none of ours. Known is false for one that looks like a seed and
// is not read as one: with an unknown name, or with that of a document in a folder or in
// upper case, as INSTALL.YML; name is then the document that was meant.
func NameOf(file string) (name string, known bool) {
	file = strings.TrimPrefix(file, "./")
	if meant, ok := documentOf(strings.ToLower(path.Base(file))); ok && !strings.HasSuffix(file, "/") && slices.Contains(Names(), meant) {
		name, ok = documentOf(file)
		return meant, ok && name == meant
	}
	if name, ok := documentOf(file); ok && !strings.Contains(name, "/") {
		return name, false
	}
	return "", false
}

// documentOf is a file's name without the endings of a document; ok is false without them.
func documentOf(file string) (name string, ok bool) {
	file = strings.TrimSuffix(file, sealedEnding)
	ending := path.Ext(file)
	name = strings.TrimSuffix(file, ending)
	return name, slices.Contains([]string{".json", ".yaml", ".yml"}, ending) && name != "" && !strings.HasPrefix(name, ".")
}

// notRead is the problem of a file that NameOf does not know; name is its answer.
func notRead(file, name string) *Problem {
	text := unknownSeed(name)
	if slices.Contains(Names(), name) {
		text = fmt.Sprintf("seeds are read from the top of the archive or medium, in lower case: name it %s, or take it out", strings.ToLower(path.Base(file)))
	}
	return &Problem{File: file, Rule: "unknown-seed", Text: text}
}

func unknownSeed(name string) string {
	return fmt.Sprintf("no seed has this name%s", suggest(name, Names()))
}

// Write makes an archive: one JSON member per document, always the same bytes for
// the same set, and what is sealed as it is. It ends with the end mark of tar, so that what an earlier, longer
// archive left behind it is not read.
func Write(w io.Writer, set *Set) error {
	var members []Member
	for _, slot := range set.slots() {
		if slot.field.IsNil() {
			continue
		}
		data, err := json.MarshalIndent(slot.field.Interface(), "", "  ")
		if err != nil {
			return fmt.Errorf("encoding seed %s: %w", slot.name, err)
		}
		members = append(members, Member{slot.name + ".json", append(data, '\n')})
	}
	return writeMembers(w, append(members, set.Sealed...))
}

// Merge copies an archive from r to w. The members of the documents named in
// remove are left out, also where they are not read for their folder or upper case; the
// documents of replace (nil for none) take the place of the old ones; all else is kept as it is, byte by byte. No archive in r is an
// empty one.
//
// The installer uses it twice in one: the target's seed must not ask for another
// installation, and what an outside medium said replaces what the image said.
func Merge(r io.Reader, w io.Writer, replace *Set, remove ...string) error {
	members, err := ReadMembers(r)
	if err != nil && !errors.Is(err, Missing) {
		return err
	}
	drop := slices.Clone(remove)
	var added bytes.Buffer
	if replace != nil {
		if err := Write(&added, replace); err != nil {
			return err
		}
	}
	fresh, err := ReadMembers(&added)
	if err != nil && !errors.Is(err, Missing) {
		return err
	}
	for _, m := range fresh {
		name, _ := NameOf(m.Name)
		drop = append(drop, name)
	}
	members = slices.DeleteFunc(members, func(m Member) bool {
		name, _ := NameOf(m.Name)
		return slices.Contains(drop, name)
	})
	return writeMembers(w, append(members, fresh...))
}

// InstalledMark is a member without content in the archive of a disk that was installed. By
// it early boot tells such a disk from a medium: a stick with an install seed that is still
// plugged in at the first start must not install once more.
const InstalledMark = "holdfast-installed"

// MergeInstalled is Merge for the archive of a disk with a node on it: without a request to
// install, and with InstalledMark.
func MergeInstalled(r io.Reader, w io.Writer, replace *Set) error {
	const install = "install"
	if replace != nil {
		copied := *replace
		copied.Install = nil
		copied.Sealed = slices.DeleteFunc(slices.Clone(copied.Sealed), func(m Member) bool {
			name, _ := NameOf(m.Name)
			return name == install
		})
		replace = &copied
	}
	var merged bytes.Buffer
	if err := Merge(r, &merged, replace, install); err != nil {
		return err
	}
	members, err := ReadMembers(&merged)
	if err != nil && !errors.Is(err, Missing) {
		return err
	}
	members = slices.DeleteFunc(members, func(m Member) bool { return m.Name == InstalledMark })
	return writeMembers(w, append(members, Member{Name: InstalledMark}))
}

func writeMembers(w io.Writer, members []Member) error {
	archive := tar.NewWriter(w)
	if len(members) == 0 {
		// An archive of nothing has no header to be known by; a partition that is
		// read must still end in a mark, so two empty blocks are written.
		return archive.Close()
	}
	for _, m := range members {
		if len(m.Data) > MaxMember {
			return &Problem{File: m.Name, Rule: "limit", Text: fmt.Sprintf("%d bytes, at most %d are read", len(m.Data), MaxMember)}
		}
		header := &tar.Header{Typeflag: tar.TypeReg, Name: m.Name, Mode: 0o600, Size: int64(len(m.Data)), Format: tar.FormatUSTAR}
		if err := archive.WriteHeader(header); err != nil {
			return fmt.Errorf("writing seed member %s: %w", m.Name, err)
		}
		if _, err := archive.Write(m.Data); err != nil {
			return fmt.Errorf("writing seed member %s: %w", m.Name, err)
		}
	}
	if err := archive.Close(); err != nil {
		return fmt.Errorf("ending the seed archive: %w", err)
	}
	return nil
}

var errTooLong = errors.New("too long")

// limitedReader fails, where io.LimitReader would pretend that the end was reached.
type limitedReader struct {
	r    io.Reader
	left int64
}

func (l *limitedReader) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, errTooLong
	}
	if int64(len(p)) > l.left {
		p = p[:l.left]
	}
	n, err := l.r.Read(p)
	l.left -= int64(n)
	return n, err
}
