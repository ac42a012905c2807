package vm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/install"
	"github.com/holdfast-os/holdfast/internal/lab"
	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/media"
	"github.com/holdfast-os/holdfast/internal/system/qemu"
	"github.com/holdfast-os/holdfast/test/vm/writelog"
)

// How a machine goes on after a power cut in its installation.
const (
	again   = "was installed again"
	started = "started from its disk"
)

// A power cut at any moment of an installation must not cost a visit: started from its medium
// again, the machine ends as if nothing had been. One installation is recorded; then the machine
// gets the disk of each moment, with what nobody had flushed lost, kept or torn.
func TestInstall_Interrupted_EndsTheSame(t *testing.T) {
	slow(t)
	longOnly(t)
	t.Cleanup(func() { removeClone(t, installName()) })
	r := newRecording(t, "recording-install")
	t.Cleanup(func() {
		if err := os.RemoveAll(filepath.Dir(r.log)); err != nil {
			t.Error(err)
		}
	})
	begun := time.Now()
	restore(t, lab.Options{Name: installName(), Fresh: true, NoWait: true, NoSnapshot: true, WriteLog: r.log})
	n := watched(t, newNode(t, installName()))
	r.begin(t, n)
	if how := n.afterPowerOn(t); how != again {
		t.Fatalf("the machine to record %s", how)
	}
	if err := machines.cut(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.stop()
	t.Logf("an installation was recorded in %s", time.Since(begun).Round(time.Second))
	r.interrupt(t, n, look(t, n.disk()))
}

// interrupt cuts the recorded installation at each of its moments.
func (r *recording) interrupt(t *testing.T, n *node, want installation) {
	t.Helper()
	base := filepath.Join(filepath.Dir(r.log), "disk.raw")
	info, err := os.Stat(n.disk())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(base, nil, 0o600), os.Truncate(base, info.Size())); err != nil {
		t.Fatal(err)
	}
	disk, err := writelog.Open(base, r.log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := disk.Close(); err != nil {
			t.Error(err)
		}
	})
	moments, err := disk.Moments(info.Size(), *points)
	if err != nil {
		t.Fatal(err)
	}
	outcomes, came := map[string]int{}, 0
	for i, m := range moments {
		t.Run(fmt.Sprintf("%s, %s after %d of %d", m.Where, m.Rest, m.After, len(disk.Entries)), func(t *testing.T) {
			watched(t, n)
			begun := time.Now()
			r.cutAt(t, n, disk, base, cut{after: m.After, place: m.Where, rest: m.Rest})
			how := n.afterPowerOn(t)
			if !slices.Contains(ways[m.Where], how) {
				t.Errorf("the machine %s, and not as it should: %s", how, strings.Join(ways[m.Where], ", or "))
			}
			t.Logf("cut %d of %d: the machine %s, %s after power on", i+1, len(moments), how, time.Since(begun).Round(time.Second))
			if how == again {
				if err := machines.cut(t.Context()); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, look(t, n.disk())); diff != "" {
					t.Errorf("what is on the disk (-uninterrupted +interrupted):\n%s", diff)
				}
			}
			if m.Where == writelog.BeforeTable || how == started {
				n.goOn(t, how)
				if diff := cmp.Diff(want.lived(), look(t, n.disk()).lived()); diff != "" {
					t.Errorf("what stays on the disk (-uninterrupted +interrupted):\n%s", diff)
				}
			}
			if !t.Failed() {
				came++
				outcomes[m.Where+", "+m.Rest+": "+how]++
			}
		})
	}
	var said []string
	for _, m := range moments {
		for _, how := range []string{again, started} {
			if outcome := m.Where + ", " + m.Rest + ": " + how; outcomes[outcome] > 0 {
				said = append(said, fmt.Sprintf("%s %d", outcome, outcomes[outcome]))
				delete(outcomes, outcome)
			}
		}
	}
	t.Logf("NUMBER install_power_cuts %d of %d: %s", len(moments)-came, len(moments), strings.Join(said, "; "))
}

// ways are how a machine may go on after a cut at a moment. The disk can be started once the
// table is on it, with its protective MBR; between its two copies firmware may mend it.
var ways = map[string][]string{
	writelog.AmidData: {again}, writelog.BeforeTable: {again}, writelog.AmidTable: {again, started}, writelog.BehindTable: {started},
}

