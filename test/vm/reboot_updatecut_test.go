package vm

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/lab"
	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/system/qemu"
	"github.com/holdfast-os/holdfast/test/vm/writelog"
)

// recording is all that a machine wrote while a test updated it, so that its power can be cut
// afterwards at any write.
type recording struct {
	log string
	// from is how long the log was, in bytes, when there was all that has to be kept.
	from int64
	// releases are the good ones, oldest first: one of them runs after a cut. kept is what every
	// cut must leave as it is.
	releases []string
	kept     kept

	stop  func()
	mu    sync.Mutex
	marks []mark
}

// mark is a copy of what a machine keeps outside of its disk: firmware variables and TPM.
type mark struct {
	// from is how long the log was, in bytes, when the copy was taken.
	from int64
	dir  string
}

// kept is what an owner would miss.
type kept struct {
	// Trusted says that the TPM opened the disk, of a machine with Secure Boot.
	Trusted bool
	// Frequency is a setting that the test has changed.
	Frequency string
	// Applications and Containers are all that there are, with the containers' states.
	Applications []string
	Containers   string
}

// record restores the base machine with a log of its writes.
func record(t *testing.T) (*node, *recording) {
	t.Helper()
	r := newRecording(t, "recording")
	restore(t, lab.Options{Name: baseName, WriteLog: r.log})
	n := watched(t, newNode(t, baseName))
	r.begin(t, n)
	return n, r
}

// newRecording makes an empty folder beside the base machine for a log.
func newRecording(t *testing.T, name string) *recording {
	t.Helper()
	dir := filepath.Join(machines.root, ".lab", baseName, name)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return &recording{log: filepath.Join(dir, "writes.log")}
}

// begin keeps the machine's variables and TPM beside the log, until stop is called.
func (r *recording) begin(t *testing.T, n *node) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.follow(ctx, n, filepath.Dir(r.log)) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("copying the firmware's variables and the TPM: %v", err)
		}
	})
	t.Cleanup(r.stop)
}

