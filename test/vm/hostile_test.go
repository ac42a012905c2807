package vm

import (
	"context"
	"encoding/base64"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/lab"
	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/system/qemu"
	"github.com/holdfast-os/holdfast/test/vm/observe"
)

// hostileName is a clone whose firmware tables ask for all that a node must not give,
// and whose disk is a plain file, so that it can be changed while the machine is off.
func hostileName() string { return baseName + "-hostile" }

// hostile is that clone and what its first start, with the right bytes on its disk,
// looked like.
type hostile struct {
	control   seen
	processes []observe.Process
	security  api.Security
}

// Marks of the programs that the credentials ask for: how long they would sleep.
const (
	smbiosMark = "987654321"
	fwcfgMark  = "987654322"
)

// credential is an SMBIOS string that hands systemd a credential.
func credential(name, content string) string {
	return "io.systemd.credential.binary:" + name + "=" + base64.StdEncoding.EncodeToString([]byte(content))
}

func sleepingUnit(mark string) string {
	return "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/usr/bin/sleep " + mark + "\n"
}

// hostileHardware asks, in every way that systemd knows, for an extra unit and a root
// shell. That the form of these strings works is what the test variant shows: the lab
// gets its own unit into it in this way.
func hostileHardware() lab.Hardware {
	wants := func(unit string) string { return "[Unit]\nWants=" + unit + "\n" }
	return lab.Hardware{
		SMBIOS: []string{
			credential("systemd.extra-unit.intruder.service", sleepingUnit(smbiosMark)),
			credential("systemd.unit-dropin.holdfastd.service~intruder", wants("intruder.service")),
			credential("systemd.extra-unit.shell.service", "[Service]\nExecStart=/usr/bin/bash\nStandardInput=tty-force\nTTYPath=/dev/ttyS0\n"),
			credential("systemd.unit-dropin.sysinit.target~shell", wants("shell.service")),
			credential("systemd.unit-dropin.sysinit.target~g", wants("g.service")),
			credential("passwd.hashed-password.root", ""),
			credential("tmpfiles.extra", "f /run/intruder 0644 root root - intruder\n"),
		},
		FWCfg: []qemu.Value{
			// fw_cfg takes names of up to 55 characters; what wants this unit comes by SMBIOS.
			{Name: "opt/io.systemd.credentials/systemd.extra-unit.g.service", Text: sleepingUnit(fwcfgMark)},
		},
	}
}

// hostileNode gives that clone, stopped, with the release's kernel image on its ESP.
// The first call also starts it once, which is the counterpart of every refusal.
func hostileNode(t *testing.T) (*node, hostile) {
	t.Helper()
	if machines.hostile == nil {
		// The test variant is the one whose disk is copied; its kernel image is
		// replaced by the release's at once.
		makeClone(t, lab.Options{Name: hostileName(), Variant: lab.VariantTest, Hardware: hostileHardware()})
		n := newNode(t, hostileName())
		h := &hostile{}
		t.Cleanup(func() {
			if machines.hostile == nil { // its first start failed: the next test begins again
				removeClone(t, hostileName())
			}
		})
		watched(t, n)
		n.putKernel(t, releaseKernel())
		h.control = n.observe(t, bootLimit, func(s seen) bool { return s.Ready || s.ResetsAfter > 0 })
		if !h.control.Ready || h.control.ResetsAfter > 0 {
			t.Fatalf("the unchanged machine did not start, so a refusal would mean nothing: %+v", h.control)
		}
		h.ask(t, n)
		if err := machines.cut(t.Context()); err != nil {
			t.Fatal(err)
		}
		machines.hostile = h
	}
	n := watched(t, newNode(t, hostileName()))
	if err := machines.cut(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.putKernel(t, releaseKernel())
	return n, *machines.hostile
}

// ask fetches what the node says of itself while it runs.
func (h *hostile) ask(t *testing.T, n *node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var err error
	if h.security, err = n.api.Security(ctx); err != nil {
		t.Fatal(err)
	}
	h.processes = n.processes(t)
}

// disk is the file of the clone's disk.
func (n *node) disk() string { return n.file("disk0.raw") }

// releaseKernel is the kernel image of the build, as it was published.
func releaseKernel() string {
	return filepath.Join(machines.build, layout.Name+"_"+machines.version+".efi")
}

// putKernel replaces the only kernel image on the ESP of a stopped machine.
func (n *node) putKernel(t *testing.T, file string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	esp := n.disk() + "@@1048576"
	listing, err := machines.run(ctx, "mdir", "-b", "-i", esp, "::EFI/Linux")
	if err != nil {
		t.Fatal(err)
	}
	var images []string
	for line := range strings.Lines(string(listing.Stdout)) {
		if line = strings.TrimSpace(line); path.Ext(line) == ".efi" {
			images = append(images, line)
		}
	}
	if len(images) != 1 {
		t.Fatalf("the ESP has the kernel images %q, want one: another would be started instead", images)
	}
	if _, err := machines.run(ctx, "mcopy", "-o", "-i", esp, file, images[0]); err != nil {
		t.Fatal(err)
	}
}

// changedKernel is the release's kernel image after a change, as a file of the test.
func changedKernel(t *testing.T, change func([]byte) []byte) string {
	t.Helper()
	image, err := os.ReadFile(releaseKernel())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "kernel.efi")
	if err := os.WriteFile(file, change(image), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// processes is the list of processes as the node gives it.
func (n *node) processes(t *testing.T) []observe.Process {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), shortLimit)
	defer cancel()
	text, err := n.api.DebugProcesses(ctx)
	if err != nil {
		t.Fatal(err)
	}
	list, err := observe.Processes(text)
	if err != nil {
		t.Fatal(err)
	}
	return list
}
