package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/holdfast-os/holdfast/internal/system/qemu"
	"github.com/holdfast-os/holdfast/internal/system/room"
	"golang.org/x/sys/unix"
)

// Limits of the phases. They are for software emulation on a busy computer with two
// processors; a phase that fails is seen earlier in most cases.
const (
	upLimit      = 25 * time.Minute
	keysLimit    = 6 * time.Minute
	installLimit = 12 * time.Minute
	bootLimit    = 12 * time.Minute
	readyLimit   = 12 * time.Minute
)

// DefaultDiskGiB is the size of the disk of a lab; it takes space as it fills.
const DefaultDiskGiB = 20

// Hardware is what a machine is made of. The zero value is the usual machine.
type Hardware struct {
	// CPUs is the number of processors, default 2; MemoryMiB default 3072.
	CPUs, MemoryMiB int
	// NoTPM leaves out the TPM, BIOS starts with SeaBIOS instead of UEFI, NoNetwork
	// leaves out the network card.
	NoTPM, BIOS, NoNetwork bool
	// Hwaddr is the MAC address of the card that leads to the API, default QEMU's.
	Hwaddr string
	// Taps are tap devices of this computer, one more network card for each.
	Taps []string
	// NetworkBoot starts from the card at the first of Taps when no disk can be started.
	NetworkBoot bool
	// DiskGiB are the sizes of the disks in GiB, default one of DefaultDiskGiB. The
	// first has the serial number holdfast-disk, later ones holdfast-disk1 and on.
	DiskGiB []int
	// NoSecureBoot is firmware without Secure Boot.
	NoSecureBoot bool
	// DiskBus defaults to virtio, MediumBus to usb. A medium on qemu.CDROM is the image as
	// a CD.
	DiskBus, MediumBus qemu.Bus
	// SeedStick, FAT or ISO, has the seed on a stick of its own with the label SEED_DATA,
	// and none on the medium. NoCloud has it on a disc labelled CIDATA, as user data for
	// cloud-init.
	SeedStick string
	// DiskSector is the sector size of the disks in bytes, default 512; DiskPhysicalSector
	// the one that they have inside, default the same.
	DiskSector, DiskPhysicalSector int
	// DiskPaths is over how many paths a disk on SCSI is reached, default one. Such a machine
	// takes no snapshot.
	DiskPaths int
	// Live has the image on the first disk itself, with a seed that asks for no
	// installation, and no medium.
	Live bool
	// Internet lets the node reach the networks of this computer. Without it the node
	// finds its clients and its release server, and nothing else.
	Internet bool
	// NoMedium attaches no install medium.
	NoMedium bool
	// MediumFirst boots from the medium before the disks.
	MediumFirst bool
	// SMBIOS and FWCfg are extra values for the guest.
	SMBIOS []string
	FWCfg  []qemu.Value
	// Accel forces an accelerator; by default KVM where it works.
	Accel qemu.Accel
}

// Options say what Up shall do.
type Options struct {
	// Name defaults to DefaultName.
	Name string
	// BuildDir holds the build: a file version and the medium. Default .build/out in
	// the project.
	BuildDir string
	// ReleaseDir is the release tree to serve; empty means no release server, and a
	// seed without provider.
	ReleaseDir string
	// Variant is empty or VariantTest, which is always made as a clone of From.
	Variant string
	// From is the lab whose snapshot a new machine is cloned from, instead of an
	// installation; default none, for VariantTest DefaultName.
	From string
	// Fresh throws away what is there and installs anew.
	Fresh bool
	// Progress is written for a person; a terminal gets one live line. Default nowhere.
	Progress io.Writer
	// APIPort and ReleasePort on 127.0.0.1; default any free one, kept afterwards.
	APIPort, ReleasePort int
	// Hardware of a new machine; of a clone, what it has beyond the original.
	Hardware Hardware
	// Seed replaces members of the seed by base name ("network"); nil leaves one out.
	Seed map[string]any
	// SealSeed seals all of them but "install"; the machine's SMBIOS table has the key.
	SealSeed bool
	// Passphrase is what SealSeed seals to instead; the machine does not have it.
	Passphrase string
	// Medium is a file that is the install medium as it is, with the seed in it. It is copied.
	// Default one made of the build with the seed of the lab, which alone Seed, SealSeed,
	// Hardware.SeedStick and Hardware.Live change.
	Medium string
	// Disk is a file of qcow2 that is the first disk of a machine with Hardware.Live, made
	// larger where Hardware.DiskGiB says so. It has no seed in it. It is copied. Default a raw
	// one made as the medium is.
	Disk string
	// Vars is a file with the firmware variables that a new machine begins with. It is copied.
	// Default OVMF's, without keys.
	Vars string
	// ClientCert and ClientKey, both PEM, are who the lab is when it asks the node; a Medium
	// has to name the certificate. Default a pair that is made once.
	ClientCert, ClientKey []byte
	// WriteLog is a file that gets every write and flush of the first disk, in the format of
	// the kernel's dm-log-writes, until the machine is switched off: of the first start by
	// this Up, which is the one from the medium for a new machine. Default none.
	WriteLog string
	// NoWait returns when the machine has been started. NoSnapshot makes none.
	NoWait, NoSnapshot bool
	// Try are the commands shown at the end; default three that need no program of
	// the project.
	Try []string
}

