package backup_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/holdfast-os/holdfast/internal/backup"
)

// manifestAlone is an archive with nothing in it but a manifest: size bytes, one text at the
// beginning and one again and again.
func manifestAlone(t *testing.T, head, again string, size int) []byte {
	t.Helper()
	var b bytes.Buffer
	zipped, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	archive := tar.NewWriter(zipped)
	if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: backup.ManifestName, Mode: 0o600, Size: int64(size)}); err != nil {
		t.Fatal(err)
	}
	block := strings.Repeat(again, 1+(1<<20)/len(again))
	if _, err := io.WriteString(archive, head); err != nil {
		t.Fatal(err)
	}
	for left := size - len(head); left > 0; left -= len(block) {
		if _, err := io.WriteString(archive, block[:min(left, len(block))]); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(archive.Close(), zipped.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// The node and the command line read a manifest before they know who made it: one that packs
// well must not take their memory.
func TestScan_ManifestThatUnpacksToMuch_TakesLittleMemory(t *testing.T) {
	const long = 62 << 20
	for name, c := range map[string]struct {
		limits      backup.Limits
		head, again string
		size        int
		most        uint64 // bytes that are allocated in all
		want        string
	}{
		"system, much too long":      {backup.SystemLimits, `{"members":[{}`, `,{}`, long, 4 << 20, "limit"},
		"system, as long as it may":  {backup.SystemLimits, `{"members":[{}`, `,{}`, 1 << 20, 4 << 20, "limit"},
		"many members":               {backup.ApplicationLimits, `{"members":[{}`, `,{}`, long, 160 << 20, "limit"},
		"many names that are left":   {backup.ApplicationLimits, `{"left_out":[""`, `,""`, long, 80 << 20, "limit"},
		"many cards":                 {backup.ApplicationLimits, `{"cards":[{}`, `,{}`, long, 80 << 20, "limit"},
		"one long text":              {backup.ApplicationLimits, `{"release":"`, `a`, long, 4 << 20, "limit"},
		"a long list nobody knows":   {backup.ApplicationLimits, `{"later":[1`, `,1`, long, 4 << 20, "limit"},
		"deep":                       {backup.ApplicationLimits, `{"later":`, `[`, long, 4 << 20, "format"},
		"many fields":                {backup.ApplicationLimits, `{"a":1`, `,"a":1`, long, 4 << 20, "limit"},
		"lists again and again":      {backup.ApplicationLimits, `{"cards":[]`, `,"cards":[]`, long, 4 << 20, "limit"},
		"a text in the list's place": {backup.ApplicationLimits, `{"members":"`, `a`, 1 << 10, 4 << 20, "format"},
		"no object":                  {backup.ApplicationLimits, `[{}`, `,{}`, 1 << 10, 4 << 20, "format"},
		"cut":                        {backup.SystemLimits, `{"members":[{}`, `,{}`, 1 << 10, 4 << 20, "format"},
	} {
		archive := manifestAlone(t, c.head, c.again, c.size)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := backup.Scan(context.Background(), bytes.NewReader(archive), backup.Rules{Limits: c.limits}, nil)
		runtime.ReadMemStats(&after)
		took := after.TotalAlloc - before.TotalAlloc
		if got := rule(t, err); got != c.want || took > c.most {
			t.Errorf("%s: rule %q, want %q; %d bytes, at most %d (%v)", name, got, c.want, took, c.most, err)
		}
	}
}
