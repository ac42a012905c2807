// Package installer installs this machine: it gathers the facts, asks
// internal/install for a verdict and a plan, and carries the plan out on the real
// disk and firmware. The daemon calls Run once, when the seed asks for it.
//
// What is read: lsblk, the partition table and mark of every possible target, the
// firmware's variables, the TPM's version, the medium. What is written: the target
// disk, one boot entry and one note in the firmware. The medium is never written.
package installer

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/holdfast-os/holdfast/internal/install"
	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/netboot"
	"github.com/holdfast-os/holdfast/internal/rescue"
	"github.com/holdfast-os/holdfast/internal/seed"
	"github.com/holdfast-os/holdfast/internal/seedsource"
	"github.com/holdfast-os/holdfast/internal/system/block"
	"github.com/holdfast-os/holdfast/internal/system/efi"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/seedmedia"
	"github.com/holdfast-os/holdfast/internal/system/tpm"
	"github.com/holdfast-os/holdfast/internal/system/tpm2selftest"
)

// Levels of what is said on the console.
const (
	Info = "info"
	Warn = "warning"
)

// Options say what is installed, and how its progress is shown.
type Options struct {
	// Seed is the seed in force, with its request to install.
	Seed *seed.Set
	// External are the documents as they came from another place than the medium's partition
	// 2, still sealed: they then replace those of the medium on the target. Default nil.
	External *seed.Set
	// SourceDisk is the whole disk that the machine was started from, as "/dev/sda" or "/dev/sr0".
	SourceDisk string
	// Medium is what a person takes out in the end; default SourceDisk. A CD is read through
	// another device.
	Medium string
	// Version is the release on it: 12 digits.
	Version string
	// Arch is "x86_64" or "aarch64"; default that of this program.
	Arch string
	// Console shows one line to a person; level is Info or Warn. It may be nil.
	Console func(level, message string)
	// Progress counts the bytes of a step. It may be nil.
	Progress func(step string, done, total int64)
	// Runner starts programs; default run.Host.
	Runner run.Runner
	// Root is the directory that holds dev and sys; default "/".
	Root string
	// WarningTime is how long a warning stays on the screen before the disk is touched;
	// default 30 seconds.
	WarningTime time.Duration
	// TestTPM asks the TPM whether it works; default the kernel's device.
	TestTPM func() error
	// Restart restarts the machine without a program from the medium; default the system call.
	Restart func() error
}

func (o Options) withDefaults() Options {
	if o.Runner == nil {
		o.Runner = run.Host
	}
	if o.Arch == "" {
		o.Arch = map[string]string{"amd64": layout.X86_64, "arm64": layout.AArch64}[runtime.GOARCH]
	}
	if o.Console == nil {
		o.Console = func(string, string) {}
	}
	if o.Root == "" {
		o.Root = "/"
	}
	if o.Medium == "" {
		o.Medium = o.SourceDisk
	}
	if o.WarningTime == 0 {
		o.WarningTime = 30 * time.Second
	}
	if o.TestTPM == nil {
		o.TestTPM = tpm2selftest.TPM{}.Run
	}
	if o.Restart == nil {
		o.Restart = restart
	}
	return o
}

func (o Options) devices() block.Devices { return block.Devices{Run: o.Runner, Root: o.Root} }

func (o Options) vars() efi.Vars { return efi.Vars{Dir: filepath.Join(o.Root, efi.DefaultDir)} }

// Run installs the machine and restarts it. It returns only with an error: an
// install.Problems when the machine, its seed or its disks must be changed by a
// person, anything else when it makes sense to try again. Showing it is up to the caller.
func Run(ctx context.Context, o Options) error {
	o = o.withDefaults()
	if o.Seed == nil || o.Seed.Install == nil {
		return errors.New("installing: the seed does not ask for an installation")
	}
	machine, err := Gather(ctx, o)
	if err != nil {
		return err
	}
	target, problems := install.Check(machine)
	if len(problems) > 0 {
		return problems
	}
	marks, warnings := install.Degraded(machine)
	if err := o.warn(ctx, warnings); err != nil {
		return err
	}
	host, err := Open(ctx, o, machine.Medium.Path, target.Path)
	if err != nil {
		return err
	}
	archive, err := targetSeed(host.medium, o)
	if err != nil {
		return errors.Join(err, host.Close())
	}
	used, odd := install.Used(host.medium, machine.Medium.Parts)
	for _, problem := range odd {
		o.Console(Warn, problem.Error())
	}
	plan, err := install.NewPlan(install.Input{Arch: o.Arch, Medium: machine.Medium, Target: target, Used: used, Marks: marks,
		Forget: machine.InstallComplete, Seed: archive, Restart: o.Seed.Install.ForceReboot || netboot.InMemory(o.SourceDisk), NewGUID: newGUID})
	if err != nil {
		return errors.Join(err, host.Close())
	}
	o.Console(Info, fmt.Sprintf("installing release %s on %s (%s): %d MiB to copy", o.Version, target.Path, target.Model, plan.CopyBytes()>>20))
	err = install.Run(ctx, plan, host, o.observer(len(plan.Steps)))
	return errors.Join(err, host.Close())
}