// Info describes one lab.
type Info struct {
	Name     string
	Dir      string
	Release  string
	Variant  string
	Endpoint string
	// Stage is "installing", "installed" or "ready": how far it came at its furthest.
	Stage    string
	Running  bool
	Snapshot bool
	Accel    qemu.Accel
	APIPort  int
}

// up is one run of Up.
type up struct {
	*Lab
	o     Options
	d     dir
	s     state
	p     *progress
	accel qemu.Accel
	watch *watcher
}

// Up brings a lab to the point where its API is ready, and does no more than that
// needs: a running machine answers at once, a stopped one is restored from its
// snapshot or booted, a missing one is installed. A phase that does not end well is a
// *PhaseError; the machine is left running then, to be looked at.
func (l *Lab) Up(ctx context.Context, o Options) (Info, error) {
	d, err := l.dir(o.Name)
	if err != nil {
		return Info{}, err
	}
	if o.BuildDir == "" {
		o.BuildDir = filepath.Join(l.root, ".build", "out")
	}
	if o.Variant != "" && o.Variant != VariantTest {
		return Info{}, fmt.Errorf("variant %q: the only one is %q", o.Variant, VariantTest)
	}
	if o.ReleaseDir != "" {
		if o.ReleaseDir, err = filepath.Abs(o.ReleaseDir); err != nil {
			return Info{}, fmt.Errorf("finding the release tree: %w", err)
		}
	}
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return Info{}, fmt.Errorf("making the folder of the lab: %w", err)
	}
	unlock, err := lock(d)
	if err != nil {
		return Info{}, err
	}
	defer unlock()
	u := &up{Lab: l, o: o, d: d, p: newProgress(o.Progress, filepath.Join(l.cache, "lab-times.json"))}
	u.p.hint = func() string { return lastLine(d) }
	ctx, cancel := context.WithTimeout(ctx, upLimit)
	defer cancel()
	begun := time.Now()
	err = u.run(ctx)
	if u.watch != nil {
		u.watch.close()
	}
	if err = errors.Join(err, u.p.save()); err != nil {
		return Info{}, err
	}
	u.goodbye(time.Since(begun))
	return l.info(d)
}

func lastLine(d dir) string {
	if lines := tailLines(d.file("serial.log"), 1); len(lines) > 0 {
		return lines[0]
	}
	return ""
}

