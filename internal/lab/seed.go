package lab

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/media"
	"github.com/holdfast-os/holdfast/internal/system/qemu"
)

// ReleaseURL is where a node of the lab finds the release tree of its lab. It is an
// address of QEMU's user network that leads to the lab's own server, and stays the same
// whichever port that has.
const ReleaseURL = "http://" + qemu.ReleaseAddress

// seedInput is what the seed of a lab depends on.
type seedInput struct {
	// ClientCert is the PEM of the certificate the node shall trust.
	ClientCert []byte
	// ReleasePort is where releases are served; without it the seed names no provider. Whom
	// the node trusts with releases is in its image.
	ReleasePort int
	// Replace holds members by base name, as "network"; a nil value leaves one out.
	Replace map[string]any
}

type object = map[string]any

// seedMembers are the documents of the first boot, by base name.
func seedMembers(in seedInput) (map[string]any, error) {
	block, _ := pem.Decode(in.ClientCert)
	if block == nil {
		return nil, errors.New("making the seed: the client certificate is not PEM")
	}
	// Incus wants the certificate of a preseed as base64 without the PEM armour.
	body := base64.StdEncoding.EncodeToString(block.Bytes)
	members := map[string]any{
		"install":      object{"version": "1", "force_reboot": true},
		"applications": object{"version": "1", "applications": []object{{"name": "incus"}}},
		"incus": object{"version": "1", "apply_defaults": true, "preseed": object{
			"config":       object{"core.https_address": ":8443"},
			"certificates": []object{{"name": "lab", "type": "client", "certificate": body}},
		}},
	}
	if in.ReleasePort != 0 {
		members["provider"] = object{"version": "1", "name": "images", "config": object{"server_url": ReleaseURL}}
	}
	for name, document := range in.Replace {
		members[name] = document
		if document == nil {
			delete(members, name)
		}
	}
	return members, nil
}

// seedArchive is the tar that goes to the seed's place on the medium.
func seedArchive(in seedInput) ([]byte, error) {
	members, err := seedMembers(in)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(members))
	for name := range members {
		names = append(names, name)
	}
	sort.Strings(names)
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, name := range names {
		raw, err := json.Marshal(members[name])
		if err != nil {
			return nil, fmt.Errorf("encoding the seed member %s: %w", name, err)
		}
		header := &tar.Header{Name: name + ".json", Mode: 0o600, Size: int64(len(raw)), Format: tar.FormatUSTAR, ModTime: time.Unix(0, 0)}
		if err := w.WriteHeader(header); err != nil {
			return nil, fmt.Errorf("writing the seed member %s: %w", name, err)
		}
		if _, err := w.Write(raw); err != nil {
			return nil, fmt.Errorf("writing the seed member %s: %w", name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("writing the seed: %w", err)
	}
	return archive.Bytes(), nil
}

// buildVersion reads which release a build folder holds.
func buildVersion(buildDir string) (string, error) {
	raw, err := os.ReadFile(filepath.Join(buildDir, "version"))
	if err != nil {
		return "", fmt.Errorf("finding the build: %w (run `make build` first)", err)
	}
	version := strings.TrimSpace(string(raw))
	if !nameForm.MatchString(version) {
		return "", fmt.Errorf("finding the build: %s/version says %.40q, which is not a version", buildDir, version)
	}
	return version, nil
}

// makeMedium copies the medium of the build and writes the seed into the copy.
func makeMedium(path, buildDir, version string, seed []byte) (err error) {
	source := filepath.Join(buildDir, layout.Name+"_"+version+".raw")
	if err := qemu.CopySparse(path, source); err != nil {
		return fmt.Errorf("making the install medium: %w", err)
	}
	medium, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("making the install medium: %w", err)
	}
	defer func() { err = errors.Join(err, medium.Close()) }()
	info, err := medium.Stat()
	if err != nil {
		return fmt.Errorf("making the install medium: %w", err)
	}
	if info.Size() < layout.SeedOffset()+int64(len(seed)) {
		return fmt.Errorf("making the install medium: %s ends before the place of the seed (byte %d)", source, layout.SeedOffset())
	}
	if _, err := medium.WriteAt(seed, layout.SeedOffset()); err != nil {
		return fmt.Errorf("writing the seed to the medium: %w", err)
	}
	return nil
}

// makeCD makes a CD of a medium, in its place.
func makeCD(path string) (err error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("making a CD of the medium: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("making a CD of the medium: %w", err)
	}
	table, err := media.ReadTable(file, info.Size())
	if err != nil {
		return fmt.Errorf("making a CD of the medium: %w", err)
	}
	plan, err := media.ISO(table)
	if err != nil {
		return err
	}
	if err := file.Truncate(plan.Size); err != nil {
		return fmt.Errorf("making a CD of the medium: %w", err)
	}
	for _, rewrite := range plan.Rewrites {
		old := make([]byte, rewrite.Size)
		if _, err := file.ReadAt(old, rewrite.Offset); err != nil {
			return fmt.Errorf("making a CD of the medium: %w", err)
		}
		fresh, err := rewrite.New(old)
		if err != nil {
			return err
		}
		clear(old)
		copy(old, fresh)
		if _, err := file.WriteAt(old, rewrite.Offset); err != nil {
			return fmt.Errorf("making a CD of the medium: %w", err)
		}
	}
	return nil
}
