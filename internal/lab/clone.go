package lab

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/system/qemu"
)

// execScript serves Exec inside the guest: a line is a number and the arguments in
// base64, each ended by NUL; the answer is the number, the exit code, and what was
// written, in base64.
const execScript = `
port=/dev/virtio-ports/lab.exec
until [ -e "$port" ]; do sleep 0.2; done
work=$(mktemp -d /run/lab-exec.XXXXXX)
exec 3<>"$port"
while :; do
  if ! read -r id command <&3; then sleep 0.1; continue; fi
  [ -n "$command" ] || continue
  mapfile -d '' -t argv < <(printf %s "$command" | base64 -d)
  "${argv[@]}" </dev/null >"$work/out" 2>"$work/err" 3>&-
  code=$?
  printf '%s %s %s= %s=\n' "$id" "$code" "$(base64 -w0 <"$work/out")" "$(base64 -w0 <"$work/err")" >&3
done
`

// execSMBIOS are the strings that make a guest of the test variant start the script.
// The ordinary variant takes no credentials from outside.
func execSMBIOS() []string {
	encode := base64.StdEncoding.EncodeToString
	unit := "[Unit]\nDescription=Commands of the lab\nDefaultDependencies=no\nConditionPathExists=!/etc/initrd-release\n" +
		"[Service]\nRestart=always\nRestartSec=1\nExecStart=/usr/bin/bash -c 'eval \"$$(echo " + encode([]byte(execScript)) + " | base64 -d)\"'\n"
	dropin := "[Unit]\nWants=holdfast-exec.service\n"
	const prefix = "io.systemd.credential.binary:"
	return []string{
		prefix + "systemd.extra-unit.holdfast-exec.service=" + encode([]byte(unit)),
		prefix + "systemd.unit-dropin.multi-user.target=" + encode([]byte(dropin)),
	}
}

// Clone makes the lab to out of the snapshot of from: its disks as copy-on-write
// overlays, with variables and TPM copied. It is not started. With VariantTest the
// kernel image on its ESP is replaced by that of the test build in buildDir, for
// which the disk is copied. from must keep its snapshot as long as to exists.
func (l *Lab) Clone(ctx context.Context, from, to, variant, buildDir string) error {
	source, err := l.dir(from)
	if err != nil {
		return err
	}
	d, err := l.dir(to)
	if err != nil {
		return err
	}
	if exists(d.file("state.json")) {
		return fmt.Errorf("cloning the lab %s: %s exists already", from, to)
	}
	s, err := loadState(source.file("snapshot/state.json"))
	if err != nil {
		return fmt.Errorf("cloning: the lab %s has no snapshot: %w", from, err)
	}
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return fmt.Errorf("making the folder of the lab: %w", err)
	}
	parent := s.Machine.Disks
	s.Machine = movedMachine(d, s.Machine)
	if variant == VariantTest {
		err = l.testDisks(ctx, d, source, &s, parent, buildDir)
	} else {
		s.Machine.Disks, err = overlayDisks(d, source, withoutMedium(qemu.Machine{Disks: parent}).Disks)
	}
	if err != nil {
		return fmt.Errorf("cloning the lab %s: %w", from, err)
	}
	if err := copyFirmware(d, dir(source.file("snapshot")), s.Machine); err != nil {
		return fmt.Errorf("cloning the lab %s: %w", from, err)
	}
	for _, name := range []string{"client.crt", "client.key", "server.crt"} {
		if err := qemu.CopySparse(d.file(name), source.file(name)); err != nil {
			return fmt.Errorf("cloning the lab %s: %w", from, err)
		}
	}
	if s.APIPort, err = freePort(0); err != nil {
		return err
	}
	s.Machine.APIPort = s.APIPort
	if s.ReleasePort != 0 {
		if s.ReleasePort, err = freePort(0); err != nil {
			return err
		}
		s.Machine.Release = l.releasePipe(s.ReleasePort)
	}
	s.Variant, s.Stage, s.Made = variant, stageInstalled, time.Now().UTC().Truncate(time.Second)
	if err := writeFile(d.file("env"), []byte(envFile(d, s))); err != nil {
		return err
	}
	return s.save(d.file("state.json"))
}

