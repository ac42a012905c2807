// Package simulate is a node without a machine: the whole daemon, with memory in the place
// of hardware and of the programs that change it.
//
// The parties: internal/daemon is the real one, with its real checks, planners, history,
// audit log and events. Node is the machine below it. What a plan does to Node becomes
// what Node shows afterwards: a network that was carried out has addresses, a compressed
// swap that was asked for is there. What a node keeps lies in one folder:
//
//	kept/                      what a node keeps: documents (internal/state) in state/, keys
//	state                      a link to kept/state
//	audit/                     the audit log (internal/audit)
//	run/incus-os/unix.socket   the API; unix.socket is a link to it
//	client.crt, client.key     who may use the API over HTTPS
//	server.crt, server.key     who the node is there
//	env                        where it is, for the command line and a shell
//	machine-id                 who it is; its name follows from it
//	hardware-id                which machine it is; the addresses of its cards follow from it
//	seed.tar, esp/             the seed's partition, and the ESP
//	root/                      the data of applications, as root/var/lib/incus
//	firmware.json              the variables of Secure Boot, whose private keys are the files
//	                           secureboot-PK.key, secureboot-KEK.key and secureboot-db.key
//	volumes.json, pool.local   what the TPM, and what the kept key of the pool opens
//	faults.json                what is to go wrong (Fault); it may be written at any time
//	lock                       held while the node runs
//
// What always holds:
//
//   - Nothing outside of the folder is changed, no program is started and no privilege is
//     needed.
//   - The node says that it is simulated: in its first line of the log, among the warnings
//     of the console, in the state of security, in the serial number of its drives.
//   - A restart of the node forgets what a real one forgets (values of the kernel, files
//     below /run, devices) and keeps what a real one keeps.
//
// What can fail: the folder may be used by another node, its path may be too long for a
// socket, the address for HTTPS may be taken. What else fails was asked for.
//
// HTTPS goes through a proxy to the socket, as it does on a node, where the primary
// application carries the API.
package simulate

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/audit"
	"github.com/holdfast-os/holdfast/internal/daemon"
	"github.com/holdfast-os/holdfast/internal/network"
	"github.com/holdfast-os/holdfast/internal/state"
)

// Names below the folder of a node.
const (
	keptDir     = "kept"
	stateDir    = keptDir + "/state"
	stateLink   = "state"
	auditDir    = "audit"
	socketLink  = "unix.socket"
	socketFile  = "run/incus-os/unix.socket"
	machineFile = "machine-id"
	hardwareID  = "hardware-id"
	lockFile    = "lock"
	// maxSocket is the longest path of a socket on Linux, in bytes.
	maxSocket = 107
)

// Warning is what the node says about itself.
const Warning = "this node is simulated: there is no machine behind it, and nothing that it says has happened has happened"

// Options are what a Node is made of.
type Options struct {
	// Dir is the folder of the node; it is made (0700) when it is missing.
	Dir string
	// Log gets what happens; default nothing.
	Log *slog.Logger
	// Listen is the address of the API over HTTPS, as "127.0.0.1:0", where the kernel
	// chooses the port; empty serves the socket alone.
	Listen string
	// Seed are the first-boot documents; default: the application "incus" and nothing else.
	Seed Seed
	// Cards are the network cards; default two, with addresses of the node's own.
	Cards []network.Card
	// Faults are what is to go wrong, beside those of faults.json; default nothing.
	Faults []Fault
	// Ready is told each time the API answers, with the endpoint of HTTPS, empty without
	// one; nil tells nobody.
	Ready func(endpoint string)
}

// Seed are first-boot documents; nil stands for one that is not there.
type Seed struct {
	Update   *osapi.UpdateConfig
	Provider *osapi.ProviderConfig
	Network  *osapi.NetworkConfig
	// Applications are the names to install; nil is "incus".
	Applications []string
}

// Node is a simulated machine.
type Node struct {
	o         Options
	log       *slog.Logger
	journal   *journal
	faults    *faults
	machineID string
	// abandoned is why a restore was not carried out at this start.
	abandoned error
	lock      *os.File
	identity  identity
	actions   chan string
	// exchanging is held while the data of an application is replaced.
	exchanging sync.Mutex

	mu       sync.Mutex
	store    *state.Store
	firmware *firmware
	daemon   *daemon.Daemon
	started  time.Time
	hardware hardware
	net      networkHands
	endpoint string
}

// New makes a node in a folder. It does nothing before Run.
func New(o Options) (*Node, error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil || o.Dir == "" {
		return nil, errors.Join(errors.New("simulating a node: a folder is needed"), err)
	}
	o.Dir = dir
	if n := len(filepath.Join(dir, socketFile)); n > maxSocket {
		return nil, fmt.Errorf("simulating a node in %s: the path of its socket would have %d bytes and Linux takes %d: choose a folder with a shorter path", dir, n, maxSocket)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Seed.Applications == nil {
		o.Seed.Applications = []string{"incus"}
	}
	n := &Node{o: o, actions: make(chan string, 1), journal: newJournal()}
	n.log = slog.New(n.journal.handler(o.Log.Handler()))
	n.log.Warn(Warning, "folder", dir)
	if n.faults, err = newFaults(dir, o.Faults, n.log); err != nil {
		return nil, err
	}
	err = n.prepare()
	if err == nil {
		err = n.boot()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("simulating a node in %s: %w", dir, err), n.Close())
	}
	return n, nil
}

