package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	api "github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/delta"
	"github.com/holdfast-os/holdfast/internal/release"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

// earlierCommits is how far back the daemon of the release before comes from.
const earlierCommits = 20

// otherBuild names a folder as .build/out, of the release before with an older kernel.
const otherBuild = "HOLDFAST_BENCH_BEFORE"

func updates() []measurement {
	const against = "the same parts as whole files"
	return []measurement{
		{Name: "delta", Take: takeDaemonDelta, Rows: []metric{
			{ID: "update-daemon", What: "bytes of an update, only the daemon changed", Unit: inBytes, Limit: 0.02, Times: true, Against: against,
				Missed: "see its parts"},
		}},
		{Name: "kernel", Take: takeKernelDelta, Apart: "it needs a build of an older kernel, named by " + otherBuild, Rows: []metric{
			{ID: "update-kernel", What: "bytes of an update, another kernel with all modules", Unit: inBytes, Limit: 0.15, Times: true, Against: against,
				Missed: "see its parts"},
		}},
		{Name: "five", Take: takeFiveBack, Apart: "it needs a build of the kernel five of Debian's updates before, named by " + otherBuild, Rows: []metric{
			{ID: "update-five", What: "bytes of an update from five releases back", Unit: inBytes, Limit: 0.25, Times: true, Against: against,
				Missed: "see its parts"},
			{ID: "update-chunks", What: "bytes of an update from a release for which there is no delta (chunks)", Unit: inBytes, Limit: 0.25, Times: true, Against: against,
				Missed: "five kernels back nothing in the UKI is where it was, and modules built anew share few chunks of 64 KiB; a publisher who keeps more deltas (`--deltas`) closes it"},
		}},
		{Name: "slot", Take: takeSlot, Rows: []metric{
			{ID: "update-write", What: "writing a slot through systemd-sysupdate, out of whole files", Unit: inSeconds, Limit: 1.5, Times: true, Against: "`dd` of the same bytes, not packed",
				Missed: slotMissed},
			{ID: "update-write-delta", What: "writing a slot through systemd-sysupdate, out of deltas", Unit: inSeconds, Limit: 1.5, Times: true, Against: "`dd` of the same bytes",
				Missed: slotMissed},
			{ID: "update-memory", What: "memory of the process that feeds the slot", Unit: inBytes, Limit: 300e6, Missed: "see its parts"},
		}},
		{Name: "restart", Take: takeRestart, Rows: []metric{
			{ID: "restart-lost", What: "requests lost while holdfastd restarts", Unit: inPieces, Limit: 0, Missed: "see its parts"},
		}},
		{Name: "powercut", Take: takePowerCuts, Apart: "it starts a machine for each cut, which takes hours", Rows: []metric{
			{ID: "update-powercut", What: "power cuts during an update after which the node does not come back by itself with all that was there", Unit: inPieces, Limit: 0,
				Missed: "see its parts"},
		}},
		{Name: "return", Take: byHand, Apart: "they are taken by hand out of the tests named in their records", Rows: []metric{
			{ID: "incus-away", What: "API of Incus away while Incus is updated", Unit: inSeconds, Limit: 5,
				Missed: "it is the time that Incus itself takes to end and to start, on an emulated processor; nothing but its own start is in it"},
			{ID: "update-return", What: "bad release to the old one ready", Unit: inSeconds, Limit: 3, Times: true, Against: "a start of the same machine",
				Missed: "see its parts"},
		}},
	}
}

// takeRestart restarts a simulated node under requests.
func takeRestart(ctx context.Context, b *bench) ([]record, error) {
	const test = "TestRestart_RequestsMeanwhile_AreAllAnswered"
	result, err := b.runner(ctx, run.Command{Name: "go", Dir: b.root, Args: []string{"test", "-count=1", "-v", "./test/api", "-run", "^" + test + "$"}})
	found := restartLine.FindStringSubmatch(string(result.Stdout))
	if found == nil {
		return nil, fmt.Errorf("restarting a node: %s said no number: %w", test, err)
	}
	lost, err := strconv.ParseFloat(found[1], 64)
	if err != nil {
		return nil, fmt.Errorf("reading the number of lost requests: %w", err)
	}
	return []record{{ID: "restart-lost", Value: lost, How: fmt.Sprintf(
		"%s in test/api: eight clients ask a simulated node without a pause while it is ended and started five times, with a socket that outlives it as systemd's does; of %s requests, the longest restart took %s.", test, found[2], found[3])}}, nil
}

