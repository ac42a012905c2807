package earlyboot

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/holdfast-os/holdfast/internal/seed"
)

// HasInstallSeed tells whether the seed partition asks for an installation: whether
// its archive has a member install.json, install.yaml or install.yml. What the member
// says does not matter here. A broken one counts too: the installer says what is
// wrong with it, and a medium that meant to install must not start to live on its own
// disk instead. An archive that breaks off before such a member is an error.
func (h Host) HasInstallSeed(_ context.Context, device string) (bool, error) {
	if device == "" {
		return false, errors.New("the system disk has no partition 2 (seed-data): it was not written by Holdfast")
	}
	f, err := os.Open(device)
	if err != nil {
		return false, fmt.Errorf("opening the seed partition: %w", err)
	}
	defer f.Close()
	return hasInstallMember(bufio.NewReaderSize(f, 1<<20))
}

func hasInstallMember(r *bufio.Reader) (bool, error) {
	// The magic word is at byte 257; without it there is no archive, only old bytes.
	head, err := r.Peek(262)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	if len(head) < 262 || string(head[257:]) != "ustar" {
		return false, nil
	}
	archive := tar.NewReader(io.LimitReader(r, seed.MaxArchive))
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("the archive is damaged: write it again: %w", err)
		}
		name := strings.TrimPrefix(header.Name, "./")
		if slices.Contains([]string{"install.json", "install.yaml", "install.yml"}, path.Clean(name)) {
			return true, nil
		}
	}
}