// follow copies variables and TPM whenever they have changed.
func (r *recording) follow(ctx context.Context, n *node, dir string) error {
	ticker := time.NewTicker(askEvery)
	defer ticker.Stop()
	for last := ""; ; {
		now, err := n.firmwareSeen()
		if err != nil {
			return err
		}
		if now != last {
			info, err := os.Stat(r.log)
			if err != nil {
				return err
			}
			m := mark{from: info.Size(), dir: filepath.Join(dir, fmt.Sprintf("mark-%d", len(r.marks)))}
			if err := copyFirmware(m.dir, n.dir); err != nil {
				return err
			}
			after, err := n.firmwareSeen()
			if err != nil {
				return err
			}
			if after == now { // else it was being written: the next look copies it again
				r.mu.Lock()
				r.marks = append(r.marks, m)
				r.mu.Unlock()
				last = now
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// firmwareFiles are the files of variables and TPM, relative to a machine's folder.
func firmwareFiles(dir string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "tpm", "tpm2-*"))
	if err != nil {
		return nil, err
	}
	for i := range files {
		files[i] = filepath.Join("tpm", filepath.Base(files[i]))
	}
	return append(files, "vars.fd"), nil
}

func (n *node) firmwareSeen() (string, error) {
	files, err := firmwareFiles(n.dir)
	if err != nil {
		return "", err
	}
	var seen strings.Builder
	for _, file := range files {
		info, err := os.Stat(n.file(file))
		if err != nil {
			return "", err
		}
		fmt.Fprintln(&seen, file, info.Size(), info.ModTime().UnixNano())
	}
	return seen.String(), nil
}

func copyFirmware(to, from string) error {
	files, err := firmwareFiles(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(to, "tpm"), 0o700); err != nil {
		return err
	}
	for _, file := range files {
		if err := qemu.CopySparse(filepath.Join(to, file), filepath.Join(from, file)); err != nil {
			return err
		}
	}
	return nil
}

// markAt is the newest copy from before a place in the log.
func (r *recording) markAt(place int64) mark {
	r.mu.Lock()
	defer r.mu.Unlock()
	found := r.marks[0]
	for _, m := range r.marks {
		if m.from <= place {
			found = m
		}
	}
	return found
}

// A cut is a moment of a recording and what becomes of the writes that nobody had flushed.
type cut struct {
	// after is how many entries of the log have happened.
	after int
	// place says in words where the last write went.
	place string
	// rest is "lost", "kept" or "torn": some of it is there.
	rest string
}

// cuts picks moments of a log from an entry on: a third behind writes to the ESP, where a boot begins, a third
// behind writes to the slots, and the others behind any write, each third evenly spread.
func cuts(entries []writelog.Entry, first, count int) []cut {
	var esp, slots, all []int
	for i, e := range entries {
		if i < first || e.Length == 0 || e.Discard {
			continue
		}
		all = append(all, i+1)
		switch place(e.Offset) {
		case "ESP":
			esp = append(esp, i+1)
		case "slot":
			slots = append(slots, i+1)
		}
	}
	picked := map[int]bool{}
	for i, from := range [][]int{esp, slots, all} {
		share := (count + 2 - i) / 3
		for k := range min(share, len(from)) {
			picked[from[(2*k+1)*len(from)/(2*share)]] = true
		}
	}
	var out []cut
	for i, after := range slices.Sorted(maps.Keys(picked)) {
		out = append(out, cut{after, place(entries[after-1].Offset), []string{"lost", "torn", "kept"}[i%3]})
	}
	return out
}

// place is what lies at an offset of the disk, in bytes.
func place(offset int64) string {
	within := func(number int) bool {
		return offset >= layout.Start(number) && offset < layout.Start(number)+layout.Size(number)
	}
	switch {
	case within(layout.ESP):
		return "ESP"
	case slices.ContainsFunc([]int{layout.UsrA, layout.SigA, layout.VerityA, layout.SigB, layout.VerityB, layout.UsrB}, within):
		return "slot"
	}
	return "state or data"
}

// keep says which of the unflushed writes of a cut reached the disk; always the same ones.
func (c cut) keep() func(int) bool {
	switch c.rest {
	case "kept":
		return func(int) bool { return true }
	case "torn":
		some := rand.New(rand.NewPCG(uint64(c.after), 1))
		return func(int) bool { return some.IntN(2) == 0 }
	}
	return nil
}

// replay starts the stopped machine as each cut would have left it, one after the other, and
// fails unless each starts by itself, with its disk opened by the TPM, with one of the
// releases of the recording, and with all that was there before.
func (r *recording) replay(t *testing.T, n *node, count int) {
	t.Helper()
	base := filepath.Join(filepath.Dir(r.log), "disk.raw")
	if err := qemu.CopySparse(base, n.file("snapshot/disk0.raw")); err != nil {
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
	size, err := qemu.ImageSize(base, "raw")
	if err != nil {
		t.Fatal(err)
	}
	first := slices.IndexFunc(disk.Entries, func(e writelog.Entry) bool { return e.End() > r.from })
	outcomes, moments := map[string]int{}, cuts(disk.Entries, max(first, 0), count)
	for i, c := range moments {
		t.Run(fmt.Sprintf("%s %s after %d of %d", c.place, c.rest, c.after, len(disk.Entries)), func(t *testing.T) {
			watched(t, n)
			if err := machines.cut(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := disk.Cut(c.after, c.keep()); err != nil {
				t.Fatal(err)
			}
			if err := qemu.MakeOverlay(n.file("disk0.qcow2"), base, "raw", size); err != nil {
				t.Fatal(err)
			}
			if err := copyFirmware(n.dir, r.markAt(disk.Entries[c.after-1].End()).dir); err != nil {
				t.Fatal(err)
			}
			begun := time.Now()
			n.powerOn(t)
			n.api.Close() // connections to the machine before
			until(t, 2*bootLimit, "waiting for the node after a power cut", n.ready)
			answered := time.Since(begun).Round(time.Second)
			release := r.expectKept(t, n)
			which := "the new release"
			if release == r.releases[0] {
				which = "the old release"
			}
			if !t.Failed() {
				outcomes[fmt.Sprintf("last write to %s, unflushed %s: %s", c.place, c.rest, which)]++
			}
			t.Logf("cut %d of %d: %s answered after %s", i+1, len(moments), which, answered)
		})
	}
	came := 0
	var said []string
	for _, outcome := range slices.Sorted(maps.Keys(outcomes)) {
		came += outcomes[outcome]
		said = append(said, fmt.Sprintf("%s %d", outcome, outcomes[outcome]))
	}
	t.Logf("NUMBER power_cuts %d of %d: %s", len(moments)-came, len(moments), strings.Join(said, "; "))
}

// expectKept compares what the node has with what it had, and gives the release that runs.
func (r *recording) expectKept(t *testing.T, n *node) string {
	t.Helper()
	got := n.kept(t, r.kept.Containers)
	if diff := cmp.Diff(r.kept, got); diff != "" {
		t.Errorf("what is there (-before +after):\n%s", diff)
	}
	state, err := n.updates(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(r.releases, state.RunningVersion) {
		t.Errorf("release %s runs, want one of %v", state.RunningVersion, r.releases)
	}
	return state.RunningVersion
}

// kept looks at what the node has, once its containers are what they should be or time is up.
func (n *node) kept(t *testing.T, containers string) kept {
	t.Helper()
	c := stockClient(t, n)
	var got kept
	wait := poll(t.Context(), 5*time.Minute, func(ctx context.Context) (bool, error) {
		list, err := c.try(ctx, shortLimit, "list", "node:", "-f", "csv", "-c", "ns")
		got.Containers = strings.TrimSpace(list)
		return err == nil && (containers == "" || got.Containers == containers), err
	})
	if wait != nil {
		t.Logf("the containers: %v", wait)
	} else {
		c.expectContainer(t)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	security, err := n.api.Security(ctx)
	if err != nil {
		t.Fatal(err)
	}
	got.Trusted = security.State.SystemStateIsTrusted && security.State.SecureBootEnabled
	update, _, err := n.api.Update(ctx)
	if err != nil {
		t.Fatal(err)
	}
	got.Frequency = update.Config.CheckFrequency
	if got.Applications, err = n.api.Applications(ctx); err != nil {
		t.Fatal(err)
	}
	return got
}