// restartLine is what the test says at its end.
var restartLine = regexp.MustCompile(`NUMBER restart_lost (\d+) of (\d+), the longest restart took (\S+)`)

// powerCuts is at how many writes of an update the power is cut.
const powerCuts = 40

// takePowerCuts updates a virtual machine and starts it as a power cut at each of many writes
// would have left it.
func takePowerCuts(ctx context.Context, b *bench) ([]record, error) {
	lost, all, outcomes, err := b.campaign(ctx, "campaign-powercut", powerCuts, "power_cuts")
	if err != nil {
		return nil, err
	}
	return []record{{ID: "update-powercut", Value: lost, How: fmt.Sprintf("%s cuts, a third behind writes to the ESP, a third behind writes to a slot, the others behind any write, "+
		"with what was not flushed lost, kept or torn in turn. What came back, by cut: %s.", all, outcomes)}}, nil
}

// campaign cuts the power of a virtual machine at many points and gives how many of how many
// were lost, and what came of the others.
func (b *bench) campaign(ctx context.Context, target string, points int, number string) (lost float64, all, outcomes string, err error) {
	result, err := b.runner(ctx, run.Command{Name: "make", Dir: b.root, Args: []string{target, fmt.Sprintf("POINTS=%d", points)}})
	found := campaignLine(string(result.Stdout), number)
	if found == nil {
		return 0, "", "", fmt.Errorf("cutting the power: the test said no number: %w", errors.Join(err, errors.New("its output has no line with "+number)))
	}
	if lost, err = strconv.ParseFloat(found[1], 64); err != nil {
		return 0, "", "", fmt.Errorf("reading the number of failed starts: %w", err)
	}
	return lost, found[2], found[3], nil
}

// campaignLine finds what a test of power cuts says at its end: how many were lost, of how
// many, and what came of the others.
func campaignLine(output, number string) []string {
	return regexp.MustCompile(`NUMBER ` + regexp.QuoteMeta(number) + ` (\d+) of (\d+): (.*)`).FindStringSubmatch(output)
}

// slotMissed holds for both ways: files that need no making at all take as long.
const slotMissed = "nearly all of it is stock systemd-pull, a process for each file, which reads 16 KiB at a time from a local connection, sums and writes them; as most reads end within a block of the disk, the kernel reads blocks before it writes them, which dd spares itself with whole ones. " +
	"Writing the slot without systemd-pull would close it, and would have to be proved against power cuts anew"

// slotTimes is how often a slot is written.
const slotTimes = 3

// takeSlot writes the release of the build into a slot of a disk in a file, as a node does.
func takeSlot(ctx context.Context, b *bench) ([]record, error) {
	result, err := b.runner(ctx, run.Command{Name: "go", Dir: b.root, Args: []string{
		"test", "./test/host", "-run", "^$", "-bench", "^BenchmarkSysupdate_Slot$", "-benchtime", fmt.Sprintf("%dx", slotTimes),
	}})
	if err != nil {
		return nil, fmt.Errorf("writing a slot: %w", err)
	}
	whole, wholeErr := benchmarkMetrics(string(result.Stdout), "BenchmarkSysupdate_Slot/whole")
	patched, patchedErr := benchmarkMetrics(string(result.Stdout), "BenchmarkSysupdate_Slot/delta")
	if err := errors.Join(wholeErr, patchedErr); err != nil {
		return nil, err
	}
	how := fmt.Sprintf("BenchmarkSysupdate_Slot in test/host, %d times, on the computer's own kernel: the four files of the release through package slotfeed and systemd-sysupdate into the other slot of a disk in a file", slotTimes)
	const dd = "; dd writes the same bytes, which are not packed, to the same partitions, with fsync."
	return []record{
		{ID: "update-write", Value: whole["s/update"], Other: whole["s/dd"], How: how + ", packed with gzip" + dd},
		{ID: "update-write-delta", Value: patched["s/update"], Other: patched["s/dd"], How: how + ", as patches for files in which 4 KiB in each 256 KiB are other ones" + dd},
		{ID: "update-memory", Value: max(whole["MB-peak"], patched["MB-peak"]) * 1e6,
			How: how + fmt.Sprintf(", whole (%.0f MB) and as patches (%.0f MB); largest resident set of that process.", whole["MB-peak"], patched["MB-peak"])},
	}, nil
}