// movedMachine is the machine with all its files in another folder, without disks.
func movedMachine(d dir, m qemu.Machine) qemu.Machine {
	m.Serial, m.QMP, m.Events = d.file("serial.log"), d.file("qmp.sock"), d.file("events.sock")
	m.PIDFile, m.Log, m.ExecSocket, m.Disks = d.file("qemu.pid"), d.file("qemu.log"), "", nil
	if m.Vars != "" {
		m.Vars = d.file("vars.fd")
	}
	if m.TPM != "" {
		m.TPM = d.file("tpm.sock")
	}
	return m
}

// testDisks copies the disks and puts the test build's kernel image on the first.
func (l *Lab) testDisks(ctx context.Context, d, source dir, s *state, parent []qemu.Disk, buildDir string) error {
	for _, disk := range parent {
		if disk.Removable {
			continue
		}
		if disk.Format != "raw" {
			return errors.New("the test variant needs a lab that was installed, not a clone")
		}
		base := source.file(filepath.Join("snapshot", filepath.Base(disk.Path)))
		disk.Path = d.file(disk.ID + ".raw")
		if err := qemu.CopySparse(disk.Path, base); err != nil {
			return err
		}
		s.Machine.Disks = append(s.Machine.Disks, disk)
	}
	if len(s.Machine.Disks) == 0 {
		return errors.New("it has no disk")
	}
	s.Machine.ExecSocket = d.file("exec.sock")
	s.Machine.SMBIOS = append(append([]string{}, s.Machine.SMBIOS...), execSMBIOS()...)
	return l.replaceUKI(ctx, s.Machine.Disks[0].Path, s.Release, buildDir)
}

// replaceUKI puts the test build's kernel image in the place of the release's on
// the ESP of a raw disk that no machine uses.
func (l *Lab) replaceUKI(ctx context.Context, disk, release, buildDir string) error {
	test := filepath.Join(buildDir, layout.Name+"_"+release+".test.efi")
	if !exists(test) {
		return fmt.Errorf("the build has no %s: build again, then `holdfast lab up --fresh`", filepath.Base(test))
	}
	esp := fmt.Sprintf("%s@@%d", disk, layout.FirstByte)
	listing, err := l.runner(ctx, l.tools.Command("mdir", "-b", "-i", esp, "::EFI/Linux"))
	if err != nil {
		return fmt.Errorf("reading the ESP: %w", err)
	}
	name, err := ukiName(string(listing.Stdout), release)
	if err != nil {
		return err
	}
	if _, err := l.runner(ctx, l.tools.Command("mcopy", "-o", "-i", esp, test, name)); err != nil {
		return fmt.Errorf("replacing the kernel image on the ESP: %w", err)
	}
	return nil
}

// ukiName finds the kernel image of a release in the listing of an ESP. Its name
// may carry counters of boot attempts: Holdfast_1+2-1.efi.
func ukiName(listing, release string) (string, error) {
	prefix := layout.Name + "_" + release
	for line := range strings.Lines(listing) {
		line = strings.TrimSpace(line)
		rest, ok := strings.CutPrefix(path.Base(line), prefix)
		if ok && strings.HasSuffix(rest, ".efi") && (rest == ".efi" || rest[0] == '+') {
			return line, nil
		}
	}
	return "", fmt.Errorf("the ESP holds no kernel image of the release %s", release)
}

// createClone makes a machine out of another's snapshot and brings it up.
func (u *up) createClone(ctx context.Context) error {
	from := orText(u.o.From, DefaultName)
	if err := u.phase(ctx, "clone", 0, func(ctx context.Context) (err error) {
		if err = u.Clone(ctx, from, u.o.Name, u.o.Variant, u.o.BuildDir); err != nil {
			return err
		}
		if u.s, err = loadState(u.d.file("state.json")); err != nil {
			return err
		}
		old := len(u.s.Machine.Disks)
		u.s.Machine = changedMachine(u.d, u.s.Machine, u.o.Hardware)
		for i, disk := range u.s.Machine.Disks[old:] {
			if err := blankDisk(disk.Path, u.o.Hardware.DiskGiB[1+i]); err != nil {
				return err
			}
		}
		return u.s.save(u.d.file("state.json"))
	}); err != nil {
		return err
	}
	if err := u.powerOn(ctx); err != nil || u.o.NoWait {
		return err
	}
	return u.finish(ctx)
}
