//go:build linux

package host

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/system/tooltree"

	"github.com/holdfast-os/holdfast/internal/lab"
	"github.com/holdfast-os/holdfast/internal/system/qemu"
	"github.com/holdfast-os/holdfast/test/needs"
)

// brokenBuild is a repository with the real steps, a cache, and the real command
// line; what a test needs of the world is put in front of it.
type brokenBuild struct {
	t           *testing.T
	root, cache string
	holdfast    string
	env         []string
}

func newBrokenBuild(t *testing.T) *brokenBuild {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("missing: root")
	}
	needs.Programs(t, "mmdebstrap", "gpg", "apt-get", "flock", "unshare", "mount", "go")
	b := &brokenBuild{t: t, root: t.TempDir(), cache: t.TempDir()}
	b.holdfast = filepath.Join(t.TempDir(), "holdfast")
	build := exec.Command("go", "build", "-o", b.holdfast, "github.com/holdfast-os/holdfast/cmd/holdfast")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.CopyFS(filepath.Join(b.root, "image", "steps"), os.DirFS("../../image/steps")); err != nil {
		t.Fatal(err)
	}
	return b
}

// step replaces a step.
func (b *brokenBuild) step(name, script string) {
	b.t.Helper()
	writeProgram(b.t, filepath.Join(b.root, "image", "steps", name), script)
}

// program puts a program in front of this machine's own.
func (b *brokenBuild) program(name, script string) {
	b.t.Helper()
	dir := filepath.Join(b.root, "path")
	writeProgram(b.t, filepath.Join(dir, name), script)
	b.env = append(b.env, "PATH="+dir+":"+os.Getenv("PATH"))
}

func writeProgram(t *testing.T, path, script string) {
	t.Helper()
	writeFile(t, path, "#!/usr/bin/env bash\n"+script)
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

// command is `holdfast image build`, with a minute to end in, behind a prefix.
func (b *brokenBuild) command(prefix ...string) (*exec.Cmd, *bytes.Buffer) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	b.t.Cleanup(cancel)
	args := append(prefix, b.holdfast, "image", "build")
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.WaitDelay = time.Second
	cmd.Dir = b.root
	cmd.Env = append(os.Environ(), append(b.env, "HOLDFAST_ROOT="+b.root, "HOLDFAST_CACHE="+b.cache)...)
	stderr := &bytes.Buffer{}
	cmd.Stderr = stderr
	return cmd, stderr
}

// fails runs the build, which has to end with code 1, and gives the steps that were
// begun and the error.
func (b *brokenBuild) fails(prefix ...string) (begun []string, problem string) {
	b.t.Helper()
	cmd, stderr := b.command(prefix...)
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		b.t.Fatalf("got %v, want exit code 1; it said:\n%s", err, stderr)
	}
	for line := range strings.Lines(stderr.String()) {
		if step, _, found := strings.Cut(line, " (usually"); found {
			begun = append(begun, step)
		}
	}
	_, problem, _ = strings.Cut(stderr.String(), "error: ")
	return begun, problem
}

const (
	toolsStep    = "making the tools tree (mkosi, QEMU, swtpm, ...)"
	versionsStep = "looking up Debian's versions"
)

// steps compares the steps that were begun.
func (b *brokenBuild) steps(begun []string, want ...string) {
	b.t.Helper()
	if diff := cmp.Diff(want, begun); diff != "" {
		b.t.Errorf("steps that were begun (-want +got):\n%s", diff)
	}
}

// says checks that a person finds every one of these in the error.
func says(t *testing.T, problem string, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(problem, word) {
			t.Errorf("the error does not say %q:\n%s", word, problem)
		}
	}
}

func mustNotExist(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is there (%v)", path, err)
	}
}

// A full disk is told before gigabytes are fetched, with its numbers; and once there
// is space, nobody has to clean up.
func TestImageBuild_DiskFull_SaysWhereAndHowMuchThenGoesOn(t *testing.T) {
	b := newBrokenBuild(t)
	b.step("versions", "echo 'error: reached the next step' >&2; exit 1\n")
	begun, problem := b.fails("unshare", "--mount", "--propagation", "private",
		"sh", "-c", `mount -t tmpfs -o size=64m tmpfs "$HOLDFAST_CACHE" && exec "$@"`, "sh")
	b.steps(begun, toolsStep)
	says(t, problem, toolsStep, "error: "+b.cache+" has 64 MiB free; the build needs 4096 MiB for its tools",
		"try:   free some space there, or set HOLDFAST_CACHE to a larger disk",
		"run the same command again to go on from here", filepath.Join(b.root, ".build/log/tools-tree.log"))

	// A whole tree carries the list of its packages; the one of this computer is whole.
	needs.Tree(t, "mkosi")
	real, err := tooltree.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	mark, err := os.ReadFile(filepath.Join(real, "tools", ".complete"))
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(b.cache, "tools", ".complete"), string(mark))
	begun, problem = b.fails()
	b.steps(begun, toolsStep, versionsStep)
	says(t, problem, "reached the next step")
}

