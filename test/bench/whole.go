package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// whole are the times of everything from a fresh clone on. They take too long, and too
// much of the computer, to be taken with the others.
func whole() []measurement {
	const apart = "it takes up to an hour and all of the computer"
	clone := func(name, what string, limit float64, f fresh) measurement {
		f.id = "whole-" + name
		row := metric{ID: f.id, What: what, Unit: inSeconds, Limit: limit}
		if f.command[0] == ".ci/run" {
			row.Missed = "each test that boots takes two to four minutes of emulation, one after the other: fewer boots in the " +
				"refusals of images and installations, and a smaller kernel image for the firmware to read, would close it."
		}
		return measurement{Name: name, Apart: apart, Rows: []metric{row}, Take: f.take}
	}
	return []measurement{
		clone("cold", "`make up` from nothing", 35*60, fresh{command: []string{"make", "up"}, emptyCache: true}),
		clone("ci-warm", "everything that CI runs, with its cache", 25*60, fresh{command: []string{".ci/run"}}),
		clone("ci-cold", "everything that CI runs, from nothing", 50*60, fresh{command: []string{".ci/run"}, emptyCache: true}),
	}
}

// fresh is a command in a fresh clone of the repository, timed as a whole.
type fresh struct {
	id         string
	command    []string
	emptyCache bool
}

func (f fresh) take(ctx context.Context, b *bench) (records []record, err error) {
	commit, err := b.runner(ctx, run.Command{Name: "git", Args: []string{"rev-parse", "--short", "HEAD"}, Dir: b.root})
	if err != nil {
		return nil, fmt.Errorf("asking for the commit: %w", err)
	}
	// A short name: the sockets of a machine in the clone are below it.
	folder, err := os.MkdirTemp("", "hfb-")
	if err != nil {
		return nil, fmt.Errorf("making a folder for the clone: %w", err)
	}
	defer func() { err = errors.Join(err, removeAll(folder)) }()
	clone := filepath.Join(folder, "c")
	if _, err := b.runner(ctx, run.Command{Name: "git", Args: []string{"clone", "--quiet", "--no-hardlinks", b.root, clone}}); err != nil {
		return nil, fmt.Errorf("cloning the repository: %w", err)
	}
	var env []string
	cache := "the cache of this computer"
	if f.emptyCache {
		env, cache = []string{"HOLDFAST_CACHE=" + filepath.Join(folder, "cache")}, "an empty HOLDFAST_CACHE"
	}
	inClone := func(ctx context.Context, argv ...string) (run.Result, error) {
		return b.runner(ctx, run.Command{Name: argv[0], Args: argv[1:], Env: env, Dir: clone})
	}
	text := strings.Join(f.command, " ")
	fmt.Fprintf(os.Stderr, "running %s in %s ...\n", text, clone)
	begun, load := time.Now(), loadAverage()
	result, err := inClone(ctx, f.command...)
	took := time.Since(begun)
	// "make clean" begins with "make down" for every machine of the clone.
	if _, cleanErr := inClone(context.WithoutCancel(ctx), "make", "clean"); cleanErr != nil {
		err = errors.Join(err, cleanErr)
	}
	if err != nil {
		return nil, err
	}
	how := fmt.Sprintf("`git clone`, then `%s` as one process with %s; Go's own caches and the mirror's are as they were.", text, cache)
	if parts := stepTimes(string(result.Stdout) + string(result.Stderr)); len(parts) > 0 {
		how += " Its parts: " + strings.Join(parts, ", ") + "."
	}
	return []record{{
		ID: f.id, Value: took.Seconds(), How: how,
		Conditions: fmt.Sprintf("%d processors, load %s before, commit %s", runtime.NumCPU(), load, strings.TrimSpace(string(commit.Stdout))),
	}}, nil
}

// stepTimes finds what the build and the lab say about their steps: "building the
// image: done in 2m1s", "install   100.3 s". Steps under ten seconds are left out.
func stepTimes(output string) []string {
	var parts []string
	for line := range strings.Lines(output) {
		name, span, done := strings.Cut(strings.TrimSpace(line), ": done in ")
		if !done {
			fields := strings.Fields(line)
			if len(fields) < 3 || fields[len(fields)-1] != "s" {
				continue
			}
			name, span = strings.Join(fields[:len(fields)-2], " "), fields[len(fields)-2]+"s"
		}
		took, err := time.ParseDuration(span)
		if err != nil || took < 10*time.Second {
			continue
		}
		parts = append(parts, fmt.Sprintf("%s %.0f s", name, took.Seconds()))
	}
	return parts
}

// removeAll ends what was left running in a folder and deletes the folder.
func removeAll(folder string) error {
	var failed []error
	for _, pid := range processesIn("/proc", folder) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			failed = append(failed, fmt.Errorf("ending process %d: %w", pid, err))
		}
	}
	if err := os.RemoveAll(folder); err != nil {
		failed = append(failed, fmt.Errorf("removing %s: %w", folder, err))
	}
	return errors.Join(failed...)
}

// processesIn finds the processes that work in a folder of bench's own, have it as
// their root, or name it in their arguments.
func processesIn(proc, folder string) []int {
	var found []int
	dirs, err := filepath.Glob(filepath.Join(proc, "[0-9]*"))
	if err != nil {
		return nil // the pattern is right
	}
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == os.Getpid() {
			continue
		}
		in := func(path string) bool { return path == folder || strings.HasPrefix(path, folder+"/") }
		root, _ := os.Readlink(filepath.Join(dir, "root")) // a process that ended is no matter
		cwd, _ := os.Readlink(filepath.Join(dir, "cwd"))
		args, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if in(root) || in(cwd) || strings.Contains(string(args), folder+"/") {
			found = append(found, pid)
		}
	}
	slices.Sort(found)
	return found
}
