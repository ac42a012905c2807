// Package sysext verifies system extension images and merges them into /usr.
//
// An application is a signed sysext: a GPT image of exactly three partitions, a
// read-only file system (root or usr), its dm-verity hash tree, and the signature of
// the tree's root hash. The kernel checks a block only when it is read, and systemd
// accepts unsigned images by default; Verify therefore checks the whole image in
// advance, before it lies where it can be merged:
//
//	GPT          both checksums; every partition inside the file; no overlap;
//	             one data, one verity and one signature partition of one family,
//	             and nothing else (an unsigned usr beside a signed root would be merged)
//	signature    PKCS#7 over the root hash's text, one signer, whose certificate is
//	             in the caller's list (the firmware's db); certificates inside the
//	             image count for nothing
//	hash tree    recomputed over all data blocks and compared with the stored tree,
//	             so one changed byte anywhere is found
//
// Refresh merges what is linked in the extension directory, with an image policy that
// makes systemd refuse whatever is not signed. systemd finds the extension's release
// file by the image's file name, so a link is always named <name>.raw, without version.
package sysext

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

const (
	// DefaultDirectory is where systemd-sysext looks for images that survive a reboot.
	DefaultDirectory = "/var/lib/extensions"
	// SignedPolicy is systemd's image policy that admits signed images alone.
	SignedPolicy = "root=signed+absent:usr=signed+absent:=ignore"
)

// Extensions is the adapter of systemd-sysext on one machine.
type Extensions struct {
	// Run starts programs.
	Run run.Runner
	// Directory holds the links; default DefaultDirectory.
	Directory string
	// Policy is the image policy of a refresh; default SignedPolicy.
	Policy string
	// Certificates gives the DER certificates that may sign an image, freshly read
	// at each verification because an update may add one to the firmware's db.
	Certificates func() ([][]byte, error)
}

// Verify checks the image at path against the machine's certificates; see Verify.
func (e *Extensions) Verify(ctx context.Context, path string) error {
	certificates, err := e.Certificates()
	if err != nil {
		return fmt.Errorf("reading the certificates that may sign %s: %w", path, err)
	}
	_, err = Verify(ctx, path, certificates)
	return err
}

// Same tells whether two images have the same content: the same root hash. Both must have been
// verified; who signed them does not matter.
func (e *Extensions) Same(a, b string) (bool, error) {
	var roots [2]string
	for i, path := range []string{a, b} {
		root, err := rootHash(path)
		if err != nil {
			return false, fmt.Errorf("comparing %s and %s: %w", a, b, err)
		}
		roots[i] = root
	}
	return roots[0] == roots[1], nil
}

func rootHash(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	found, err := readParts(file, info.Size())
	if err != nil {
		return "", err
	}
	document, err := readSignature(found[roleSignature])
	return document.RootHash, err
}

// Link makes name.raw in the extension directory point to image, replacing an older
// link at once. Nothing is merged before Refresh.
func (e *Extensions) Link(name, image string) error {
	link, err := e.link(name)
	if err != nil {
		return err
	}
	if current, err := os.Readlink(link); err == nil && current == image {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		return fmt.Errorf("making the extension directory: %w", err)
	}
	next := filepath.Join(filepath.Dir(link), "."+name+".next")
	if err := os.Remove(next); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing an unfinished link of extension %s: %w", name, err)
	}
	if err := os.Symlink(image, next); err != nil {
		return fmt.Errorf("linking extension %s: %w", name, err)
	}
	if err := os.Rename(next, link); err != nil {
		return fmt.Errorf("linking extension %s: %w", name, err)
	}
	return syncDirectory(filepath.Dir(link))
}

// Unlink removes name.raw from the extension directory; a missing link is no error.
func (e *Extensions) Unlink(name string) error {
	link, err := e.link(name)
	if err != nil {
		return err
	}
	if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("unlinking extension %s: %w", name, err)
	}
	return nil
}

// Linked gives the image that name.raw points to, empty when there is no link.
func (e *Extensions) Linked(name string) (string, error) {
	link, err := e.link(name)
	if err != nil {
		return "", err
	}
	image, err := os.Readlink(link)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("reading the link of extension %s: %w", name, err)
	}
	return image, nil
}