// lock keeps a second Up away from the lab.
func lock(d dir) (unlock func(), err error) {
	file, err := os.OpenFile(d.file("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the lab: %w", err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = file.Close() // it was not written
		return nil, fmt.Errorf("locking the lab %s: somebody else is bringing it up: %w", filepath.Base(string(d)), err)
	}
	return func() { _ = file.Close() }, nil // closing unlocks
}

func (u *up) run(ctx context.Context) error {
	err := u.phase(ctx, "tools", 0, func(ctx context.Context) (err error) {
		if u.accel = u.o.Hardware.Accel; u.accel == "" {
			u.accel, err = u.accelerator(ctx)
		}
		return err
	})
	if err != nil {
		return err
	}
	u.p.prefix = string(u.accel) + " "
	if u.o.Fresh {
		if err := u.remove(ctx, u.d); err != nil {
			return err
		}
	}
	u.s, err = loadState(u.d.file("state.json"))
	_, running := qemu.Running(u.d.file("qemu.pid"))
	switch {
	case errors.Is(err, ErrNoLab):
		return u.create(ctx)
	case err != nil:
		return err
	}
	u.sayRelease()
	switch {
	case running && u.s.Stage == stageInstalling:
		u.p.note("the machine is being installed: going on to watch it")
		return u.follow(ctx)
	case running:
		if err := u.serveReleases(ctx, u.d, u.s); err != nil {
			return err
		}
		return u.finish(ctx)
	case u.s.Stage == stageInstalling:
		u.p.note("the last installation did not end: installing anew")
		if err := u.remove(ctx, u.d); err != nil {
			return err
		}
		return u.create(ctx)
	case exists(u.d.file("snapshot/state.bin")):
		return u.fromSnapshot(ctx)
	}
	if err := u.powerOn(ctx); err != nil || u.o.NoWait {
		return err
	}
	return u.finish(ctx)
}

// sayRelease warns when the machine is older than the build.
func (u *up) sayRelease() {
	if version, err := buildVersion(u.o.BuildDir); err == nil && version != u.s.Release {
		u.p.note("the machine was installed from %s, the build is %s: using the machine as it is (--fresh installs the build)", u.s.Release, version)
	}
}

// phase runs a named phase with a time limit (0: none of its own) and turns what
// goes wrong into a *PhaseError.
func (u *up) phase(ctx context.Context, name string, limit time.Duration, work func(context.Context) error) error {
	begun := time.Now()
	limited, cancel := ctx, context.CancelFunc(func() {})
	if limit > 0 {
		limited, cancel = context.WithTimeout(ctx, limit)
	}
	defer cancel()
	err := u.p.do(name, func() error { return work(limited) })
	if err == nil {
		return nil
	}
	failure := &PhaseError{
		Phase: name, Elapsed: time.Since(begun), Err: err,
		Log: tailLines(u.d.file("serial.log"), failureLines),
	}
	if _, running := qemu.Running(u.d.file("qemu.pid")); running {
		shot := u.d.file("failure.png")
		if u.Screenshot(context.WithoutCancel(ctx), u.o.Name, shot) == nil {
			failure.Screenshot = shot
		}
		failure.Next = "the machine still runs: `holdfast lab up` goes on waiting, `holdfast lab log` shows all it said, `holdfast lab up --fresh` begins again"
	} else {
		failure.Next = "the machine is off: `holdfast lab up` tries again; see " + u.d.file("qemu.log") + " and " + u.d.file("serial.log")
	}
	return failure
}

// installRoom is what a machine comes to take until it is ready, measured: the medium
// 0.8 GB, the disk 5 GB, the memory in its snapshot 1.2 GB, and some to work with.
const installRoom = 8 << 30

// create makes and installs a machine.
func (u *up) create(ctx context.Context) error {
	if u.o.Variant == VariantTest || u.o.From != "" {
		return u.createClone(ctx)
	}
	if err := u.checkMedium(); err != nil {
		return err
	}
	version := ""
	if !u.o.Hardware.NoMedium || u.o.Hardware.Live || u.o.Hardware.NetworkBoot {
		err := room.Check(string(u.d), installRoom)
		if err != nil {
			return err
		}
		if version, err = buildVersion(u.o.BuildDir); err != nil {
			return err
		}
	}
	ports, err := u.ports()
	if err != nil {
		return err
	}
	u.s = ports
	u.s.Release, u.s.Stage, u.s.Made = version, stageInstalling, time.Now().UTC().Truncate(time.Second)
	u.s.Machine = machineOf(u.d, u.o.Hardware, u.accel, u.s.APIPort)
	if u.s.ReleasePort != 0 {
		u.s.Machine.Release = u.releasePipe(u.s.ReleasePort)
	}
	var cert []byte
	if err := u.phase(ctx, "client certificate", 0, func(context.Context) (err error) {
		cert, err = u.clientCert()
		return err
	}); err != nil {
		return err
	}
	if err := u.phase(ctx, "seed and medium", 0, func(ctx context.Context) error {
		return u.makeParts(ctx, cert)
	}); err != nil {
		return err
	}
	if u.s.ReleasePort != 0 {
		if err := u.phase(ctx, "release server", 0, func(ctx context.Context) error {
			return u.serveReleases(ctx, u.d, u.s)
		}); err != nil {
			return err
		}
	}
	if err := u.s.save(u.d.file("state.json")); err != nil {
		return err
	}
	if err := u.powerOn(ctx); err != nil || u.o.NoWait {
		return err
	}
	return u.follow(ctx)
}

// ports chooses the ports of a new machine, those of an earlier one of the same
// name if they are still free.
func (u *up) ports() (state, error) {
	s := state{ReleaseDir: u.o.ReleaseDir}
	var err error
	if s.APIPort, err = u.port("api.port", u.o.APIPort); err != nil {
		return s, err
	}
	if u.o.ReleaseDir == "" {
		return s, nil
	}
	s.ReleasePort, err = u.port("release.port", u.o.ReleasePort)
	return s, err
}

func (u *up) port(file string, wanted int) (int, error) {
	if wanted != 0 {
		port, err := freePort(wanted)
		if err != nil {
			return 0, fmt.Errorf("choosing the machine's ports: %w (stop that process, or choose another port)", err)
		}
		return port, nil
	}
	if raw, err := os.ReadFile(u.d.file(file)); err == nil {
		if last, err := strconv.Atoi(string(raw)); err == nil {
			if port, err := freePort(last); err == nil {
				return port, nil
			}
		}
	}
	port, err := freePort(0)
	if err != nil {
		return 0, err
	}
	return port, writeFile(u.d.file(file), []byte(strconv.Itoa(port)))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
