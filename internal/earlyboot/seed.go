package earlyboot

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/holdfast-os/holdfast/internal/seed"
)

// HasInstallSeed tells whether the seed partition asks for an installation. A broken
// install seed counts too: the installer says what is wrong with it, and a medium
// that meant to install must not start to live on its own disk instead.
func (h Host) HasInstallSeed(_ context.Context, device string) (bool, error) {
	if device == "" {
		return false, errors.New("the system disk has no partition 2 (seed-data): it was not written by Holdfast")
	}
	f, err := os.Open(device)
	if err != nil {
		return false, fmt.Errorf("opening the seed partition: %w", err)
	}
	defer f.Close()
	set, err := seed.Parse(bufio.NewReaderSize(f, 1<<20))
	return set.Install != nil || concernsInstall(err), nil
}

// concernsInstall looks for a problem of a member install.*.
func concernsInstall(err error) bool {
	var problem *seed.Problem
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, each := range joined.Unwrap() {
			if concernsInstall(each) {
				return true
			}
		}
		return false
	}
	return errors.As(err, &problem) && strings.HasPrefix(strings.TrimPrefix(problem.File, "./"), "install.")
}
