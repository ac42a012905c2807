// Package pe reads programs of the firmware (PE files: boot loaders, UKIs, kernels): their
// Authenticode hash, who signed them, and their sections.
//
// The hash is the one that the firmware measures into the TPM and looks for in db and dbx:
// the file without its checksum and without its signatures. It is worked out as EDK2 does,
// which adds nothing at the end of a file whose length is no multiple of 8. Programs that
// sign fill such a file up first, which changes its hash.
//
// Files come from an ESP that anybody with the disk can write, so all counts and sizes have
// limits, and a file whose parts do not lie in order is refused: firmware reads such files
// in different ways.
//
// That a signature is right says who made a file. Whether that somebody is trusted is
// decided elsewhere, against db and dbx.
package pe

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// Limits of a file.
const (
	// MaxSize is the largest file that is read, in bytes.
	MaxSize = 1 << 30
	// maxSections is what Windows takes, too.
	maxSections = 96
	maxHeaders  = 1 << 20
)

// ErrNotPE means that a file is no program of the firmware at all.
var ErrNotPE = errors.New("this is no PE file")

// Image is what a PE file is known by.
type Image struct {
	// SHA256 is the Authenticode hash.
	SHA256 [sha256.Size]byte
	// Machine is the processor, as 0x8664 for x86-64 and 0xaa64 for 64-bit ARM.
	Machine uint16
	// Sections are in the order of the file's table.
	Sections []Section
	// Signatures are those of the file, each one checked; nil for a file without.
	Signatures []Signature
}

// Section is a part of a file.
type Section struct {
	// Name is as ".linux", at most 8 bytes.
	Name string
	// Size is that in memory, in bytes. When it is more than Stored, zeros follow.
	Size uint32
	// Offset is where the section begins in the file.
	Offset uint32
	// Stored is how many bytes the file has of it.
	Stored uint32
}

// Signature is who signed a file.
type Signature struct {
	// Chain are DER certificates: that of the signer first, then the others that the
	// signature brings.
	Chain [][]byte
}

// ReadFile reads the PE file at a path.
func ReadFile(path string) (image Image, err error) {
	err = withFile(path, func(f io.ReaderAt, size int64) error {
		image, err = Read(f, size)
		return err
	})
	return image, err
}

// ReadPayload reads the PE file that is a section of another one, as the kernel in the
// section .linux of a UKI.
func ReadPayload(path, section string) (image Image, err error) {
	err = withFile(path, func(f io.ReaderAt, size int64) error {
		outer, err := parse(f, size)
		if err != nil {
			return err
		}
		part, err := outer.payload(section)
		if err != nil {
			return err
		}
		if image, err = Read(part, part.Size()); err != nil {
			err = fmt.Errorf("section %s: %w", section, err)
		}
		return err
	})
	return image, err
}

// ReadSection gives the bytes of one section as the stub sees them. More than limit bytes
// are an error.
func ReadSection(path, section string, limit int64) (data []byte, err error) {
	err = withFile(path, func(f io.ReaderAt, size int64) error {
		outer, err := parse(f, size)
		if err != nil {
			return err
		}
		part, err := outer.payload(section)
		if err != nil {
			return err
		}
		if part.Size() > limit {
			return fmt.Errorf("section %s has %d bytes, at most %d are read", section, part.Size(), limit)
		}
		data, err = io.ReadAll(part)
		return err
	})
	return data, err
}

// HashSections gives the SHA-256 sums of those of the named sections that a file has, of the
// bytes that the stub sees.
func HashSections(path string, names ...string) (sums map[string][sha256.Size]byte, err error) {
	sums = map[string][sha256.Size]byte{}
	err = withFile(path, func(f io.ReaderAt, size int64) error {
		outer, err := parse(f, size)
		if err != nil {
			return err
		}
		for _, name := range names {
			if !slices.ContainsFunc(outer.sections, func(s Section) bool { return s.Name == name }) {
				continue
			}
			part, err := outer.payload(name)
			if err != nil {
				return err
			}
			hash := sha256.New()
			if _, err := io.Copy(hash, part); err != nil {
				return fmt.Errorf("reading section %s: %w", name, err)
			}
			sums[name] = [sha256.Size]byte(hash.Sum(nil))
		}
		return nil
	})
	return sums, err
}

func withFile(path string, use func(f io.ReaderAt, size int64) error) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("reading a program of the firmware: %w", err)
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = fmt.Errorf("reading %s: %w", path, err)
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("it is no regular file")
	}
	return use(f, info.Size())
}

// Read reads a PE file of a known size.
func Read(r io.ReaderAt, size int64) (Image, error) {
	f, err := parse(r, size)
	if err != nil {
		return Image{}, err
	}
	image := Image{Machine: f.machine, Sections: f.sections}
	if image.SHA256, err = f.hash(); err != nil {
		return Image{}, fmt.Errorf("hashing the file: %w", err)
	}
	if image.Signatures, err = f.signatures(image.SHA256); err != nil {
		return Image{}, err
	}
	return image, nil
}

// file is the layout of a PE file.
type file struct {
	r    io.ReaderAt
	size int64

	machine  uint16
	sections []Section
	// checksum and directory are the places of the two fields that are not hashed; the
	// latter is 0 when the file has no such entry.
	checksum, directory int64
	headers             int64 // SizeOfHeaders
	// certificates is where the signatures lie: at the end of the file.
	certificates, certificatesSize int64
}

// Places in the headers, in bytes.
const (
	dosHeader   = 64
	coffHeader  = 24 // with the signature before it
	sectionSize = 40
	securityDir = 4
)