// warn shows warnings and lets a person read them, and pull the plug.
func (o Options) warn(ctx context.Context, warnings []string) error {
	if len(warnings) == 0 {
		return nil
	}
	for _, warning := range warnings {
		o.Console(Warn, warning)
	}
	o.Console(Warn, fmt.Sprintf("the installation begins in %s", o.WarningTime))
	select {
	case <-ctx.Done():
		return fmt.Errorf("waiting before the installation: %w", ctx.Err())
	case <-time.After(o.WarningTime):
		return nil
	}
}

// observer shows on the console what is done, each step with its number.
func (o Options) observer(steps int) install.Observer {
	number := 0
	return install.Observer{
		Step: func(step install.Step) {
			number++
			o.Console(Info, fmt.Sprintf("%d of %d: %s", number, steps, step.Words()))
		},
		Progress: o.Progress,
		Warn:     func(message string) { o.Console(Warn, message) },
	}
}

// Gather reads what install.Check has to know. A disk that cannot be read is left
// out, with a warning on the console. Without a request to install, the disks are
// not looked at.
func Gather(ctx context.Context, o Options) (install.Machine, error) {
	o = o.withDefaults()
	modes, err := o.vars().Modes()
	if err != nil {
		return install.Machine{}, err
	}
	complete, err := o.vars().InstallComplete()
	if err != nil {
		return install.Machine{}, err
	}
	present, emulated, version, err := tpmVersion(o.Root)
	if err != nil {
		return install.Machine{}, err
	}
	machine := install.Machine{UEFI: o.vars().Available(), SecureBoot: modes.SecureBoot, SetupMode: modes.SetupMode,
		AuditMode: modes.AuditMode, TPMPresent: present, TPMEmulated: emulated, TPMVersion: version, InstallComplete: complete}
	if o.Seed == nil || o.Seed.Install == nil {
		return machine, nil
	}
	machine.Install = o.Seed.Install
	if present && version != 1 {
		if err := o.TestTPM(); err != nil {
			machine.TPMFault = err.Error()
		}
	}
	machine.NoApplications = o.Seed.Applications != nil && len(o.Seed.Applications.Applications) == 0
	if machine.Medium, err = ReadMedium(o.SourceDisk, o.Version); err != nil {
		return install.Machine{}, err
	}
	disks, err := o.devices().List(ctx)
	if err != nil {
		return install.Machine{}, err
	}
	labels, err := o.labels()
	if err != nil {
		return install.Machine{}, err
	}
	for _, disk := range disks {
		described := o.describe(ctx, disk, machine.Medium.Path)
		described.Label = labelOf(disk, labels)
		machine.Disks = append(machine.Disks, described)
	}
	return machine, nil
}

// labels are the media that this machine reads a seed, a key or a rescue from, by device.
func (o Options) labels() (map[string]string, error) {
	media := seedmedia.Host{Dev: filepath.Join(o.Root, "dev")}
	labels := map[string]string{}
	for _, label := range append(seedsource.Labels(), rescue.Label) {
		device, err := media.Device(label)
		if err != nil {
			return nil, err
		}
		if device != "" {
			labels[filepath.Base(device)] = label
		}
	}
	return labels, nil
}

// labelOf is the label of a disk, or of one of its partitions.
func labelOf(disk block.Disk, labels map[string]string) string {
	found := labels[disk.Name]
	for _, p := range disk.Partitions {
		found = cmp.Or(found, labels[filepath.Base(p.Path)])
	}
	return found
}

// tpmVersion reads the kernel's word on the TPM. One that this machine emulates, and the
// kernel reaches through its proxy, is not present.
func tpmVersion(root string) (present, emulated bool, major int, err error) {
	chip := tpm.Host{Root: root}
	kind, err := chip.Kind()
	if err != nil || kind != tpm.Hardware {
		return false, kind == tpm.Software, 0, err
	}
	major, err = chip.Version()
	return true, false, major, err
}

// ReadMedium describes the disk or disk image that is copied from.
func ReadMedium(path, version string) (install.Medium, error) {
	f, err := os.Open(path)
	if err != nil {
		return install.Medium{}, fmt.Errorf("opening the medium: %w", err)
	}
	medium, err := describeMedium(f, path, version)
	return medium, errors.Join(err, f.Close())
}

func describeMedium(f *os.File, path, version string) (install.Medium, error) {
	table, _, err := readTable(f)
	if err != nil {
		return install.Medium{}, fmt.Errorf("reading medium %s: %w", path, err)
	}
	// Bytes 11 and 12 of a FAT file system are the sector size that it was made for.
	boot := make([]byte, 16)
	if _, err := f.ReadAt(boot, layout.Start(layout.ESP)); err != nil {
		return install.Medium{}, fmt.Errorf("reading the ESP of medium %s: %w", path, err)
	}
	return install.Medium{Path: path, Version: version, Parts: parts(table),
		ESPSector: int64(binary.LittleEndian.Uint16(boot[11:]))}, nil
}