// Refresh merges exactly the linked images into /usr, then makes users and directories
// that they declare and has systemd read their units. The dynamic linker finds the
// libraries in its default directories, so its cache is left alone. Where nothing is linked and
// nothing merged it does nothing: systemd would read all units again.
func (e *Extensions) Refresh(ctx context.Context) error {
	if nothing, err := e.nothing(ctx); err != nil || nothing {
		return err
	}
	policy := e.Policy
	if policy == "" {
		policy = SignedPolicy
	}
	if _, err := e.Run(ctx, run.Command{Name: "systemd-sysext", Args: []string{"refresh", "--image-policy=" + policy}}); err != nil {
		return fmt.Errorf("merging system extensions: %w", err)
	}
	if _, err := e.Run(ctx, run.Command{Name: "systemd-sysusers"}); err != nil {
		return fmt.Errorf("making the users of system extensions: %w", err)
	}
	if _, err := e.Run(ctx, run.Command{Name: "systemd-tmpfiles", Args: []string{"--create"}}); err != nil && !partlyDone(err) {
		return fmt.Errorf("making the directories of system extensions: %w", err)
	}
	if _, err := e.Run(ctx, run.Command{Name: "systemctl", Args: []string{"daemon-reload"}}); err != nil {
		return fmt.Errorf("reading the units of system extensions: %w", err)
	}
	return nil
}

// nothing is true when no image is linked and none is merged.
func (e *Extensions) nothing(ctx context.Context) (bool, error) {
	links, err := os.ReadDir(e.directory())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("listing the linked system extensions: %w", err)
	}
	if len(links) > 0 {
		return false, nil
	}
	merged, err := e.Merged(ctx)
	return err == nil && len(merged) == 0, err
}

// Merged lists the extensions that are part of /usr now, by name.
func (e *Extensions) Merged(ctx context.Context) ([]string, error) {
	result, err := e.Run(ctx, run.Command{Name: "systemd-sysext", Args: []string{"status", "--json=short"}})
	if err != nil {
		return nil, fmt.Errorf("asking for merged system extensions: %w", err)
	}
	return parseStatus(result.Stdout)
}

func (e *Extensions) link(name string) (string, error) {
	if name == "" || name[0] == '.' || strings.ContainsAny(name, "/\x00") {
		return "", fmt.Errorf("extension name %q is not a file name", name)
	}
	return filepath.Join(e.directory(), name+".raw"), nil
}

func (e *Extensions) directory() string {
	if e.Directory == "" {
		return DefaultDirectory
	}
	return e.Directory
}

// parseStatus reads `systemd-sysext status --json=short`: one object per hierarchy,
// whose extensions are a list, or the word "none".
func parseStatus(text []byte) ([]string, error) {
	var hierarchies []struct {
		Hierarchy  string          `json:"hierarchy"`
		Extensions json.RawMessage `json:"extensions"`
	}
	if err := json.Unmarshal(text, &hierarchies); err != nil {
		return nil, fmt.Errorf("reading the status of system extensions: %w", err)
	}
	names := []string{}
	for _, h := range hierarchies {
		if h.Hierarchy != "/usr" || string(h.Extensions) == `"none"` {
			continue
		}
		if err := json.Unmarshal(h.Extensions, &names); err != nil {
			return nil, fmt.Errorf("reading the extensions merged into /usr: %w", err)
		}
	}
	return names, nil
}

// partlyDone is true for the exit codes with which systemd-tmpfiles says that some
// line, possibly of another package, could not be understood (65) or made (73).
func partlyDone(err error) bool {
	code, ok := run.ExitCode(err)
	return ok && (code == 65 || code == 73)
}

func syncDirectory(path string) error {
	directory, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("opening %s to write it to disk: %w", path, err)
	}
	if err := errors.Join(directory.Sync(), directory.Close()); err != nil {
		return fmt.Errorf("writing %s to disk: %w", path, err)
	}
	return nil
}