// apt gives this build an apt with a configuration, lists and cache of its own.
func (b *brokenBuild) apt(sources string) {
	b.t.Helper()
	dir := b.t.TempDir()
	writeFile(b.t, filepath.Join(dir, "etc/sources.list.d/debian.sources"), sources)
	for _, name := range []string{"etc/apt.conf.d", "etc/preferences.d", "etc/trusted.gpg.d", "state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			b.t.Fatal(err)
		}
	}
	// No proxy: these mirrors are on this machine, or nowhere.
	config := fmt.Sprintf("Dir::Etc \"%[1]s/etc\";\nDir::State \"%[1]s/state\";\nDir::State::status \"/var/lib/dpkg/status\";\n"+
		"Dir::Cache \"%[1]s/cache\";\nAPT::Sandbox::User \"root\";\nAcquire::http::Proxy \"DIRECT\";\n", dir)
	writeFile(b.t, filepath.Join(dir, "apt.conf"), config)
	b.env = append(b.env, "APT_CONFIG="+filepath.Join(dir, "apt.conf"))
}

// needSpace skips when the disk is too small to come as far as the mirror.
func (b *brokenBuild) needSpace() {
	b.t.Helper()
	out, err := exec.Command("stat", "-f", "--format=%a %S", b.cache).Output()
	var blocks, size int64
	if _, scanErr := fmt.Sscan(string(out), &blocks, &size); err != nil || scanErr != nil {
		b.t.Fatal(err, scanErr)
	}
	if blocks*size < 4<<30 {
		b.t.Skipf("missing: 4 GiB of free space at %s", b.cache)
	}
}

// Without a network, apt's own words lead a person astray; the mirror's name does not.
func TestImageBuild_MirrorNeverAnswered_NamesItAndWhatToCheck(t *testing.T) {
	b := newBrokenBuild(t)
	b.needSpace()
	b.apt("Types: deb\nURIs: http://127.0.0.1:9/debian\nSuites: trixie\nComponents: main\n\n" +
		"Types: deb\nURIs: http://127.0.0.1:9/debian-security\nSuites: trixie-security\nComponents: main\n")
	begun, problem := b.fails()
	b.steps(begun, toolsStep)
	says(t, problem, toolsStep, "error: the Debian mirror http://127.0.0.1:9/debian",
		" does not answer", "try:   check the network and /etc/apt/sources.list.d, then run the same command again")
	mustNotExist(t, filepath.Join(b.cache, "tools"))
	mustNotExist(t, filepath.Join(b.cache, "tools.new"))
}

// packages is the list of an archive that has one package.
const packages = "Package: none\nVersion: 1\nArchitecture: amd64\nFilename: none.deb\nSize: 1\n\n"

// mirrors serves an archive Debian and an archive Debian-Security.
func mirrors(t *testing.T) *httptest.Server {
	t.Helper()
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/Packages"):
			if _, err := io.WriteString(w, packages); err != nil {
				t.Error(err)
			}
		case strings.HasSuffix(r.URL.Path, "/Release"):
			label, suite := "Debian", "trixie"
			if strings.HasPrefix(r.URL.Path, "/debian-security/") {
				label, suite = "Debian-Security", "trixie-security"
			}
			if _, err := fmt.Fprintf(w, "Origin: Debian\nLabel: %s\nSuite: %s\nCodename: %s\nDate: Sat, 01 Nov 2025 10:00:00 UTC\n"+
				"Architectures: amd64\nComponents: main\nSHA256:\n %x %d main/binary-amd64/Packages\n",
				label, suite, suite, sha256.Sum256([]byte(packages)), len(packages)); err != nil {
				t.Error(err)
			}
		default:
			http.NotFound(w, r)
		}
	}))
}

