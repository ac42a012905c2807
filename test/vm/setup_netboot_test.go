package vm

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-os/holdfast/internal/lab"
	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/system/qemu"
	"github.com/holdfast-os/holdfast/test/vm/peers"
)

const (
	// bootServer is where the image is served, bootName what its choice is called.
	bootServer, bootName = peerV4 + ":8080", "rack1"
	// netMemory is what the machine has in MiB: the unpacked image in one piece above 4 GiB, and
	// room to work. A board of QEMU's has 2 GiB below.
	netMemory = 9 << 10
	// fetchLimit bounds one fetch of the image by the firmware, on an emulated processor.
	fetchLimit = time.Hour
	// stallLimit is how long nothing may come over the wire, to the disk and to the serial port.
	stallLimit = 10 * time.Minute
	// imageAtLeast is what every image has, in bytes: its partitions lie at fixed places.
	imageAtLeast = 4 << 30
)

// A rack of machines is installed with nothing put into them: empty disk, no medium, and the
// firmware's HTTP boot fetches the image that DHCP names. Then the machine starts from its disk,
// and fetches nothing any more. The firmware has the keys of Secure Boot already: enrolling them
// would fetch the image once more, which takes half an hour here.
func TestInstall_OverTheNetwork_EndsInATrustedNode(t *testing.T) {
	slow(t)
	longOnly(t)
	needPeers(t)
	if err := machines.cut(t.Context()); err != nil { // packing needs the processors
		t.Fatal(err)
	}
	tree := mediumTree(t) // it stays until its server has ended
	r := newRack(t)
	cert, key, err := lab.NewClientCert(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	image := r.serveImage(t, tree, cert)

	t.Cleanup(func() { removeClone(t, installName()) })
	vars := filepath.Join(t.TempDir(), "vars.fd") // the base machine may be started again meanwhile
	if err := qemu.CopySparse(vars, filepath.Join(machines.root, ".lab", baseName, "snapshot", "vars.fd")); err != nil {
		t.Fatal(err)
	}
	restore(t, lab.Options{Name: installName(), ClientCert: cert, ClientKey: key, Vars: vars, Fresh: true, NoWait: true, NoSnapshot: true, Hardware: lab.Hardware{
		MemoryMiB: netMemory, NoMedium: true, NetworkBoot: true, Taps: []string{r.tap},
		// Firmware tries what it has for a card one after the other; only HTTP over IPv4 is tried
		// here, and the minutes in which nobody answers PXE are saved.
		FWCfg: []qemu.Value{{Name: "opt/org.tianocore/IPv4PXESupport", Text: "no"}, {Name: "opt/org.tianocore/IPv6Support", Text: "no"}},
	}})
	n := watched(t, newNode(t, installName()))
	fetched := r.follow(t, n)
	if fetched < image || fetched > image+image/5 {
		t.Errorf("%d MB came over the wire until the machine was installed, want a little more than %d", fetched>>20, image>>20)
	}

	begun := time.Now()
	limited, cancel := context.WithTimeout(t.Context(), upLimit)
	defer cancel()
	if _, err := machines.lab.Up(limited, lab.Options{Name: installName(), BuildDir: machines.build, ReleaseDir: machines.tree, Progress: os.Stderr, NoSnapshot: true}); err != nil {
		t.Fatal(err)
	}
	t.Logf("from the installation's restart to a ready node: %s", time.Since(begun).Round(time.Second))
	n = newNode(t, installName())
	server, err := n.api.Server(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if server.Environment.OSVersion != machines.version || !server.Environment.SystemIsReady {
		t.Errorf("the node runs %s, ready %v", server.Environment.OSVersion, server.Environment.SystemIsReady)
	}
	if state := n.security(t); !state.SystemStateIsTrusted || !state.SecureBootEnabled {
		t.Errorf("the state is %q, Secure Boot %v", state.SystemStateStatus, state.SecureBootEnabled)
	}
	if more := r.bytes(t) - fetched; more > image/10 {
		t.Errorf("%d MB more came over the wire: the machine did not start from its disk", more>>20)
	}
}

// rack is a network with one machine and a server in it.
type rack struct {
	lan *peers.Namespace
	tap string
}

// newRack makes the network, with DHCP as the documentation has it.
func newRack(t *testing.T) *rack {
	t.Helper()
	side, err := peers.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for name, text := range side.Outputs() {
				t.Logf("%s: %s", name, text)
			}
		}
		if err := side.Close(); err != nil {
			t.Error(err)
		}
	})
	r := &rack{}
	room, err := side.Switch(t.Context())
	if err == nil {
		r.lan, err = side.Namespace(t.Context(), "lan")
	}
	if err == nil {
		err = room.Attach(t.Context(), r.lan, "eth0", 0, peerV4+"/24")
	}
	if err == nil {
		r.tap, err = room.Tap(t.Context(), "t0")
	}
	if err == nil {
		err = r.lan.Dnsmasq(t.Context(), peerV4, "interface=eth0", "dhcp-authoritative", "dhcp-range=192.0.2.100,192.0.2.120,255.255.255.0,1h", "dhcp-option=option:router",
			"dhcp-vendorclass=set:http,HTTPClient", "dhcp-option-force=tag:http,60,HTTPClient", "dhcp-boot=tag:http,http://"+bootServer+"/boot/"+bootName+".img")
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// serveImage serves the image of a choice, as the documentation says, and gives its length
// once it is ready to be sent.
func (r *rack) serveImage(t *testing.T, tree string, cert []byte) int64 {
	t.Helper()
	choice := filepath.Join(t.TempDir(), bootName+".yaml")
	text := "architecture: x86_64\nchannel: stable\napplications: [incus]\ninstall_target: {id: virtio-holdfast-disk}\n" +
		"trusted_certificates:\n  - |\n    " + strings.ReplaceAll(strings.TrimSpace(string(cert)), "\n", "\n    ") + "\n" +
		"seeds:\n  provider: {name: images, config: {server_url: \"" + lab.ReleaseURL + "\"}}\n"
	if err := os.WriteFile(choice, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	err := r.lan.Program(t.Context(), "image-serve", bootServer, filepath.Join(machines.root, "bin/holdfast"),
		"image", "serve", tree, "--listen", bootServer, "--boot", bootName+"="+choice)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), imageLimit)
	defer cancel()
	begun := time.Now()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		return r.lan.DialFrom(ctx, nil, network, address)
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodHead, "http://"+bootServer+"/boot/"+bootName+".img", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatalf("asking for the image as firmware does: %v", err)
	}
	_ = answer.Body.Close() // the answer to HEAD has none
	if kind := answer.Header.Get("Content-Type"); answer.StatusCode != http.StatusOK || kind != "application/vnd.efi-img" || answer.ContentLength < imageAtLeast {
		t.Fatalf("asking for the image as firmware does: %s, %s, %d bytes", answer.Status, kind, answer.ContentLength)
	}
	t.Logf("the image, %d MB, was ready to be sent after %s", answer.ContentLength>>20, time.Since(begun).Round(time.Second))
	return answer.ContentLength
}

