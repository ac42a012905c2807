package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// moduleLine tells the project's folder from others with Go code.
const moduleLine = "module github.com/holdfast-os/holdfast\n"

// projectRoot is the project's folder: the working directory or the nearest above it
// that holds the project's go.mod. HOLDFAST_ROOT, where it is set, is taken as it is.
func projectRoot() (string, error) {
	if root := os.Getenv("HOLDFAST_ROOT"); root != "" {
		return filepath.Abs(root)
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the project's folder: %w", err)
	}
	return findRoot(dir)
}

func findRoot(dir string) (string, error) {
	for {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(text, []byte(moduleLine)) {
			return dir, nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("finding the project's folder: %w", err)
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", withTry(errors.New("this folder is not within the Holdfast project"),
				"change to a clone of the project, or set HOLDFAST_ROOT to its folder")
		}
		dir = parent
	}
}