// A laptop that built yesterday and is offline today knows the mirror from its lists:
// it must not begin a download that cannot end, nor lose what is there. Once the
// network is back the same step is begun again.
func TestImageBuild_MirrorGone_NamesItAndKeepsWhatIsThere(t *testing.T) {
	b := newBrokenBuild(t)
	b.needSpace()
	server := mirrors(t)
	defer server.Close()
	b.apt(fmt.Sprintf("Types: deb\nURIs: %[1]s/debian\nSuites: trixie\nComponents: main\nTrusted: yes\n\n"+
		"Types: deb\nURIs: %[1]s/debian-security\nSuites: trixie-security\nComponents: main\nTrusted: yes\n", server.URL))
	b.program("mmdebstrap", "echo 'E: reached mmdebstrap' >&2; exit 1\n")
	begun, problem := b.fails()
	b.steps(begun, toolsStep)
	says(t, problem, "E: reached mmdebstrap", "error: making the tools tree failed", "try:   run the same command again")

	writeFile(t, filepath.Join(b.cache, "tools", "half"), "")
	server.Close()
	begun, problem = b.fails()
	b.steps(begun, toolsStep)
	says(t, problem, "error: the Debian mirror "+server.URL+"/debian does not answer",
		"try:   check the network and /etc/apt/sources.list.d, then run the same command again")
	if _, err := os.Stat(filepath.Join(b.cache, "tools", "half")); err != nil {
		t.Error(err)
	}
}

// A build that is killed leaves programs that go on writing: the next one has to end
// them, begin the step anew, and take nothing half-made for done.
func TestImageBuild_KilledInAStep_BeginsThatStepAgain(t *testing.T) {
	b := newBrokenBuild(t)
	b.needSpace()
	server := mirrors(t)
	defer server.Close()
	b.apt(fmt.Sprintf("Types: deb\nURIs: %[1]s/debian\nSuites: trixie\nComponents: main\nTrusted: yes\n\n"+
		"Types: deb\nURIs: %[1]s/debian-security\nSuites: trixie-security\nComponents: main\nTrusted: yes\n", server.URL))
	fifo, gate := filepath.Join(b.root, "fifo"), filepath.Join(b.root, "gate")
	for _, name := range []string{fifo, gate} {
		if out, err := exec.Command("mkfifo", name).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	target := `for target; do [ "$target" != - ] || break; made=$target; done; mkdir -p "$made"` + "\n"
	b.program("mmdebstrap", target+fmt.Sprintf("touch \"$made/half\"; echo $$ >%q; read -r _ <%q; touch \"$made/late\"\n", fifo, gate))
	middle, err := os.OpenFile(fifo, os.O_RDWR|syscall.O_NONBLOCK, 0) // with a deadline
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = middle.Close() }() // only read
	if err := middle.SetReadDeadline(time.Now().Add(40 * time.Second)); err != nil {
		t.Fatal(err)
	}
	cmd, _ := b.command()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var orphan int // waits until the step is in its middle
	if _, err := fmt.Fscan(middle, &orphan); err != nil {
		_ = cmd.Process.Kill() // it is the step that did not come so far
		log, _ := os.ReadFile(filepath.Join(b.root, ".build/log/tools-tree.log"))
		t.Fatalf("waiting for the step: %v; its log: %s", err, log)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("a killed build ended well")
	}
	mustNotExist(t, filepath.Join(b.cache, "tools"))

	b.program("mmdebstrap", target+`touch "$made/whole"`+"\n")
	b.step("versions", "echo 'error: reached the next step' >&2; exit 1\n")
	begun, problem := b.fails()
	b.steps(begun, toolsStep, versionsStep)
	says(t, problem, "reached the next step")
	var got []string
	entries, err := os.ReadDir(filepath.Join(b.cache, "tools"))
	for _, entry := range entries {
		got = append(got, entry.Name())
	}
	if diff := cmp.Diff([]string{".complete", "whole"}, got); diff != "" || err != nil {
		t.Errorf("the tools tree (-want +got, %v):\n%s", err, diff)
	}
	// A process that has ended has no command line, even before its parent knows.
	if still, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", orphan)); err == nil && len(still) > 0 {
		t.Errorf("process %d of the killed build still runs", orphan)
		if err := syscall.Kill(orphan, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}
}

// fakeTools is a tools tree whose only program fails, after it has noted its arguments.
func fakeTools(t *testing.T) (noted string) {
	t.Helper()
	cache := t.TempDir()
	noted = filepath.Join(cache, "noted")
	writeProgram(t, filepath.Join(cache, "tools/lib64/ld-linux-x86-64.so.2"), fmt.Sprintf("printf '%%s ' \"$@\" >>%q; exit 9\n", noted))
	writeFile(t, filepath.Join(cache, "tools/.complete"), "")
	t.Setenv("HOLDFAST_CACHE", cache)
	return noted
}

