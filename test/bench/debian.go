package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/holdfast-os/holdfast/internal/system/qemu"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/swtpm"
)

const (
	// debianLab is the folder of the machine that is compared with. It is no lab: the
	// lab knows nothing but Holdfast.
	debianLab = labPrefix + "debian"
	// debianLimit bounds one start, offLimit switching off; pressAgain is how long the power
	// button may have no effect.
	debianLimit = 12 * time.Minute
	offLimit    = 3 * time.Minute
	pressAgain  = 20 * time.Second
)

// debianImage builds the Debian when it is not there, and gives its folder.
func (b *bench) debianImage(ctx context.Context) (string, error) {
	fmt.Fprintln(os.Stderr, "building the Debian that is compared with, if it is not there (2 min) ...")
	result, err := b.runner(ctx, run.Command{
		Name: filepath.Join(b.root, "test", "bench", "debian", "build"), Dir: b.root, Env: []string{"HOLDFAST_ROOT=" + b.root},
	})
	if err != nil {
		return "", fmt.Errorf("building the Debian that is compared with: %w", err)
	}
	lines := strings.Split(strings.TrimSpace(string(result.Stdout)), "\n")
	return lines[len(lines)-1], nil
}

// debian is the machine that is compared with.
type debian struct {
	b   *bench
	dir string
	m   qemu.Machine
}

// newDebian makes the machine: that of a lab which is off, with another disk. Firmware
// variables and TPM are copies of the lab's.
func (b *bench) newDebian(image, labDir string) (*debian, error) {
	model, err := labMachine(labDir)
	if err != nil {
		return nil, err
	}
	d := &debian{b: b, dir: b.labDir(debianLab)}
	if err := os.MkdirAll(filepath.Join(d.dir, "tpm"), 0o700); err != nil {
		return nil, fmt.Errorf("making the machine with Debian: %w", err)
	}
	raw := filepath.Join(image, "debian.raw")
	size, err := qemu.ImageSize(raw, "raw")
	if err != nil {
		return nil, err
	}
	d.m = debianMachine(model, d.dir)
	if err := qemu.MakeOverlay(d.m.Disks[0].Path, raw, "raw", size); err != nil {
		return nil, err
	}
	if err := qemu.CopySparse(d.m.Vars, model.Vars); err != nil {
		return nil, fmt.Errorf("copying the firmware variables: %w", err)
	}
	parts, err := filepath.Glob(filepath.Join(labDir, "tpm", "tpm2-*"))
	if err != nil || len(parts) == 0 {
		return nil, fmt.Errorf("copying the TPM: %s holds none", labDir)
	}
	for _, part := range parts {
		if err := qemu.CopySparse(filepath.Join(d.dir, "tpm", filepath.Base(part)), part); err != nil {
			return nil, fmt.Errorf("copying the TPM: %w", err)
		}
	}
	return d, nil
}

// labMachine reads what a lab's machine is made of.
func labMachine(labDir string) (qemu.Machine, error) {
	raw, err := os.ReadFile(filepath.Join(labDir, "state.json"))
	if err != nil {
		return qemu.Machine{}, fmt.Errorf("reading the machine of the lab: %w", err)
	}
	var state struct {
		Machine qemu.Machine `json:"machine"`
	}
	if err := json.Unmarshal(raw, &state); err != nil {
		return qemu.Machine{}, fmt.Errorf("reading the machine of the lab: %w", err)
	}
	if len(state.Machine.Disks) != 1 || state.Machine.Vars == "" || state.Machine.TPM == "" {
		return qemu.Machine{}, errors.New("reading the machine of the lab: it has not one disk, firmware variables and a TPM")
	}
	return state.Machine, nil
}

// debianMachine is the model with all its files in another folder. Nobody calls it, so
// no port leads into it and no server waits for it.
func debianMachine(model qemu.Machine, dir string) qemu.Machine {
	file := func(name string) string { return filepath.Join(dir, name) }
	m := model
	m.Name = "holdfast-" + debianLab
	m.Serial, m.QMP, m.Events = file("serial.log"), file("qmp.sock"), file("events.sock")
	m.PIDFile, m.Log, m.Vars, m.TPM = file("qemu.pid"), file("qemu.log"), file("vars.fd"), file("tpm.sock")
	m.APIPort, m.Release = 0, ""
	disk := model.Disks[0]
	disk.Path, disk.Format = file("disk0.qcow2"), "qcow2"
	m.Disks = []qemu.Disk{disk}
	return m
}

func tpmOf(dir string) swtpm.TPM {
	return swtpm.TPM{Dir: filepath.Join(dir, "tpm"), Socket: filepath.Join(dir, "tpm.sock"), PIDFile: filepath.Join(dir, "swtpm.pid")}
}

// boot starts the machine, waits until multi-user.target is reached, and switches it
// off again.
func (d *debian) boot(ctx context.Context) (took float64, parts startup, err error) {
	ctx, cancel := context.WithTimeout(ctx, debianLimit)
	defer cancel()
	after := logSize(d.m.Serial)
	begun := time.Now()
	if err := swtpm.Start(ctx, d.b.runner, d.b.tools, tpmOf(d.dir)); err != nil {
		return 0, startup{}, err
	}
	if err := qemu.Start(ctx, d.b.runner, d.b.tools, d.m); err != nil {
		return 0, startup{}, err
	}
	var words, last string
	err = watchSerial(ctx, d.m.Serial, after, func(l line) bool {
		if took == 0 && strings.Contains(l.Text, "Reached target") && strings.Contains(l.Text, "multi-user.target") {
			took = l.At.Sub(begun).Seconds()
		}
		if strings.Contains(l.Text, startupWords) {
			words = l.Text
		}
		last = l.Text
		return took == 0 || words == ""
	})
	if err != nil {
		return 0, startup{}, fmt.Errorf("starting Debian: %w; it said last: %.200q", err, last)
	}
	if parts, err = parseStartup(words); err != nil {
		return 0, startup{}, err
	}
	parts.Ready = parts.Kernel + parts.Initrd + parts.Userspace
	fmt.Fprintf(os.Stderr, "Debian                 %7.1f s\n", took)
	return took, parts, d.off(ctx)
}

// off presses the power button until the machine ends: Debian drops what is pressed before
// its systemd-logind has found the button, which may be after multi-user.target.
func (d *debian) off(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, offLimit)
	defer cancel()
	c, err := qemu.Dial(ctx, d.m.QMP)
	if err != nil {
		return fmt.Errorf("switching Debian off: %w", err)
	}
	defer func() { _ = c.Close() }() // it ends with the machine
	for {
		if err := c.PowerDown(ctx); err != nil {
			if _, alive := qemu.Running(d.m.PIDFile); !alive {
				return nil
			}
			return fmt.Errorf("switching Debian off: %w", err)
		}
		pressed, cancel := context.WithTimeout(ctx, pressAgain)
		err := qemu.WaitEnd(pressed, d.m.PIDFile)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("switching Debian off by its power button: %w", err)
		}
	}
}

func (d *debian) remove(ctx context.Context) error { return endDebian(ctx, d.dir) }

// endDebian ends the machine and deletes it; one that is not there is fine. Its TPM
// ends with it.
func endDebian(ctx context.Context, dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := qemu.Kill(ctx, filepath.Join(dir, "qemu.pid")); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("removing the machine with Debian: %w", err)
	}
	return nil
}

// fileMegabytes is the size of a file, "?" when it is not there.
func fileMegabytes(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return "?"
	}
	return megabytes(info.Size())
}
