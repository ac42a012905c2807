package media

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/layout"
)

func hexSum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// Compared is a part of a release that was looked for in an image.
type Compared struct {
	// Name is the part's, as in the manifest.
	Name string `json:"name"`
	// Place is where it was looked for, as "partition 5" or "EFI/Linux/Holdfast_1.efi".
	Place string `json:"place"`
	// Problem says why the image does not have it; empty when it does.
	Problem string `json:"problem,omitempty"`
}

// Compare looks for the parts of a release in an image: the partitions of slot A and the
// UKI. Applications are no part of an image, and the seed is none of a release. Every file on
// the ESP beside the UKI, the boot loader and its settings and keys is a difference: firmware,
// boot loader or stub could take it up. Of those a manifest says nothing: the boot loader must
// be signed by a certificate that has signed the UKI of the release, the keys must be such
// certificates alone, and the settings may not choose what is started. Which of the boot
// loaders that this signer ever made it is cannot be told. An error is an image that cannot
// be compared at all.
func Compare(ctx context.Context, image io.ReaderAt, size int64, prove Prover, m release.Manifest) ([]Compared, error) {
	table, err := ReadTable(image, size)
	if err != nil {
		return nil, err
	}
	kind, err := table.KindOf()
	if err != nil {
		return nil, err
	}
	if kind.Version != m.Version || kind.Architecture != m.Architecture {
		return nil, fmt.Errorf("the image is release %.40q for %s, and the manifest is of %s for %s: take the manifest of that release", kind.Version, kind.Architecture, m.Version, m.Architecture)
	}
	files, err := espFiles(image, table)
	if err != nil {
		return nil, err
	}
	var result []Compared
	expected := map[string]bool{}
	boot := bootFiles{prove: prove}
	for _, part := range m.Parts {
		var where string
		var data *io.SectionReader
		if part.Type == release.TypeUpdateEFI {
			where = ukiFolder + part.Name
			expected[strings.ToLower(where)] = true
			data = fileNamed(files, where)
		} else if number, ok := slotParts[part.Type]; ok {
			where = fmt.Sprintf("partition %d", number)
			if p, ok := table.Find(number); ok {
				data = io.NewSectionReader(image, p.Start, p.Size)
			}
		} else {
			continue
		}
		problem, err := comparePart(ctx, data, part, part.Type != release.TypeUpdateEFI)
		if err != nil {
			return nil, fmt.Errorf("reading %s of the image: %w", where, err)
		}
		if part.Type == release.TypeUpdateEFI && problem == "" {
			boot.signedBy(data)
		}
		result = append(result, Compared{part.Name, where, problem})
	}
	for _, kind := range []release.Type{release.TypeUpdateEFI, release.TypeUpdateUsr, release.TypeUpdateUsrVerity, release.TypeUpdateUsrSignature} {
		if !slices.ContainsFunc(m.Parts, func(p release.Part) bool { return p.Type == kind }) {
			return nil, fmt.Errorf("the manifest names no part of the type %s: it is not that of a whole release", kind)
		}
	}
	for _, f := range files {
		if name := strings.ToLower(f.path); !expected[name] {
			if problem := boot.check(name, f.data); problem != "" {
				result = append(result, Compared{f.path, f.path, problem})
			}
		}
	}
	return result, nil
}

const ukiFolder = "EFI/Linux/"

// slotParts are the partitions that parts of a release become.
var slotParts = map[release.Type]int{
	release.TypeUpdateUsr: layout.UsrA, release.TypeUpdateUsrVerity: layout.VerityA, release.TypeUpdateUsrSignature: layout.SigA,
}

// comparePart gives what is wrong with a part. A partition may go on behind it, with zeros:
// a release leaves out what its content does not use.
func comparePart(ctx context.Context, data *io.SectionReader, part release.Part, partition bool) (string, error) {
	if data == nil {
		return "it is not there", nil
	}
	if data.Size() < part.Size || data.Size() > part.Size && !partition || part.Size < 0 {
		return fmt.Sprintf("it has %d bytes, the release says %d", data.Size(), part.Size), nil
	}
	for at := part.Size; at < data.Size(); at += grain {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		behind := make([]byte, min(grain, data.Size()-at))
		if err := readAt(data, behind, at); err != nil {
			return "", err
		}
		if !isZero(behind) {
			return fmt.Sprintf("something lies behind the %d bytes of the release", part.Size), nil
		}
	}
	sum, err := hashOf(ctx, io.NewSectionReader(data, 0, part.Size))
	if err != nil {
		return "", err
	}
	if sum != part.SHA256 {
		return fmt.Sprintf("its SHA-256 is %s, the release says %.64s", sum, part.SHA256), nil
	}
	return "", nil
}

func hashOf(ctx context.Context, data *io.SectionReader) (string, error) {
	h := sha256.New()
	for at := int64(0); at < data.Size(); at += grain {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		if _, err := io.Copy(h, io.NewSectionReader(data, at, min(grain, data.Size()-at))); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// espFiles lists the files of the ESP.
func espFiles(image io.ReaderAt, t Table) ([]espFile, error) {
	esp, ok := t.Find(layout.ESP)
	if !ok {
		return nil, fmt.Errorf("%w: there is no ESP", ErrNotImage)
	}
	files, err := readFAT(io.NewSectionReader(image, esp.Start, esp.Size), esp.Size)
	if err != nil {
		return nil, fmt.Errorf("reading the ESP: %w", err)
	}
	return files, nil
}

// fileNamed gives a file; FAT does not know small letters from capital ones.
func fileNamed(files []espFile, path string) *io.SectionReader {
	for _, f := range files {
		if strings.EqualFold(f.path, path) {
			return f.data
		}
	}
	return nil
}
