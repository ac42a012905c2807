package delta_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/holdfast-os/holdfast/internal/delta"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/zstd"
	"github.com/holdfast-os/holdfast/test/needs"
)

// The way that a release takes: patches are made by the zstd program and applied by the
// Go package. An image in which every file has moved, and some bytes in each page of half of it
// have changed, costs a small part of itself.
func TestApply_PatchOfTheProgram_GivesTheNewFile(t *testing.T) {
	needs.Programs(t, "zstd")
	old := make([]byte, 10<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(old) // cannot fail
	result := append(bytes.Clone(old[4<<20+77:]), old[:4<<20+77]...)
	for at := 0; at < len(result)/2; at += 4096 {
		result[at]++
	}
	var patch, out bytes.Buffer
	limits, err := delta.Make(context.Background(), section(old), section(result), &patch,
		delta.Options{Compress: zstd.Zstd{Run: run.Host, Dir: t.TempDir()}.Patch, Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	want := delta.Limits{
		Base:   delta.File{Size: 10 << 20, SHA256: sha256.Sum256(old)},
		Result: delta.File{Size: 10 << 20, SHA256: sha256.Sum256(result)},
	}
	if limits != want {
		t.Errorf("got %+v, want %+v", limits, want)
	}
	if patch.Len() > 100_000 {
		t.Errorf("the patch has %d bytes, want at most 1 %% of the file", patch.Len())
	}
	if err := delta.Apply(context.Background(), &patch, bytes.NewReader(old), &out, limits); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), result) {
		t.Error("the result is another file")
	}
}

func section(data []byte) *io.SectionReader {
	return io.NewSectionReader(bytes.NewReader(data), 0, int64(len(data)))
}
