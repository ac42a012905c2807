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
	t.Cleanup(func() { removeClone(t, installName) })
	r := newRecording(t, "recording-install")
	t.Cleanup(func() {
		if err := os.RemoveAll(filepath.Dir(r.log)); err != nil {
			t.Error(err)
		}
	})
	begun := time.Now()
	restore(t, lab.Options{Name: installName, Fresh: true, NoWait: true, NoSnapshot: true, WriteLog: r.log})
	n := watched(t, newNode(t, installName))
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
	moments := interruptions(t, disk, info.Size(), *points)
	outcomes, came := map[string]int{}, 0
	for i, m := range moments {
		t.Run(fmt.Sprintf("%s, %s after %d of %d", m.where, m.rest, m.after, len(disk.Entries)), func(t *testing.T) {
			watched(t, n)
			begun := time.Now()
			r.cutAt(t, n, disk, base, m.cut())
			how := n.afterPowerOn(t)
			if !slices.Contains(m.ends, how) {
				t.Errorf("the machine %s, and should have: %s", how, strings.Join(m.ends, ", or "))
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
			if m.ready || how == started {
				n.goOn(t, how)
				if diff := cmp.Diff(want.lived(), look(t, n.disk()).lived()); diff != "" {
					t.Errorf("what stays on the disk (-uninterrupted +interrupted):\n%s", diff)
				}
			}
			if !t.Failed() {
				came++
				outcomes[m.where+", "+m.rest+": "+how]++
			}
		})
	}
	var said []string
	for _, m := range moments {
		for _, how := range []string{again, started} {
			if outcome := m.where + ", " + m.rest + ": " + how; outcomes[outcome] > 0 {
				said = append(said, fmt.Sprintf("%s %d", outcome, outcomes[outcome]))
				delete(outcomes, outcome)
			}
		}
	}
	t.Logf("NUMBER install_power_cuts %d of %d: %s", len(moments)-came, len(moments), strings.Join(said, "; "))
}

// An interruption is a moment of an installation, and what may come of it.
type interruption struct {
	// after is how many entries of the log have happened, rest what became of those that
	// nobody had flushed, as in cut.
	after       int
	where, rest string
	// ends are the ways that the machine may go on. ready has it go on to a ready node, even
	// if it was installed again.
	ends  []string
	ready bool
}

func (m interruption) cut() cut { return cut{after: m.after, place: m.where, rest: m.rest} }

// interruptions picks moments: one when all data are on the disk and no table is, one when the
// table is, from five on one between the two copies of the table, and the others evenly by the
// bytes that were written before.
func interruptions(t *testing.T, disk *writelog.Disk, size int64, count int) []interruption {
	t.Helper()
	header := []byte("EFI PART")
	primary, first, err := disk.First(512, header)
	backup, second, err2 := disk.First(size-512, header)
	if err := errors.Join(err, err2); err != nil || !first || !second {
		t.Fatalf("the recording of %d writes has both copies of the table: %v and %v, %v", len(disk.Entries), first, second, err)
	}
	// Behind the last of the data, up to where the backup table lies, come flushes, and then the
	// first write of a table: the cut lies right before that one.
	tables := min(primary, backup)
	data := lastIndex(disk.Entries[:tables], func(e writelog.Entry) bool {
		return e.Length > 0 && !e.Discard && e.Offset >= layout.FirstByte && e.Offset < size-layout.MiB
	})
	before := data + 1 + slices.IndexFunc(disk.Entries[data+1:], func(e writelog.Entry) bool { return e.Length > 0 && !e.Discard })
	durable := slices.IndexFunc(disk.Entries[max(primary, backup):], func(e writelog.Entry) bool { return e.Flush })
	if data < 0 || durable < 0 {
		t.Fatalf("the recording has data up to entry %d, tables at %d and %d, and no flush behind them", data, primary, backup)
	}
	special := 2
	if count >= 5 {
		special = 3
	}
	var all []interruption
	for i, after := range writelog.Spread(disk.Entries, 0, data+1, count-special) {
		all = append(all, interruption{after, "amid the data", []string{"torn", "lost", "kept"}[i%3], []string{again}, false})
	}
	all = append(all, interruption{before, "before the table", "lost", []string{again}, true})
	if special == 3 {
		all = append(all, interruption{max(primary, backup), "amid the table", "kept", []string{again, started}, false})
	}
	return append(all, interruption{max(primary, backup) + durable + 1, "behind the table", "lost", []string{started}, true})
}

func lastIndex[T any](list []T, holds func(T) bool) int {
	for i := len(list) - 1; i >= 0; i-- {
		if holds(list[i]) {
			return i
		}
	}
	return -1
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
