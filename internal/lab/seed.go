package lab

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/media"
	"github.com/holdfast-os/holdfast/internal/seed"
	"github.com/holdfast-os/holdfast/internal/seedsource"
	"github.com/holdfast-os/holdfast/internal/system/qemu"
	"github.com/holdfast-os/holdfast/internal/system/run"
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

// seedFiles are the documents as files, in the order of their names.
func seedFiles(in seedInput) ([]seed.Member, error) {
	members, err := seedMembers(in)
	if err != nil {
		return nil, err
	}
	var files []seed.Member
	for _, name := range slices.Sorted(maps.Keys(members)) {
		raw, err := json.Marshal(members[name])
		if err != nil {
			return nil, fmt.Errorf("encoding the seed member %s: %w", name, err)
		}
		files = append(files, seed.Member{Name: name + ".json", Data: raw})
	}
	return files, nil
}

// sealed seals all documents but the request to install, to a passphrase or else to a new key.
// It gives the strings by which the machine tells its system that key.
func sealed(files []seed.Member, passphrase string) (_ []seed.Member, keys []string, err error) {
	var recipients []string
	if passphrase == "" {
		private, public, err := seed.NewKey()
		if err != nil {
			return nil, nil, fmt.Errorf("sealing the seed: %w", err)
		}
		recipients, keys = []string{public}, []string{seedsource.KeyString + strings.TrimSpace(private)}
	}
	to, err := seed.Recipients(recipients, passphrase)
	if err != nil {
		return nil, nil, fmt.Errorf("sealing the seed: %w", err)
	}
	out := slices.Clone(files)
	for i, file := range files {
		if file.Name == "install.json" {
			continue
		}
		if out[i], err = seed.Seal(file.Name, file.Data, to...); err != nil {
			return nil, nil, fmt.Errorf("sealing the seed: %w", err)
		}
	}
	return out, keys, nil
}

// seedArchive is the tar that goes to the seed's place on the medium.
func seedArchive(files []seed.Member) ([]byte, error) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, file := range files {
		header := &tar.Header{Name: file.Name, Mode: 0o600, Size: int64(len(file.Data)), Format: tar.FormatUSTAR, ModTime: time.Unix(0, 0)}
		if err := w.WriteHeader(header); err != nil {
			return nil, fmt.Errorf("writing the seed member %s: %w", file.Name, err)
		}
		if _, err := w.Write(file.Data); err != nil {
			return nil, fmt.Errorf("writing the seed member %s: %w", file.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("writing the seed: %w", err)
	}
	return archive.Bytes(), nil
}

// makeStick makes a file system with the documents, as a person would on a stick or a disc.
func (u *up) makeStick(ctx context.Context, files []seed.Member) error {
	dir, err := os.MkdirTemp(string(u.d), "seed-")
	if err != nil {
		return fmt.Errorf("making the seed's stick: %w", err)
	}
	defer os.RemoveAll(dir)
	stick := u.d.file(stickFile)
	label := seedsource.LabelSeed
	if u.o.Hardware.SeedStick == NoCloud {
		label = "CIDATA"
		if files, err = userData(files); err != nil {
			return err
		}
	}
	args := []string{"-i", stick}
	for _, file := range files {
		path := filepath.Join(dir, file.Name)
		if err := os.WriteFile(path, file.Data, 0o600); err != nil {
			return fmt.Errorf("making the seed's stick: %w", err)
		}
		args = append(args, path)
	}
	commands := []run.Command{u.tools.Command("xorriso", "-as", "mkisofs", "-quiet", "-R", "-V", label, "-o", stick, dir)}
	if u.o.Hardware.SeedStick == FAT {
		if err := os.WriteFile(stick, nil, 0o600); err != nil {
			return fmt.Errorf("making the seed's stick: %w", err)
		}
		if err := os.Truncate(stick, stickSize); err != nil {
			return fmt.Errorf("making the seed's stick: %w", err)
		}
		commands = []run.Command{
			u.tools.Command("mformat", "-i", stick, "-F", "-v", label, "::"),
			u.tools.Command("mcopy", append(args, "::")...),
		}
	}
	for _, command := range commands {
		if _, err := u.runner(ctx, command); err != nil {
			return fmt.Errorf("making the seed's stick: %w", err)
		}
	}
	return nil
}

// userData are the files of a NoCloud disc that has the documents.
func userData(files []seed.Member) ([]seed.Member, error) {
	documents := map[string]json.RawMessage{}
	for _, file := range files {
		name, ok := strings.CutSuffix(file.Name, ".json")
		if !ok {
			return nil, fmt.Errorf("making user data: %s is sealed, which the lab does not put there", file.Name)
		}
		documents[name] = file.Data
	}
	text, err := json.Marshal(object{"holdfast": documents}) // JSON is YAML
	if err != nil {
		return nil, fmt.Errorf("making user data: %w", err)
	}
	return []seed.Member{
		{Name: "user-data", Data: append([]byte("#cloud-config\n"), text...)},
		{Name: "meta-data", Data: []byte("instance-id: lab\n")},
	}, nil
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
		whole := make([]byte, rewrite.Size) // fresh may be shorter, or be old itself
		copy(whole, fresh)
		if _, err := file.WriteAt(whole, rewrite.Offset); err != nil {
			return fmt.Errorf("making a CD of the medium: %w", err)
		}
	}
	return nil
}