// bytes is what came over the wire to the machine up to now.
func (r *rack) bytes(t *testing.T) int64 {
	t.Helper()
	text, err := os.ReadFile("/sys/class/net/" + r.tap + "/statistics/tx_bytes")
	if err != nil {
		t.Fatal(err)
	}
	sent, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return sent
}

// journey is what was seen of a machine on its way from power on to the end of its
// installation.
type journey struct {
	rack     *rack
	node     *node
	begun    time.Time
	restarts int
	// since is the last restart, sent what had come over the wire by then.
	since time.Time
	sent  int64
	// whole is true once a whole image has come since the last restart.
	whole bool
	// moved is when anything came over the wire, to the disk or to the serial port, seen how
	// much there was.
	moved time.Time
	seen  [3]int64
}

// follow waits for the restart that ends the installation, says how long each part took, and
// gives what came over the wire until then.
func (r *rack) follow(t *testing.T, n *node) int64 {
	t.Helper()
	events := n.listen(t)
	defer events.Close()
	ctx, cancel := context.WithTimeout(t.Context(), fetchLimit+installLimit)
	defer cancel()
	ticker := time.NewTicker(10 * time.Second)
	defer ticker.Stop()
	now := time.Now()
	j := &journey{rack: r, node: n, begun: now, since: now, moved: now}
	for {
		select {
		case event, open := <-events.Events():
			if !open || event.Name == "SHUTDOWN" {
				j.fail(t, "the machine switched itself off")
			}
			if event.Name == "RESET" && j.restarted(t) {
				return j.sent
			}
		case <-ticker.C:
			j.look(t)
		case <-ctx.Done():
			j.fail(t, "time is up")
		}
	}
}

// restarted notes a restart, and tells whether it was the one behind the installation.
func (j *journey) restarted(t *testing.T) bool {
	t.Helper()
	sent := j.rack.bytes(t)
	j.restarts++
	t.Logf("restart %d: %s after the one before, with %d MB over the wire", j.restarts, time.Since(j.since).Round(time.Second), (sent-j.sent)>>20)
	j.since, j.sent, j.whole = time.Now(), sent, false
	table, err := j.node.table()
	if err == nil && len(table.Partitions) >= layout.UsrB {
		return true
	}
	if j.restarts > 2 {
		j.fail(t, "the machine restarts again and again")
	}
	return false
}

// look sees whether the machine still gets on.
func (j *journey) look(t *testing.T) {
	t.Helper()
	sent := j.rack.bytes(t)
	if now := [3]int64{sent >> 20, j.node.serialSize(t), diskUsed(j.node.disk())}; now != j.seen {
		j.moved, j.seen = time.Now(), now
	}
	if !j.whole && sent-j.sent > imageAtLeast {
		j.whole = true
		t.Logf("the image was fetched within %s of the restart", time.Since(j.since).Round(time.Second))
	}
	if time.Since(j.moved) > stallLimit {
		j.fail(t, fmt.Sprintf("nothing has moved for %s", stallLimit))
	}
}

func (j *journey) fail(t *testing.T, what string) {
	t.Helper()
	sent := j.rack.bytes(t)
	table, err := j.node.table()
	t.Fatalf("%s after %s, with %d restarts; %d MB came over the wire, %d MB of them after the last restart; the disk has %d partitions (%v); the machine says:\n%s",
		what, time.Since(j.begun).Round(time.Second), j.restarts, sent>>20, (sent-j.sent)>>20, len(table.Partitions), err, j.node.lastWords(0))
}

// diskUsed is how many blocks of a disk's file have content.
func diskUsed(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Sys().(*syscall.Stat_t).Blocks
}