func readTable(f *os.File) (table block.Table, size int64, err error) {
	size, sector, err := block.Size(f)
	if err != nil {
		return block.Table{}, 0, err
	}
	table, err = block.ReadTable(f, size, sector)
	return table, size, err
}

func parts(table block.Table) []install.Part {
	list := make([]install.Part, 0, len(table.Entries))
	for _, e := range table.Entries {
		if e.Last < e.First || e.Last >= 1<<50 {
			continue // no disk is that large
		}
		list = append(list, install.Part{Number: e.Number, GUID: e.GUID, Label: e.Name,
			Start: int64(e.First) * int64(table.SectorSize), Size: int64(e.Last-e.First+1) * int64(table.SectorSize)})
	}
	return list
}

// describe turns what block knows of a disk into what install asks for. What is on the disk
// is read only when it could become a target. One that cannot be read stays a candidate: a
// broken disk must not make another one the only choice.
func (o Options) describe(ctx context.Context, disk block.Disk, medium string) install.Disk {
	out := install.Disk{Path: disk.Path, IDs: disk.Links, Size: int64(disk.Size), Sector: int64(disk.SectorSize),
		Kind: kind(disk), Subsystems: disk.Subsystems, Model: disk.Model, ReadOnly: disk.ReadOnly, InUse: disk.Mounted,
		Members: disk.Members}
	if out.Kind == install.Other || disk.Path == medium {
		return out
	}
	busy, err := inUse(disk)
	out.InUse = out.InUse || busy
	if err == nil {
		out.Content, err = Inspect(disk.Path)
	}
	if err == nil {
		out.Content.Signatures, err = o.signatures(ctx, disk.Path, out.Content.Table)
	}
	if err != nil {
		out.Unreadable = err.Error()
	}
	return out
}

// inUse tells whether something is built on a disk. A disk made of paths is always held, by the
// maps of its partitions.
func inUse(disk block.Disk) (bool, error) {
	paths := []string{disk.Path}
	if len(disk.Members) > 0 && len(disk.Partitions) > 0 {
		paths = nil
		for _, p := range disk.Partitions {
			paths = append(paths, p.Path)
		}
	}
	for _, path := range paths {
		if busy, err := block.InUse(path); busy || err != nil {
			return busy, err
		}
	}
	return false, nil
}

// signatures are those of a whole disk. While a table stands it says all that there is to
// say, and what lies between its partitions is nobody's.
func (o Options) signatures(ctx context.Context, path string, table install.TableState) ([]string, error) {
	if table != install.NoTable {
		return nil, nil
	}
	return o.devices().Signatures(ctx, path)
}

// Inspect reads the partition table and the mark of a disk or disk image. The
// signature is not looked for.
func Inspect(path string) (install.Content, error) {
	f, err := os.Open(path)
	if err != nil {
		return install.Content{}, fmt.Errorf("opening disk: %w", err)
	}
	found, err := content(f)
	return found, errors.Join(err, f.Close())
}

func content(f *os.File) (install.Content, error) {
	table, size, err := readTable(f)
	if err != nil {
		return install.Content{}, err
	}
	found := install.Content{Parts: parts(table), Table: map[block.State]install.TableState{
		block.TableNone: install.NoTable, block.TableValid: install.ValidTable, block.TablePrimaryDamaged: install.DamagedTable,
	}[table.State]}
	if size < install.MarkOffset+install.MarkSize {
		return found, nil
	}
	mark := make([]byte, install.MarkSize)
	if _, err := f.ReadAt(mark, install.MarkOffset); err != nil {
		return install.Content{}, fmt.Errorf("reading %s: %w", f.Name(), err)
	}
	found.Mark = install.ParseMark(mark)
	return found, nil
}

func kind(disk block.Disk) install.Kind {
	const mmcMajor = 179
	switch {
	case disk.Type != "disk" && disk.Type != "mpath":
		return install.Other
	case disk.Transport == "nvme" || strings.Contains(disk.Subsystems, "nvme"):
		return install.NVMe
	case disk.Major == mmcMajor:
		// The boot and RPMB areas of an eMMC are disks of their own.
		if strings.Contains(disk.Name, "boot") || strings.Contains(disk.Name, "rpmb") {
			return install.Other
		}
		return install.MMC
	case strings.Contains(disk.Subsystems, "scsi"):
		return install.SCSI
	case strings.Contains(disk.Subsystems, "virtio"), strings.Contains(disk.Subsystems, "xen"):
		return install.Virtual
	}
	return install.Other
}

// targetSeed is the medium's seed without its request to install. Documents from
// elsewhere replace it.
func targetSeed(medium io.ReaderAt, o Options) ([]byte, error) {
	source := io.NewSectionReader(medium, layout.SeedOffset(), layout.Size(layout.Seed))
	var archive bytes.Buffer
	if err := seed.MergeInstalled(source, &archive, o.External); err != nil {
		return nil, fmt.Errorf("making the seed of the target: %w", err)
	}
	return archive.Bytes(), nil
}

// newGUID makes a random GUID (version 4).
func newGUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: the program ends instead
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