// parse reads the headers.
func parse(r io.ReaderAt, size int64) (*file, error) {
	if size > MaxSize {
		return nil, fmt.Errorf("it has %d bytes, at most %d are read", size, MaxSize)
	}
	f := &file{r: r, size: size}
	dos, err := f.at(0, dosHeader)
	if err != nil || !bytes.HasPrefix(dos, []byte("MZ")) {
		return nil, ErrNotPE
	}
	le := binary.LittleEndian
	start := int64(le.Uint32(dos[0x3c:]))
	coff, err := f.at(start, coffHeader)
	if err != nil || !bytes.HasPrefix(coff, []byte("PE\x00\x00")) {
		return nil, ErrNotPE
	}
	f.machine = le.Uint16(coff[4:])
	count, optionalSize := int(le.Uint16(coff[6:])), int64(le.Uint16(coff[20:]))
	if count > maxSections {
		return nil, fmt.Errorf("it has %d sections, at most %d are read", count, maxSections)
	}
	optional, err := f.at(start+coffHeader, optionalSize)
	if err != nil {
		return nil, fmt.Errorf("reading its headers: %w", err)
	}
	if err := f.optional(start+coffHeader, optional); err != nil {
		return nil, err
	}
	table := start + coffHeader + optionalSize
	end := table + int64(count)*sectionSize
	if f.headers < end || f.headers > maxHeaders || f.headers > size {
		return nil, fmt.Errorf("its headers are said to have %d bytes, but they have %d, and the file %d", f.headers, end, size)
	}
	raw, err := f.at(table, int64(count)*sectionSize)
	if err != nil {
		return nil, fmt.Errorf("reading its sections: %w", err)
	}
	for ; len(raw) > 0; raw = raw[sectionSize:] {
		f.sections = append(f.sections, Section{
			Name: strings.TrimRight(string(raw[:8]), "\x00"), Size: le.Uint32(raw[8:]),
			Stored: le.Uint32(raw[16:]), Offset: le.Uint32(raw[20:]),
		})
	}
	return f, f.inOrder()
}

// optional reads the header that is optional for objects and never for programs.
func (f *file) optional(start int64, data []byte) error {
	le := binary.LittleEndian
	var directories int // where their number stands
	switch {
	case len(data) >= 96 && le.Uint16(data) == 0x10b:
		directories = 92
	case len(data) >= 112 && le.Uint16(data) == 0x20b:
		directories = 108
	default:
		return errors.New("its optional header is of no kind that is known")
	}
	f.checksum, f.headers = start+64, int64(le.Uint32(data[60:]))
	at := directories + 4 + 8*securityDir
	if le.Uint32(data[directories:]) <= securityDir {
		return nil
	}
	if len(data) < at+8 {
		return errors.New("its optional header is cut off")
	}
	f.directory = start + int64(at)
	f.certificates, f.certificatesSize = int64(le.Uint32(data[at:])), int64(le.Uint32(data[at+4:]))
	if f.certificatesSize == 0 {
		f.certificates = f.size
	}
	return nil
}

// inOrder refuses files of which some bytes could be hashed twice or not at all.
func (f *file) inOrder() error {
	if f.directory == 0 {
		f.certificates = f.size
	}
	if f.certificates < 0 || f.certificates+f.certificatesSize != f.size {
		return fmt.Errorf("its signatures are said to lie at %d with %d bytes, which is not the end of the file", f.certificates, f.certificatesSize)
	}
	end := f.headers
	for _, s := range f.stored() {
		if int64(s.Offset) < end {
			return fmt.Errorf("its section %q overlaps what is before it", s.Name)
		}
		end = int64(s.Offset) + int64(s.Stored)
	}
	if end > f.certificates {
		return errors.New("its sections reach beyond the end of the file or into its signatures")
	}
	return nil
}

// stored gives the sections that have bytes in the file, by place.
func (f *file) stored() []Section {
	list := slices.DeleteFunc(slices.Clone(f.sections), func(s Section) bool { return s.Stored == 0 })
	slices.SortStableFunc(list, func(a, b Section) int { return cmp.Compare(a.Offset, b.Offset) })
	return list
}

func (f *file) at(offset, length int64) ([]byte, error) {
	if offset < 0 || length < 0 || offset > f.size || length > f.size-offset {
		return nil, io.ErrUnexpectedEOF
	}
	data := make([]byte, length)
	_, err := io.ReadFull(io.NewSectionReader(f.r, offset, length), data)
	return data, err
}

// hash is the Authenticode hash.
func (f *file) hash() (sum [sha256.Size]byte, err error) {
	h := sha256.New()
	part := func(from, to int64) {
		if err == nil && to > from {
			_, err = io.Copy(h, io.NewSectionReader(f.r, from, to-from))
		}
	}
	part(0, f.checksum)
	if f.directory == 0 {
		part(f.checksum+4, f.headers)
	} else {
		part(f.checksum+4, f.directory)
		part(f.directory+8, f.headers)
	}
	hashed := f.headers
	for _, s := range f.stored() {
		part(int64(s.Offset), int64(s.Offset)+int64(s.Stored))
		hashed += int64(s.Stored)
	}
	// What lies behind is counted from the number of bytes hashed, not from the last
	// section: that is the rule, although gaps between sections then count in part.
	part(hashed, f.certificates)
	return [sha256.Size]byte(h.Sum(nil)), err
}

// payload gives a section as it is in memory.
func (f *file) payload(name string) (*io.SectionReader, error) {
	for _, s := range f.sections {
		if s.Name != name {
			continue
		}
		if s.Size > s.Stored {
			return nil, fmt.Errorf("its section %s has %d bytes, of which the file has %d", name, s.Size, s.Stored)
		}
		return io.NewSectionReader(f.r, int64(s.Offset), int64(s.Size)), nil
	}
	return nil, fmt.Errorf("it has no section %s", name)
}
