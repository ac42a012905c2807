package packages_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/packages"
)

func gz(data []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(data)
	if err := errors.Join(err, w.Close()); err != nil {
		panic(err)
	}
	return out.Bytes()
}

func zst(data []byte) []byte {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err)
	}
	return w.EncodeAll(data, nil)
}

func tarOf(files ...packages.File) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range files {
		err := w.WriteHeader(&tar.Header{Name: f.Name, Mode: 0o644, Size: int64(len(f.Data)), Typeflag: tar.TypeReg})
		if _, writeErr := w.Write(f.Data); err != nil || writeErr != nil {
			panic(fmt.Sprint(err, writeErr))
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return out.Bytes()
}

// arOf makes a .deb of members.
func arOf(members ...packages.File) []byte {
	out := []byte("!<arch>\n")
	for _, m := range members {
		out = append(out, fmt.Sprintf("%-16s%-12d%-6d%-6d%-8s%-10d`\n", m.Name, 0, 0, 0, "100644", len(m.Data))...)
		out = append(out, m.Data...)
		if len(m.Data)%2 == 1 {
			out = append(out, '\n')
		}
	}
	return out
}

const control = "Package: openssl\nSource: openssl (3.5.1-1)\nVersion: 3.5.1-1+b2\nArchitecture: amd64\n"

var documents = []packages.File{
	{Name: "./usr/bin/openssl", Data: []byte("a program")},
	{Name: "./usr/share/doc/openssl/changelog.Debian.amd64.gz", Data: gz([]byte("openssl (3.5.1-1+b2) sid; urgency=low, binary-only=yes\n\n  * Rebuild.\n\n -- x\n"))},
	{Name: "./usr/share/doc/openssl/changelog.Debian.gz", Data: gz([]byte(changelog))},
	{Name: "./usr/share/doc/openssl/changelog.gz", Data: gz([]byte("3.5.1: CVE-2000-0001\n"))},
	{Name: "./usr/share/doc/openssl/copyright", Data: []byte("free")},
}

var wantChanges = []release.PackageChange{
	{Version: "3.5.1-1+deb13u2", CVEs: []string{"CVE-2026-20001", "CVE-2026-20002"}},
	{Version: "3.5.1-1", CVEs: []string{"CVE-2026-10001"}},
}

// Debian packs with xz, Ubuntu with zstd, and own packages come as they come.
func TestDebs_EachWayOfPacking_TellsWhoItIsAndItsChanges(t *testing.T) {
	calls := []string{}
	members := func(_ context.Context, r io.Reader, pattern string) ([]packages.File, error) {
		calls = append(calls, pattern)
		if data, err := io.ReadAll(r); err != nil || string(data) != "packed" {
			return nil, fmt.Errorf("got %q, %w", data, err)
		}
		if pattern == "./control" {
			return []packages.File{{Name: "./control", Data: []byte(control)}}, nil
		}
		return documents, nil
	}
	debs := packages.Debs{XZ: members}
	for suffix, pack := range map[string]func([]byte) []byte{
		"":     func(b []byte) []byte { return b },
		".gz":  gz,
		".zst": zst,
		".xz":  func([]byte) []byte { return []byte("packed") },
	} {
		t.Run("tar"+suffix, func(t *testing.T) {
			deb := arOf(packages.File{Name: "debian-binary", Data: []byte("2.0")},
				packages.File{Name: "control.tar" + suffix, Data: pack(tarOf(packages.File{Name: "./control", Data: []byte(control)}))},
				packages.File{Name: "data.tar" + suffix, Data: pack(tarOf(documents...))})
			p, err := debs.ControlOf(t.Context(), bytes.NewReader(deb))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(openssl, p); diff != "" {
				t.Error(diff)
			}
			changes, found, err := debs.ChangelogOf(t.Context(), bytes.NewReader(deb))
			if err != nil || !found {
				t.Fatal(found, err)
			}
			if diff := cmp.Diff(wantChanges, changes); diff != "" {
				t.Error(diff)
			}
		})
	}
	if diff := cmp.Diff([]string{"./control", "*/usr/share/doc/*"}, calls); diff != "" {
		t.Error(diff)
	}
}

// A package whose folder of documents is a link to another's has no changelog of its own.
func TestChangelogOf_NoChangelog_SaysSo(t *testing.T) {
	deb := arOf(packages.File{Name: "data.tar", Data: tarOf(documents[0], documents[4])})
	changes, found, err := packages.Debs{}.ChangelogOf(t.Context(), bytes.NewReader(deb))
	if changes != nil || found || err != nil {
		t.Errorf("got %v, %v, %v", changes, found, err)
	}
}

// A broken .deb in the cache of a build is an error, and not a package without CVEs.
func TestDebs_BrokenFile_Refuses(t *testing.T) {
	data := tarOf(documents...)
	whole := arOf(packages.File{Name: "data.tar", Data: data})
	for name, deb := range map[string][]byte{
		"empty":        {},
		"no ar":        []byte("hello, this is text"),
		"no data":      arOf(packages.File{Name: "debian-binary", Data: []byte("2.0\n")}),
		"cut off":      whole[:len(whole)/2],
		"cut member":   arOf(packages.File{Name: "debian-binary", Data: []byte("2.0\n")})[:70],
		"bad size":     bytes.Replace(whole, fmt.Appendf(nil, "%-10d", len(data)), []byte("-1        "), 1),
		"unknown kind": arOf(packages.File{Name: "data.tar.lz", Data: []byte("x")}),
		"bad gzip":     arOf(packages.File{Name: "data.tar.gz", Data: []byte("not packed")}),
		"bad zstd":     arOf(packages.File{Name: "data.tar.zst", Data: []byte("not packed")}),
		"bomb":         arOf(packages.File{Name: "data.tar.zst", Data: zst(tarOf(packages.File{Name: "./usr/share/doc/x1/changelog.gz", Data: make([]byte, 33<<20)}))}),
		"too many":     arOf(make([]packages.File, 20)...),
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := packages.Debs{}.ChangelogOf(t.Context(), bytes.NewReader(deb))
			if !errors.Is(err, packages.ErrFormat) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func FuzzChangelogOf(f *testing.F) {
	f.Add(arOf(packages.File{Name: "data.tar.gz", Data: gz(tarOf(documents...))}))
	f.Add(arOf(packages.File{Name: "data.tar", Data: tarOf(documents...)}))
	f.Fuzz(func(t *testing.T, deb []byte) {
		changes, found, err := packages.Debs{}.ChangelogOf(t.Context(), bytes.NewReader(deb))
		if (err != nil || !found) && changes != nil {
			t.Errorf("%v beside %v, %v", changes, found, err)
		}
	})
}