// tinyMachine needs no tools before QEMU itself.
var tinyMachine = lab.Hardware{NoMedium: true, NoTPM: true, BIOS: true, DiskGiB: []int{1}, Accel: qemu.TCG}

// taken listens on a port, as another program of this person would.
func taken(t *testing.T, address string) (net.Listener, int) {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() }) // a test may have closed it
	return listener, listener.Addr().(*net.TCPAddr).Port
}

// "address already in use" leaves one to find out by whom: the error names port and
// process, wherever it listens, and once the port is free the same command goes on.
func TestLabUp_ChosenPortTaken_NamesPortAndProcessThenGoesOn(t *testing.T) {
	for name, address := range map[string]string{"on 127.0.0.1": "127.0.0.1:0", "on every address": "[::]:0"} {
		for _, which := range []string{"api", "release"} {
			t.Run(which+" port "+name, func(t *testing.T) {
				noted := fakeTools(t)
				l, err := lab.Open(t.TempDir())
				if err != nil {
					t.Fatal(err)
				}
				listener, port := taken(t, address)
				o := lab.Options{Name: "x", NoWait: true, Hardware: tinyMachine}
				if o.APIPort = port; which == "release" {
					o.APIPort, o.ReleasePort, o.ReleaseDir = 0, port, t.TempDir()
				}
				_, err = l.Up(t.Context(), o)
				says(t, fmt.Sprint(err), fmt.Sprintf("taking port %d: ", port), fmt.Sprintf("process %d (%s", os.Getpid(), os.Args[0]),
					"(stop that process, or choose another port)")
				mustNotExist(t, noted)

				if err := listener.Close(); err != nil {
					t.Fatal(err)
				}
				_, err = l.Up(t.Context(), o)
				var failed *lab.PhaseError
				if !errors.As(err, &failed) {
					t.Fatalf("with the port free: got %v, want the phase that fails here", err)
				}
				want := map[string]string{"api": "start", "release": "release server"}[which]
				if failed.Phase != want {
					t.Errorf("with the port free it ended in %q, want %q: %v", failed.Phase, want, err)
				}
			})
		}
	}
}

// A machine keeps its ports while it is off; somebody may have taken one meanwhile.
// Then --fresh gets it going, on another port.
func TestLabUp_PortOfStoppedMachineTaken_FreshTakesAnother(t *testing.T) {
	noted := fakeTools(t)
	root := t.TempDir()
	l, err := lab.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	listener, port := taken(t, "127.0.0.1:0")
	stopped := fmt.Sprintf(`{"version":1,"release":"202611220104","stage":"installed","api_port":%d}`, port)
	writeFile(t, filepath.Join(root, ".lab/x/state.json"), stopped)
	writeFile(t, filepath.Join(root, ".lab/x/api.port"), strconv.Itoa(port))
	o := lab.Options{Name: "x", NoWait: true, Hardware: tinyMachine}
	_, err = l.Up(t.Context(), o)
	says(t, fmt.Sprint(err), "start, after ", fmt.Sprintf("starting the machine: taking port %d: ", port),
		fmt.Sprintf("process %d (%s", os.Getpid(), os.Args[0]), "(stop that process, or start again with --fresh)")
	mustNotExist(t, noted)

	o.Fresh = true
	_, err = l.Up(t.Context(), o)
	var failed *lab.PhaseError
	if !errors.As(err, &failed) || failed.Phase != "start" {
		t.Fatalf("with --fresh: got %v, want QEMU to be started, which fails here", err)
	}
	forwarded := regexp.MustCompile(`hostfwd=tcp:127\.0\.0\.1:([0-9]+)-`).FindSubmatch(mustRead(t, noted))
	if forwarded == nil || string(forwarded[1]) == strconv.Itoa(port) {
		t.Errorf("with --fresh: forwarded port %q, want another one than %d", forwarded, port)
	}

	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(root, ".lab/x/state.json"), stopped)
	if err := os.Remove(noted); err != nil {
		t.Fatal(err)
	}
	o.Fresh = false
	if _, err = l.Up(t.Context(), o); err == nil || strings.Contains(err.Error(), "taking port") {
		t.Errorf("with the port free: got %v", err)
	}
	if !bytes.Contains(mustRead(t, noted), []byte("qemu-system-x86_64")) {
		t.Error("with the port free QEMU was not started")
	}
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