// cutAt gives the machine the disk, the variables and the TPM of a moment, and starts it from
// there, with its medium.
func (r *recording) cutAt(t *testing.T, n *node, disk *writelog.Disk, base string, c cut) {
	t.Helper()
	if err := machines.cut(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(disk.Cut(c.after, nil), qemu.CopySparse(n.disk(), base), disk.Rest(n.disk(), c.after, c.keep())); err != nil {
		t.Fatal(err)
	}
	if err := copyFirmware(n.dir, r.markAt(disk.Entries[c.after-1].End()).dir); err != nil {
		t.Fatal(err)
	}
	n.powerOn(t)
}

// afterPowerOn waits until a machine that starts from its medium has been installed, which is
// a restart with a whole table on the disk, or answers, which only one does that has started
// from its disk. The restart that enrols the keys of Secure Boot comes before.
func (n *node) afterPowerOn(t *testing.T) string {
	t.Helper()
	since := n.serialSize(t)
	events := n.listen(t)
	defer events.Close()
	ctx, cancel := context.WithTimeout(t.Context(), installLimit)
	defer cancel()
	answers := make(chan struct{})
	go func() { // beside, since a hand held out to a machine without network is taken late
		if poll(ctx, installLimit, n.shakesHands) == nil {
			close(answers)
		}
	}()
	for {
		select {
		case event, open := <-events.Events():
			if !open || event.Name == "SHUTDOWN" {
				t.Fatalf("the machine switched itself off; it says:\n%s", n.lastWords(since))
			}
			if table, err := n.table(); event.Name == "RESET" && err == nil && len(table.Partitions) >= layout.UsrB {
				return again
			}
		case <-answers:
			return started
		case <-ctx.Done():
			table, err := n.table()
			t.Fatalf("after %s the machine was neither installed nor does it answer; its disk has %d partitions (%v); it says:\n%s",
				installLimit, len(table.Partitions), err, n.lastWords(since))
		}
	}
}

// goOn waits until a machine that has its system on the disk is a ready node, its medium still
// in it, and switches it off.
func (n *node) goOn(t *testing.T, how string) {
	t.Helper()
	for _, met := range []string{"server.crt", "env"} { // the node of the cut before was another one
		if err := os.Remove(n.file(met)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	if how == again {
		n.powerOn(t)
	}
	limited, cancel := context.WithTimeout(t.Context(), upLimit)
	defer cancel()
	_, err := machines.lab.Up(limited, lab.Options{Name: n.name, BuildDir: machines.build, ReleaseDir: machines.tree, Progress: os.Stderr, NoSnapshot: true})
	if err != nil {
		t.Fatal(err)
	}
	server, err := newNode(t, n.name).api.Server(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if server.Environment.OSVersion != machines.version || !server.Environment.SystemIsReady {
		t.Errorf("the node runs %s, ready %v", server.Environment.OSVersion, server.Environment.SystemIsReady)
	}
	if err := machines.cut(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// installation is what an installation leaves on a disk.
type installation struct {
	// Partitions are the rows of the table, without the GUIDs that are made for each disk.
	Partitions []media.Partition
	// Contents are the SHA-256 of the partitions with the seed and the slots, by number.
	Contents map[int]string
	// ESP are the SHA-256 of its files, by path.
	ESP map[string]string
	// Marked says that the mark of an unfinished installation is still there.
	Marked bool
}

// lived is what of an installation stays through the first start: the slots, and the
// partitions that the installer made.
func (i installation) lived() installation {
	kept := installation{Contents: map[int]string{}}
	for _, p := range i.Partitions {
		if p.Number <= layout.UsrB {
			kept.Partitions = append(kept.Partitions, p)
		}
	}
	for _, number := range []int{layout.SigA, layout.VerityA, layout.UsrA} {
		kept.Contents[number] = i.Contents[number]
	}
	return kept
}

// table is the partition table on the machine's disk.
func (n *node) table() (media.Table, error) {
	disk, err := os.Open(n.disk())
	if err != nil {
		return media.Table{}, err
	}
	defer disk.Close()
	info, err := disk.Stat()
	if err != nil {
		return media.Table{}, err
	}
	return media.ReadTable(disk, info.Size())
}

// look reads what an installation has left on a disk that no machine uses.
func look(t *testing.T, path string) installation {
	t.Helper()
	table, err := (&node{dir: filepath.Dir(path)}).table()
	if err != nil {
		t.Fatalf("the table of the disk: %v", err)
	}
	disk, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	found := installation{Contents: map[int]string{}, ESP: espFiles(t, path)}
	for _, p := range table.Partitions {
		if p.Number < layout.SigA || p.Number > layout.UsrA {
			p.GUID = ""
		}
		found.Partitions = append(found.Partitions, p)
		if p.Number == layout.ESP || p.Number > layout.UsrB {
			continue
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, io.NewSectionReader(disk, p.Start, p.Size)); err != nil {
			t.Fatalf("reading partition %d of the disk: %v", p.Number, err)
		}
		found.Contents[p.Number] = hex.EncodeToString(sum.Sum(nil))
	}
	mark := make([]byte, install.MarkSize)
	if _, err := disk.ReadAt(mark, install.MarkOffset); err != nil {
		t.Fatal(err)
	}
	found.Marked = install.ParseMark(mark) != ""
	return found
}

// espFiles are the SHA-256 of all files on the ESP of a disk, by path.
func espFiles(t *testing.T, disk string) map[string]string {
	t.Helper()
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := machines.run(ctx, "mcopy", "-s", "-n", "-i", fmt.Sprintf("%s@@%d", disk, layout.FirstByte), "::/", dir+"/"); err != nil {
		t.Fatalf("reading the ESP: %v", err)
	}
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(text)
		files[strings.TrimPrefix(path, dir)] = hex.EncodeToString(sum[:])
		return nil
	})
	if err != nil {
		t.Fatalf("reading the ESP: %v", err)
	}
	if len(files) == 0 {
		t.Fatal("the ESP has no file")
	}
	return files
}
