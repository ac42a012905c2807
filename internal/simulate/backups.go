package simulate

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/apps"
	"github.com/holdfast-os/holdfast/internal/backup"
	"github.com/holdfast-os/holdfast/internal/daemon"
	"github.com/holdfast-os/holdfast/internal/reset"
)

const (
	// poolName is the pool that a node makes for itself, poolKeyFile the kept key of it.
	poolName    = "local"
	poolKeyFile = "zpool." + poolName + ".key"
	// poolLock stands for the pool: the key that opens it.
	poolLock = "pool." + poolName
	// rootDir stands for the root file system: the data of applications lies below it.
	rootDir = "root"
)

// backups is daemon.Backups over the folder of the node.
type backups struct{ *Node }

func (b backups) Kept() string { return b.path(keptDir) }

func (b backups) Cards(ctx context.Context) ([]osapi.BackupCard, error) {
	cards := make([]osapi.BackupCard, 0, len(b.o.Cards))
	for _, card := range b.o.Cards {
		cards = append(cards, osapi.BackupCard{Name: card.Name, Hwaddr: card.Hwaddr})
	}
	return cards, b.faults.hit(ctx, "backup.cards")
}

// OpensPool compares with the key that the pool was made with.
func (b backups) OpensPool(_ context.Context, pool string, key []byte) (bool, error) {
	if pool != poolName {
		return true, nil // there is no such pool
	}
	present, err := os.ReadFile(b.path(poolLock))
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return subtle.ConstantTimeCompare(present, key) == 1, err
}

// Enroll has no volumes: the keys are those of the kept configuration.
func (b backups) Enroll(ctx context.Context, _ []string, _ bool) error {
	return b.faults.hit(ctx, "backup.enroll")
}

// Spool has no name from the beginning, so that nothing is left of it.
func (b backups) Spool() (daemon.Spool, error) {
	f, err := os.CreateTemp(b.o.Dir, "spool")
	if err != nil {
		return nil, fmt.Errorf("making room for an archive: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(fmt.Errorf("making room for an archive: %w", err), f.Close())
	}
	return f, nil
}

// Free is the room where the folder lies.
func (b backups) Free() (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(b.o.Dir, &s); err != nil {
		return 0, fmt.Errorf("asking for the room on %s: %w", b.o.Dir, err)
	}
	return int64(s.Bavail) * s.Bsize, b.faults.hit(context.Background(), "backup.free")
}

// pools is daemon.Pools: the pool is a file with its key.
type pools struct{ *Node }

func (p pools) Ensure(ctx context.Context) error {
	if err := p.faults.hit(ctx, "pools.ensure"); err != nil {
		return err
	}
	_, err := os.Stat(p.path(poolLock))
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	// The key is kept before there is anything that it alone opens.
	return errors.Join(os.WriteFile(filepath.Join(p.path(keptDir), poolKeyFile), key, 0o600), os.WriteFile(p.path(poolLock), key, 0o600))
}

// appData is daemon.AppData: the data of applications are files below the folder, and
// starting one is looking whether it has any.
type appData struct {
	*Node
	apps applications
	gate *sync.Mutex
}

func (a appData) Hold() func() {
	a.gate.Lock()
	return a.gate.Unlock
}

func (a appData) Dir(folder string) string { return filepath.Join(a.path(rootDir), folder) }

func (a appData) Stop(ctx context.Context, _, _ string) error {
	return a.faults.hit(ctx, "apps.data-stop")
}

func (a appData) Start(ctx context.Context, name string) error {
	return errors.Join(a.faults.hit(ctx, "apps.data-start"), a.ensure(name))
}

// Initialize is part of daemon.AppData: the data has what the seed said.
func (a appData) Initialize(ctx context.Context, name string) error {
	if err := a.faults.hit(ctx, "apps.initialize"); err != nil {
		return err
	}
	data, has := backup.DataOf(name)
	set, err := seed{a.Node}.Read(ctx)
	if err != nil || !has {
		return err
	}
	document, err := set.Get(reset.SeedOf(name))
	if err != nil {
		return nil // it says nothing of this application
	}
	text, err := json.Marshal(document)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(a.Dir(data.Folder), "seed.json"), text, 0o600)
}

func (a appData) Note(_ context.Context, name string, change func(*apps.Record)) error {
	return a.apps.change(func(found apps.State) error {
		if record, installed := found[name]; installed {
			change(&record)
			found[name] = record
		}
		return nil
	})
}

// ensure gives an application data, as its first start does.
func (n *Node) ensure(name string) error {
	data, has := backup.DataOf(name)
	if !has {
		return nil
	}
	dir := filepath.Join(n.path(rootDir), data.Folder)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the data of the application %s: %w", name, err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "simulated"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil {
		_, err = fmt.Fprintf(f, "This is the data of %s on the simulated node %s.\n", name, n.machineID)
		err = errors.Join(err, f.Close())
	}
	return err
}

// places are the folders of applications, each once.
func (n *Node) places() []backup.Place {
	var all []backup.Place
	seen := map[string]bool{}
	for _, name := range backup.Applications() {
		data, _ := backup.DataOf(name)
		if !seen[data.Folder] {
			all = append(all, backup.Place{Dir: filepath.Join(n.path(rootDir), data.Folder)})
		}
		seen[data.Folder] = true
	}
	return all
}

// startAll starts the installed applications. Data that was never started with is judged: it
// stays when they start, and gives way to that of before when not; that of the application
// judged is for somebody else to judge.
func (a applications) startAll(ctx context.Context, judged string) error {
	names, err := a.List(ctx)
	if err == nil {
		err = a.faults.hit(ctx, "apps.start")
	}
	for _, name := range names {
		err = errors.Join(err, a.ensure(name))
	}
	left, _ := backup.DataOf(judged)
	for _, place := range a.places() {
		if left.Folder != "" && place.Dir == filepath.Join(a.path(rootDir), left.Folder) {
			continue
		}
		pending, failed := place.Pending()
		switch {
		case failed != nil:
			err = errors.Join(err, failed)
		case pending && err == nil:
			err = place.Settle()
		case pending:
			err = errors.Join(err, place.Back())
		}
	}
	return err
}

// resume carries out a restore that was committed; nobody reads the documents yet.
func (n *Node) resume() error {
	folder, err := backup.OpenFolder(n.path(keptDir))
	if err != nil {
		return err
	}
	pending, err := backup.Resume(folder)
	n.abandoned = pending.Abandoned
	if err == nil && (pending.RecoveryKeys != nil || pending.ForeignKeys) {
		err = backup.Done(folder) // there are no volumes that they have to open
	}
	for _, place := range n.places() {
		if _, recovered := place.Recover(); recovered != nil {
			err = errors.Join(err, recovered)
		}
	}
	return errors.Join(err, folder.Close())
}