// benchmarkMetrics reads the metrics of one benchmark out of what go test wrote, by unit.
func benchmarkMetrics(text, name string) (map[string]float64, error) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 4 || fields[0] != name && !strings.HasPrefix(fields[0], name+"-") {
			continue
		}
		metrics := map[string]float64{}
		for i := 2; i+1 < len(fields); i += 2 {
			value, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return nil, fmt.Errorf("reading the results of %s: %w", name, err)
			}
			metrics[fields[i+1]] = value
		}
		return metrics, nil
	}
	return nil, fmt.Errorf("reading the results of %s: it wrote none: %s", name, text)
}

// byHand is for numbers that a test says and a person notes.
func byHand(context.Context, *bench) ([]record, error) {
	return nil, errors.New("run the tests that the records name, and note their numbers in test/bench/results.json")
}

// takeDaemonDelta makes the release before out of the present one and the daemon of some
// commits ago, and publishes both.
func takeDaemonDelta(ctx context.Context, b *bench) (_ []record, err error) {
	work, err := os.MkdirTemp(filepath.Join(b.root, ".build"), "bench-delta-")
	if err != nil {
		return nil, fmt.Errorf("making a folder for releases: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	commit := fmt.Sprintf("HEAD~%d", earlierCommits)
	source, overlay, before := filepath.Join(work, "source"), filepath.Join(work, "overlay"), filepath.Join(work, "before")
	if err := errors.Join(os.MkdirAll(source, 0o755), os.MkdirAll(filepath.Join(overlay, "bin"), 0o755)); err != nil {
		return nil, fmt.Errorf("making a folder for releases: %w", err)
	}
	version, err := earlier(b.version)
	if err != nil {
		return nil, err
	}
	for _, c := range []run.Command{
		{Name: "bash", Dir: b.root, Args: []string{"-c", "set -o pipefail; git archive \"$1\" | tar -x -C \"$2\"", "archive", commit, source}},
		{Name: "go", Dir: source, Args: []string{"build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", filepath.Join(overlay, "bin", "holdfastd"), "./cmd/holdfastd"}, Env: []string{"CGO_ENABLED=0"}},
		{Name: filepath.Join(b.root, "image/steps/variant"), Dir: b.root,
			Env: []string{"HOLDFAST_ROOT=" + b.root, "VERSION=" + version, "HOLDFAST_OVERLAY=" + overlay, "HOLDFAST_OUT=" + before}},
	} {
		if _, err := b.runner(ctx, c); err != nil {
			return nil, fmt.Errorf("making the release before: %w", err)
		}
	}
	bytes, err := b.publishBoth(ctx, before, filepath.Join(work, "tree"))
	if err != nil {
		return nil, err
	}
	return []record{{ID: "update-daemon", Value: bytes.delta, Other: bytes.full, How: "the daemon of " + commit + " and that of now, the rest the same: " + bytes.how + "."}}, nil
}

// earlier is the version a minute before another.
func earlier(version string) (string, error) {
	const form = "200601021504"
	at, err := time.Parse(form, version)
	if err != nil {
		return "", fmt.Errorf("reading the version %s: %w", version, err)
	}
	return at.Add(-time.Minute).Format(form), nil
}

// takeKernelDelta publishes a build of an older kernel and then the present one.
func takeKernelDelta(ctx context.Context, b *bench) ([]record, error) {
	bytes, err := b.fromOther(ctx)
	if err != nil {
		return nil, err
	}
	return []record{{ID: "update-kernel", Value: bytes.delta, Other: bytes.full, How: "a build of the kernel before and the present one: " + bytes.how + "."}}, nil
}

// takeFiveBack does the same with a build of a much older kernel.
func takeFiveBack(ctx context.Context, b *bench) ([]record, error) {
	bytes, err := b.fromOther(ctx)
	if err != nil {
		return nil, err
	}
	how := "a build of the kernel five updates before and the present one: " + bytes.how + "."
	return []record{
		{ID: "update-five", Value: bytes.delta, Other: bytes.full, How: how + " A publisher makes deltas from five releases before, unless told otherwise."},
		{ID: "update-chunks", Value: bytes.chunks, Other: bytes.full, How: how},
	}, nil
}

// fromOther is what a node fetches that runs the release in otherBuild.
func (b *bench) fromOther(ctx context.Context) (_ toFetch, err error) {
	before := os.Getenv(otherBuild)
	if before == "" {
		return toFetch{}, fmt.Errorf("set %s to the folder of a build with an older kernel", otherBuild)
	}
	work, err := os.MkdirTemp(filepath.Join(b.root, ".build"), "bench-kernel-")
	if err != nil {
		return toFetch{}, fmt.Errorf("making a folder for releases: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	return b.publishBoth(ctx, before, filepath.Join(work, "tree"))
}

// toFetch is what a node fetches for the OS, in bytes.
type toFetch struct {
	// delta is with patches, chunks without them, full the whole files packed with gzip.
	delta, chunks, full float64
	// how has the parts one by one.
	how string
}

// publishBoth publishes a build and then the present one, and gives what a node with the
// first one fetches.
func (b *bench) publishBoth(ctx context.Context, before, tree string) (toFetch, error) {
	for _, args := range [][]string{{"--build", before, "--deltas", "0"}, {"--deltas", "1"}} {
		args = append([]string{"release", "publish", tree}, args...)
		if _, err := b.runner(ctx, run.Command{Name: filepath.Join(b.root, "bin/holdfast"), Dir: b.root, Args: args}); err != nil {
			return toFetch{}, fmt.Errorf("publishing: %w", err)
		}
	}
	version, err := release.BuildVersion(before)
	if err != nil {
		return toFetch{}, err
	}
	bases := map[api.Type]string{}
	older, err := readManifest(tree, version)
	if err != nil {
		return toFetch{}, err
	}
	for _, p := range older.Parts {
		bases[p.Type] = filepath.Join(before, p.Name)
	}
	m, err := readManifest(tree, b.version)
	if err != nil {
		return toFetch{}, err
	}
	var all toFetch
	var said []string
	for _, p := range m.Parts {
		if p.Component != api.ComponentOS {
			continue
		}
		least := p.Full.Size
		for _, d := range p.Deltas {
			least = min(least, d.Patch.Size)
		}
		chunks := p.Full.Size
		if p.Chunks != nil {
			missing, err := missingChunks(ctx, filepath.Join(tree, p.Chunks.Index.Path), bases[p.Type])
			if err != nil {
				return toFetch{}, fmt.Errorf("counting the chunks of %s: %w", p.Name, err)
			}
			chunks = min(chunks, missing+p.Chunks.Index.Size)
		}
		all.delta, all.chunks, all.full = all.delta+float64(least), all.chunks+float64(chunks), all.full+float64(p.Full.Size)
		said = append(said, fmt.Sprintf("%s %s by delta, %s by chunks, %s whole", p.Type, megabytes(least), megabytes(chunks), megabytes(p.Full.Size)))
	}
	slices.Sort(said)
	all.how = strings.Join(said, ", ")
	return all, nil
}

// readManifest reads what a release in a tree consists of.
func readManifest(tree, version string) (m api.Manifest, err error) {
	text, err := os.ReadFile(filepath.Join(tree, version, "x86_64", "manifest.json"))
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err != nil {
		return api.Manifest{}, fmt.Errorf("reading the manifest of %s: %w", version, err)
	}
	return m, nil
}

// missingChunks is how many bytes of a file's pack a node has to fetch that has the base.
func missingChunks(ctx context.Context, index, base string) (missing int64, err error) {
	list, err := os.Open(index)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, list.Close()) }()
	wanted, err := delta.ReadIndex(list)
	if err != nil {
		return 0, err
	}
	content, err := os.Open(base)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, content.Close()) }()
	places, err := delta.Scan(ctx, content)
	if err != nil {
		return 0, err
	}
	return delta.PlanChunks(wanted, delta.Local{Base: content, Places: places}.Has).Bytes, nil
}
