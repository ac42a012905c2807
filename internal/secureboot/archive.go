package secureboot

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// Limits of an archive.
const (
	// MaxEntries is how many files and folders an archive may have.
	MaxEntries = 64
	// MaxArchive is how many bytes an archive may have, unpacked: all entries with their
	// headers, and what fills up a tape block.
	MaxArchive = MaxEntries*(MaxAuth+1024) + 32<<10
)

// Archive is what an update brings, in the order in which it is written.
type Archive []Auth

// ReadArchive reads a tar archive, plain or packed with gzip. Files that do not end in
// .auth are passed over; everything else that is not in order is an error, and nothing of
// the archive is used.
func ReadArchive(r io.Reader) (Archive, error) {
	archive, err := readArchive(r)
	if err != nil {
		return nil, fmt.Errorf("reading the archive of Secure Boot updates: %w", err)
	}
	return archive, nil
}

func readArchive(r io.Reader) (Archive, error) {
	packed := bufio.NewReader(io.LimitReader(r, MaxArchive+1))
	var plain io.Reader = packed
	if magic, err := packed.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		unpacked, err := gzip.NewReader(packed)
		if err != nil {
			return nil, err
		}
		plain = unpacked
	}
	limited := &io.LimitedReader{R: plain, N: MaxArchive + 1}
	entries := tar.NewReader(limited)
	var archive Archive
	seen := map[string]bool{}
	for count := 0; ; count++ {
		header, err := entries.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if limited.N <= 0 {
			return nil, fmt.Errorf("it has more than %d bytes", MaxArchive)
		}
		if err != nil {
			return nil, err
		}
		if count == MaxEntries {
			return nil, fmt.Errorf("it has more than %d entries", MaxEntries)
		}
		auth, err := readEntry(header, entries)
		if err != nil {
			return nil, err
		}
		if auth == nil {
			continue
		}
		key := string(auth.Variable) + Fingerprint(auth.Certificate)
		if seen[key] {
			return nil, fmt.Errorf("%s is in it twice", auth.File)
		}
		seen[key] = true
		archive = append(archive, *auth)
	}
	if len(archive) == 0 {
		return nil, errors.New("it has no file that ends in .auth")
	}
	slices.SortStableFunc(archive, func(a, b Auth) int {
		if a.Variable != b.Variable {
			return slices.Index(order, a.Variable) - slices.Index(order, b.Variable)
		}
		return strings.Compare(a.File, b.File)
	})
	return archive, nil
}

// readEntry reads one member; nil for one that is passed over.
func readEntry(header *tar.Header, r io.Reader) (*Auth, error) {
	name := path.Clean(header.Name)
	if strings.ContainsAny(header.Name, "\x00\\") || slices.Contains(strings.Split(header.Name, "/"), "..") {
		return nil, fmt.Errorf("the name %q is not taken", header.Name)
	}
	if header.Typeflag == tar.TypeDir && name == "." {
		return nil, nil
	}
	if header.Typeflag != tar.TypeReg || strings.Contains(name, "/") {
		return nil, fmt.Errorf("%q is no file in the archive's top folder", header.Name)
	}
	if header.Size > MaxAuth {
		return nil, fmt.Errorf("%q has %d bytes, at most %d are read", header.Name, header.Size, MaxAuth)
	}
	if !strings.HasSuffix(name, ".auth") {
		return nil, nil
	}
	data, err := io.ReadAll(io.LimitReader(r, MaxAuth+1))
	if err != nil {
		return nil, fmt.Errorf("%q: %w", header.Name, err)
	}
	auth, err := ParseAuth(name, data)
	if err != nil {
		return nil, err
	}
	return &auth, nil
}