// prepare makes the folder and what lies in it.
func (n *Node) prepare() error {
	if err := os.MkdirAll(n.o.Dir, 0o700); err != nil {
		return err
	}
	var err error
	if n.lock, err = os.OpenFile(n.path(lockFile), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return err
	}
	if err := syscall.Flock(int(n.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("another node runs there, or %s cannot be locked: %w", lockFile, err)
	}
	if err := n.moveOld(); err != nil {
		return err
	}
	if n.o.Cards == nil {
		machineID, err := n.readID(machineFile, "")
		if err != nil {
			return err
		}
		hardware, err := n.readID(hardwareID, machineID)
		if err != nil {
			return err
		}
		n.o.Cards = cards(hardware)
	}
	if n.identity, err = newIdentity(n.o.Dir); err != nil {
		return err
	}
	if err := os.Remove(n.path(socketLink)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(socketFile, n.path(socketLink)); err != nil {
		return err
	}
	return n.writeSeed()
}

// moveOld takes the documents of a folder that an earlier release made, and makes the link.
func (n *Node) moveOld() error {
	if err := os.MkdirAll(n.path(keptDir), 0o700); err != nil {
		return err
	}
	info, err := os.Lstat(n.path(stateLink))
	if err == nil && info.IsDir() {
		err = os.Rename(n.path(stateLink), n.path(stateDir))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Remove(n.path(stateLink)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink(stateDir, n.path(stateLink))
}

func (n *Node) path(name string) string { return filepath.Join(n.o.Dir, name) }

var machineForm = regexp.MustCompile(`^[0-9a-f]{32}$`)

// readID reads an identifier; one that is missing is made, and is first when that is given.
func (n *Node) readID(file, first string) (string, error) {
	text, err := os.ReadFile(n.path(file))
	if errors.Is(err, fs.ErrNotExist) {
		id := first
		if id == "" {
			random := make([]byte, 16)
			if _, err := rand.Read(random); err != nil {
				return "", err
			}
			id = hex.EncodeToString(random)
		}
		return id, os.WriteFile(n.path(file), []byte(id+"\n"), 0o600)
	}
	id := strings.TrimSpace(string(text))
	if err == nil && !machineForm.MatchString(id) {
		err = fmt.Errorf("%s holds no 32 hexadecimal digits", file)
	}
	return id, err
}

// boot makes what a start of a machine finds, and a daemon for it.
func (n *Node) boot() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.store != nil {
		if err := n.store.Close(); err != nil {
			return err
		}
		n.store = nil
	}
	if err := n.early(); err != nil {
		return err
	}
	if err := os.MkdirAll(n.path(keptDir), 0o700); err != nil {
		return err
	}
	if err := n.resume(); err != nil {
		return err
	}
	var err error
	if n.machineID, err = n.readID(machineFile, ""); err != nil {
		return err
	}
	if n.store, err = state.Open(n.path(stateDir)); err != nil {
		return err
	}
	if n.firmware, err = newFirmware(n); err != nil {
		return err
	}
	store := n.store
	n.started = time.Now()
	n.hardware = newHardware()
	n.net = networkHands{n: n}
	n.daemon = daemon.New(daemon.Options{
		Root: n.o.Dir, Socket: daemon.Activated, Log: n.log, Clock: n.clock(), Machine: n.machine(),
		Documents: func() (daemon.Documents, error) { return store, n.faults.hit(context.Background(), "state.open") },
		Audit:     func() (audit.Files, error) { return audit.OpenDirectory(n.path(auditDir)) },
	})
	return nil
}

func (n *Node) clock() daemon.Clock {
	started := n.started
	return daemon.Clock{Now: time.Now, After: time.After, SinceBoot: func() time.Duration { return time.Since(started) }}
}

// Daemon is the daemon of the present start.
func (n *Node) Daemon() *daemon.Daemon {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.daemon
}

// Socket is the path of the API's socket.
func (n *Node) Socket() string { return n.path(socketFile) }

// Endpoint is where the API is over HTTPS; empty before it is, and without.
func (n *Node) Endpoint() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.endpoint
}

// Close gives the folder back. A node that has run has given it back already.
func (n *Node) Close() error {
	var err error
	if n.store != nil {
		err = n.store.Close()
		n.store = nil
	}
	if n.lock != nil {
		err = errors.Join(err, n.lock.Close())
		n.lock = nil
	}
	return err
}

// Run starts the node, and again after each reboot, until it is powered off or the context
// ends, which are no errors.
func (n *Node) Run(ctx context.Context) error {
	defer func() {
		if err := n.Close(); err != nil {
			n.log.Warn("giving the folder of the node back", "error", err)
		}
	}()
	for {
		again, err := n.start(ctx)
		if err != nil || !again {
			return err
		}
		n.log.Info("the simulated node starts again")
		if err := n.boot(); err != nil {
			return fmt.Errorf("starting the simulated node again: %w", err)
		}
	}
}

// start runs the node once. It gives true when the node is to start again.
func (n *Node) start(ctx context.Context) (again bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	front, err := n.serve()
	if err != nil {
		return false, err
	}
	ended := make(chan error, 1)
	go func() { ended <- n.Daemon().Run(ctx) }()
	select {
	case err = <-ended:
	case action := <-n.actions:
		again = action == actionReboot
		cancel()
		err = <-ended
	}
	return again, errors.Join(err, front.close())
}
