// Package vm tests the real image in virtual machines: one test per sentence that the
// project promises to its users.
//
// One machine, the lab "test", is installed once and keeps its snapshot: `holdfast lab
// up test` makes the same one. A test of a live system starts from that snapshot, in
// seconds. A test that needs a boot works on a clone of it ("test-..."), which is
// removed afterwards. One machine runs at a time, and tests run one after the other;
// the names of the files put them in that order: live_, reboot_, setup_.
//
// Nothing is concluded from the wording of a log, except where the message itself is
// what the user gets (a refused installation, the question for a recovery key): there,
// a few key words are looked for on the serial console. That a kernel did not run is
// seen at the processor: only Linux runs in the upper half of the address space. Each
// refusal has its counterpart, the same machine with the right bytes, which starts.
//
// What a test that failed leaves behind is in .lab/test/failed-NAME/.
//
// Flags, as in `go test -v -timeout 3h ./test/vm -long`: -quick runs what needs the live
// machine and one reboot, -long adds whole installations, the network against peers in
// namespaces, every command of the stock client and every kind of bad release, of which
// -bad=KIND,KIND takes some; -points N cuts the power at N moments of an update, and of an
// installation. With -short nothing runs at all, since `make check` starts no machine.
package vm

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-os/holdfast/internal/lab"
	"github.com/holdfast-os/holdfast/internal/release"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/tooltree"
)

var (
	quick  = flag.Bool("quick", false, "only the tests of the live machine, and one reboot")
	long   = flag.Bool("long", false, "also the tests that take long: installations, the network on the wire, every bad release")
	bad    = flag.String("bad", "", "kinds of bad release to try, with commas between them; by default one of them, with -long all")
	points = flag.Int("points", 3, "at how many moments of an update, and of an installation, the power is cut")
)

// baseName is the lab that all tests start from.
const baseName = "test"

// upLimit bounds making, cloning or restoring a machine.
const upLimit = 30 * time.Minute

// machines is what the tests share; TestMain makes it.
var machines *world

// world is the project and its labs.
type world struct {
	root, build, tree, version string
	lab                        *lab.Lab
	tools                      tooltree.Tree
	// running is the machine that the tests started last, empty for none; pristine is
	// true while no test may have changed it.
	running  string
	pristine bool
	// recorded is what the machine wrote in the test of updates, once that has passed.
	recorded *recording
	// hostile is the clone for offline changes, once a test has made it.
	hostile *hostile
}

func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		fmt.Println("vm: -short starts no virtual machine: nothing is tested here")
		return
	}
	if list := flag.Lookup("test.list"); list != nil && list.Value.String() != "" {
		os.Exit(m.Run()) // the names of the tests need no machine
	}
	code, err := runAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		code = 1
	}
	os.Exit(code)
}

func runAll(m *testing.M) (code int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), upLimit)
	defer cancel()
	if machines, err = open(); err != nil {
		return 1, err
	}
	if err := machines.prepare(ctx); err != nil {
		return 1, err
	}
	code = m.Run()
	last, cancelLast := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancelLast()
	return code, machines.close(last)
}

// open finds the build and the labs. What is missing is said with the way on.
func open() (*world, error) {
	root, err := projectRoot()
	if err != nil {
		return nil, err
	}
	w := &world{root: root, build: filepath.Join(root, ".build", "out"), tree: filepath.Join(root, ".build", "release")}
	if w.version, err = release.BuildVersion(w.build); err != nil {
		return nil, fmt.Errorf("looking for the image: %w\ntry:   make build", err)
	}
	if _, err := os.Stat(filepath.Join(w.tree, "index.sjson")); err != nil {
		return nil, fmt.Errorf("looking for the release tree: %w\ntry:   make build", err)
	}
	if w.lab, err = lab.Open(root); err != nil {
		return nil, fmt.Errorf("%w\ntry:   make build", err)
	}
	if w.tools, err = tooltree.Default(); err != nil {
		return nil, fmt.Errorf("%w\ntry:   make build", err)
	}
	return w, nil
}

// projectRoot is the nearest folder above that holds the project's go.mod.
func projectRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the project's folder: %w", err)
	}
	for {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(text), "module github.com/holdfast-os/holdfast\n") {
			return dir, nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("finding the project's folder: %w", err)
		}
		if filepath.Dir(dir) == dir {
			return "", errors.New("finding the project's folder: there is no go.mod of it above the working directory")
		}
		dir = filepath.Dir(dir)
	}
}

// prepare removes what an aborted run left and makes sure that the base machine is
// installed from the present build and has a snapshot.
func (w *world) prepare(ctx context.Context) error {
	infos, err := w.lab.List()
	if err != nil {
		return err
	}
	fresh := false
	for _, info := range infos {
		if info.Name == baseName {
			fresh = info.Release != w.version || (info.Stage == "ready" && !info.Snapshot)
		}
	}
	for _, info := range infos {
		if !strings.HasPrefix(info.Name, baseName+"-") {
			continue
		}
		if info.Name == execName() && info.Snapshot && info.Release == w.version && !fresh {
			if err := w.lab.Power(ctx, info.Name, lab.Cut); err != nil {
				return err
			}
			continue
		}
		if err := w.lab.Remove(ctx, info.Name); err != nil {
			return err
		}
	}
	o := lab.Options{Name: baseName, BuildDir: w.build, ReleaseDir: w.tree, Fresh: fresh, Progress: os.Stderr}
	info, err := w.lab.Up(ctx, o)
	if err != nil {
		return fmt.Errorf("bringing up the machine that all tests start from: %w", err)
	}
	if !info.Snapshot {
		return errors.New("the machine that all tests start from has no snapshot: run `bin/holdfast lab up test --fresh`")
	}
	w.running = baseName // what was done on it before is not known: it is not pristine
	return nil
}

// close switches everything off and removes the clones.
func (w *world) close(ctx context.Context) error {
	failed := []error{w.cut(ctx)}
	if w.hostile != nil {
		failed = append(failed, w.lab.Remove(ctx, hostileName()))
	}
	return errors.Join(append(failed, w.lab.Down(ctx, baseName))...)
}

// cut takes the power from the machine that runs.
func (w *world) cut(ctx context.Context) error {
	name := w.running
	w.running, w.pristine = "", false
	if name == "" {
		return nil
	}
	err := w.lab.Power(ctx, name, lab.Cut)
	if errors.Is(err, lab.ErrNoLab) {
		return nil
	}
	return err
}

// run runs a program of the tools tree.
func (w *world) run(ctx context.Context, name string, args ...string) (run.Result, error) {
	return run.Host(ctx, w.tools.Command(name, args...))
}

// slow skips a test that reboots when only the quick ones are wanted.
func slow(t *testing.T) {
	t.Helper()
	if *quick {
		t.Skip("-quick: this test boots a machine")
	}
}

// longOnly skips a test that takes long unless they are wanted.
func longOnly(t *testing.T) {
	t.Helper()
	if !*long {
		t.Skip("-long: this test takes long (make test-long)")
	}
}
