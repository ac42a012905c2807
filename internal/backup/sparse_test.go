package backup_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/holdfast-os/holdfast/internal/backup"
	"github.com/holdfast-os/holdfast/test/needs"
)

// Holes of a sparse file stand in no byte of the archive: 300 bytes of it unpack to a
// gigabyte, behind the back of every limit on what is unpacked.
func TestScan_SparseFileOfTar_IsRefused(t *testing.T) {
	needs.Programs(t, "tar")
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "f"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(1<<30), f.Close()); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"posix 1.0": {"--format=posix", "--sparse-version=1.0"}, "posix 0.1": {"--format=posix", "--sparse-version=0.1"},
		"posix 0.0": {"--format=posix", "--sparse-version=0.0"}, "gnu": {"--format=gnu"},
	} {
		var archive bytes.Buffer
		zipped := gzip.NewWriter(&archive)
		tar := exec.Command("tar", append(args, "-C", dir, "-S", "-c", "f")...)
		tar.Stdout, tar.Stderr = zipped, os.Stderr
		if err := errors.Join(tar.Run(), zipped.Close()); err != nil {
			t.Fatal(err)
		}
		_, err := backup.Scan(context.Background(), &archive, backup.Rules{Limits: backup.ApplicationLimits}, nil)
		if got := rule(t, err); got != backup.RuleType {
			t.Errorf("%s: rule %q, want %q (%v)", name, got, backup.RuleType, err)
		}
	}
}
