package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Where the files are, in the module.
const (
	embeddedFile = "internal/apidoc/openapi.yaml"
	openAPIFile  = "docs/reference/openapi.yaml"
	pagesFolder  = "docs/reference/api"
	cliFile      = "docs/reference/cli.md"
)

// stale gives the files whose text is not what it should be, and the pages that no
// resource has any more.
func stale(root string, want map[string][]byte) ([]string, error) {
	var found []string
	for name, text := range want {
		have, err := os.ReadFile(filepath.Join(root, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("reading a file of the reference: %w", err)
		}
		if err != nil || !bytes.Equal(have, text) {
			found = append(found, name)
		}
	}
	more, err := leftOver(root, want)
	found = append(found, more...)
	slices.Sort(found)
	return found, err
}

// leftOver gives the pages that this tool once made and makes no more.
func leftOver(root string, want map[string][]byte) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(root, pagesFolder))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the folder of the reference: %w", err)
	}
	var found []string
	for _, entry := range entries {
		name := pagesFolder + "/" + entry.Name()
		if want[name] != nil || !strings.HasSuffix(name, ".md") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return nil, fmt.Errorf("reading a file of the reference: %w", err)
		}
		if bytes.HasPrefix(text, []byte(comment())) {
			found = append(found, name)
		}
	}
	return found, nil
}

// write brings the stale files up to date and gives their names.
func write(root string, want map[string][]byte) ([]string, error) {
	names, err := stale(root, want)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		file := filepath.Join(root, name)
		if want[name] == nil {
			if err := os.Remove(file); err != nil {
				return nil, fmt.Errorf("removing a page of a resource that is gone: %w", err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return nil, fmt.Errorf("making a folder of the reference: %w", err)
		}
		if err := os.WriteFile(file, want[name], 0o644); err != nil {
			return nil, fmt.Errorf("writing a file of the reference: %w", err)
		}
	}
	return names, nil
}
