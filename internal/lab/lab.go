// Package lab runs Holdfast in virtual machines on this computer, with Secure Boot
// and a TPM, as a person's playground and as the ground of the VM tests.
//
// A lab is one machine under .lab/NAME in the project's folder:
//
//	state.json     what the machine is and how far it came; the owner of all else
//	disk0.raw ...  its disks (disk0.qcow2 once it stands on a snapshot)
//	medium.raw     the install medium with the seed, while it is needed
//	vars.fd tpm/   firmware variables and TPM
//	serial.log     what it wrote to its serial port, all boots
//	qemu.log qemu.pid swtpm.pid release.pid release.log *.sock
//	client.crt client.key server.crt env   how to talk to it
//	snapshot/      the machine as it was when its API first was ready: memory,
//	               disks, variables and TPM, never written again
//
// Up goes through named phases. The first start has empty firmware variables, so
// that the medium enrols the keys of Secure Boot and resets by itself; then it
// installs and resets again. That an installation is over is seen from outside: a
// reset, and a partition table on the disk, which the installer writes last. The
// machine is then started again without the medium. Nothing is concluded from the
// wording of a log.
//
// Every process (QEMU, swtpm, the release server) runs on without the caller and is
// found again by its pid file. One Up at a time works on a lab (a lock); the other
// methods may be used meanwhile.
package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/holdfast-os/holdfast/internal/system/qemu"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/swtpm"
	"github.com/holdfast-os/holdfast/internal/system/tooltree"
)

// DefaultName is the lab that is meant when none is named.
const DefaultName = "default"

// VariantTest is the build whose command line lets a test in; see Exec.
const VariantTest = "test"

// ErrNoLab is returned, wrapped, for a name without a machine.
var ErrNoLab = errors.New("there is no such lab: `holdfast lab up` makes one")

// ErrNotRunning is returned, wrapped, when a machine would have to run.
var ErrNotRunning = errors.New("the machine is not running: `holdfast lab up` starts it")

// Lab is the set of labs of one project.
type Lab struct {
	root   string
	cache  string
	tools  tooltree.Tree
	runner run.Runner
}

// Open takes the project's folder. The error wraps tooltree.ErrMissing when QEMU and
// its companions have not been fetched yet.
func Open(root string) (*Lab, error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("opening the labs of %s: %w", root, err)
	}
	cache, err := tooltree.CacheDir()
	if err != nil {
		return nil, err
	}
	tools, err := tooltree.Open(filepath.Join(cache, "tools"))
	if err != nil {
		return nil, err
	}
	return &Lab{root: abs, cache: cache, tools: tools, runner: run.Host}, nil
}

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)

// dir is the folder of one lab.
type dir string

func (d dir) file(name string) string { return filepath.Join(string(d), name) }

func (d dir) tpm() swtpm.TPM {
	return swtpm.TPM{Dir: d.file("tpm"), Socket: d.file("tpm.sock"), PIDFile: d.file("swtpm.pid")}
}

func (l *Lab) dir(name string) (dir, error) {
	if name == "" {
		name = DefaultName
	}
	if !nameForm.MatchString(name) {
		return "", fmt.Errorf("lab name %q: use up to 64 letters, digits and . _ -", name)
	}
	return dir(filepath.Join(l.root, ".lab", name)), nil
}

// stage is how far a machine has come; each follows the one before it.
type stage string

const (
	stageInstalling stage = "installing"
	stageInstalled  stage = "installed"
	stageReady      stage = "ready"
)

// stateVersion is the number of the form of state.json.
const stateVersion = 1

// state is what a lab remembers.
type state struct {
	Version int `json:"version"`
	// Release is the version of the build it was installed from.
	Release string `json:"release"`
	Variant string `json:"variant,omitempty"`
	Stage   stage  `json:"stage"`
	// APIPort and ReleasePort are on 127.0.0.1. The node's seed names ReleasePort,
	// so it stays the same for the life of the machine; 0 means no release server.
	APIPort     int    `json:"api_port"`
	ReleasePort int    `json:"release_port,omitempty"`
	ReleaseDir  string `json:"release_dir,omitempty"`
	// Machine is exactly what QEMU was started with; a snapshot fits no other.
	Machine qemu.Machine `json:"machine"`
	Made    time.Time    `json:"made"`
}

// loadState reads the state from path; the error wraps ErrNoLab when there is none.
func loadState(path string) (state, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return state{}, fmt.Errorf("lab %s: %w", filepath.Base(filepath.Dir(path)), ErrNoLab)
	}
	if err != nil {
		return state{}, fmt.Errorf("reading the state of the lab: %w", err)
	}
	defer func() { _ = file.Close() }() // only read
	var s state
	if err := json.NewDecoder(io.LimitReader(file, 1<<20)).Decode(&s); err != nil {
		return state{}, fmt.Errorf("reading %s: %w (start again with --fresh)", path, err)
	}
	if s.Version != stateVersion {
		return state{}, fmt.Errorf("reading %s: version %d, known is %d (start again with --fresh)", path, s.Version, stateVersion)
	}
	return s, nil
}

func (s state) save(path string) error {
	s.Version = stateVersion
	raw, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the state of the lab: %w", err)
	}
	return writeFile(path, append(raw, '\n'))
}

// writeFile replaces a file in one step, mode 0600.
func writeFile(path string, content []byte) error {
	next := path + ".new"
	if err := os.WriteFile(next, content, 0o600); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.Rename(next, path); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// accelerator tells what works on this computer, and remembers it for an hour.
func (l *Lab) accelerator(ctx context.Context) (qemu.Accel, error) {
	type answer struct {
		Accel qemu.Accel `json:"accel"`
		Why   string     `json:"why"`
		At    time.Time  `json:"at"`
	}
	folder := filepath.Join(l.root, ".lab")
	path := filepath.Join(folder, "accel.json")
	var known answer
	if raw, err := os.ReadFile(path); err == nil && json.Unmarshal(raw, &known) == nil {
		if age := time.Since(known.At); age >= 0 && age < time.Hour && (known.Accel == qemu.KVM || known.Accel == qemu.TCG) {
			return known.Accel, nil
		}
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return "", fmt.Errorf("making the folder of the labs: %w", err)
	}
	accel, why, err := qemu.Probe(ctx, l.runner, l.tools, folder)
	if err != nil {
		return "", err
	}
	raw, err := json.Marshal(answer{accel, why, time.Now()})
	if err != nil {
		return "", fmt.Errorf("remembering the accelerator: %w", err)
	}
	return accel, writeFile(path, raw)
}
