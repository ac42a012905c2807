package update_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/update"
	"github.com/holdfast-os/holdfast/internal/update/health"
)

// The releases of the simulated world.
const (
	verA = "202611010000"
	verB = "202611020000"
	verC = "202611030000"
)

// kind is how a release behaves.
type kind string

const (
	kindGood      kind = ""
	kindCrash     kind = "daemon crashes at once" // never gets as far as the agent
	kindCrashLate kind = "daemon crashes after 5 s"
	kindSilent    kind = "API never answers"
	kindNoNetwork kind = "no network"
	kindNoPool    kind = "pool not imported"
	kindNoApp     kind = "application missing"
	kindPanic     kind = "kernel panics"
)

// world is a machine with two slots, an ESP, a TPM and a directory of state. Everything
// that a power cut leaves is in its disk; the rest is gone with each boot.
type world struct {
	t         testing.TB
	disk      *disk
	clock     *fakeClock
	kinds     map[string]kind
	published []string // what the server has, in order; the last one is the newest
	digest    map[string]string
	config    osapi.UpdateConfig
	location  *time.Location

	newest    error // what asking the server gives
	fetch     error
	espFree   int64
	junk      bool
	slotSize  int64
	primary   string
	appErr    error
	appNews   []string
	appChecks atomic.Int64
	journal   []string

	running string
	bootID  int
	started time.Duration
	stay    bool
	boots   []string // versions in the order in which the loader started them
	notices []string
	locked  bool
}

// fakeClock is the bubble's clock, with a wall clock that can be set.
type fakeClock struct {
	health.Clock
	offset atomic.Int64
}

func (c *fakeClock) Now() time.Time { return time.Now().Round(0).Add(time.Duration(c.offset.Load())) }

func newWorld(t testing.TB) *world {
	w := &world{
		t: t, disk: newDisk(), clock: &fakeClock{Clock: health.NewClock()}, kinds: map[string]kind{}, digest: map[string]string{},
		config:   osapi.UpdateConfig{Channel: "stable", CheckFrequency: "6h", AutoReboot: true},
		location: time.UTC, espFree: 500 << 20, slotSize: 2 << 30, primary: "incus",
		journal: []string{"incus.service: failed"},
	}
	for key, value := range map[string]string{
		"esp/" + verA + ".efi": "uki " + verA, "slot0/label": verA, "slot0/usr": "usr " + verA, "slot0/verity": "verity " + verA,
		"slot0/sig": "sig " + verA, "tpm": verA, "data/container": "precious",
	} {
		w.disk.durable[key], w.disk.current[key] = value, value
	}
	return w
}

// entries parses the ESP.
func (w *world) entries() map[string]update.Entry {
	found := map[string]update.Entry{}
	for key := range w.disk.current {
		name, ok := strings.CutSuffix(strings.TrimPrefix(key, "esp/"), ".efi")
		if !ok || !strings.HasPrefix(key, "esp/") {
			continue
		}
		version, counter, counted := strings.Cut(name, "+")
		e := update.Entry{Version: version, Counted: counted}
		if counted {
			left, done, _ := strings.Cut(counter, "-")
			e.TriesLeft, _ = strconv.Atoi(left)
			e.TriesDone, _ = strconv.Atoi(done)
		}
		found[key] = e
	}
	return found
}

// entry gives the file of a release on the ESP; empty when there is none.
func (w *world) entry(version string) (string, update.Entry) {
	for key, e := range w.entries() {
		if e.Version == version {
			return key, e
		}
	}
	return "", update.Entry{}
}

// choose is systemd-boot: entries without tries left come last, else the newest is first.
func (w *world) choose() (string, update.Entry) {
	all := w.entries()
	keys := slices.SortedFunc(maps.Keys(all), func(x, y string) int {
		a, b := all[x], all[y]
		if a.Bad() != b.Bad() {
			if a.Bad() {
				return 1
			}
			return -1
		}
		return strings.Compare(b.Version, a.Version)
	})
	if len(keys) == 0 {
		return "", update.Entry{}
	}
	return keys[0], all[keys[0]]
}

// boot starts the machine until a release reaches its userspace.
func (w *world) boot() {
	w.t.Helper()
	for range 30 {
		key, e := w.choose()
		if key == "" {
			w.t.Fatalf("nothing boots: %v", w.disk.current)
		}
		if e.Counted && w.tryFails(func() {
			next := fmt.Sprintf("esp/%s+%d-%d.efi", e.Version, max(e.TriesLeft-1, 0), e.TriesDone+1)
			w.must(w.disk.rename(key, next))
			w.disk.flush()
			key = next
		}) {
			continue
		}
		w.bootID++
		w.started, w.stay = w.clock.Elapsed(), false
		w.boots = append(w.boots, e.Version)
		if w.disk.current["data/container"] != "precious" {
			w.t.Fatal("the owner's data is lost")
		}
		if !w.whole(key, e.Version) || w.kinds[e.Version] == kindPanic {
			continue
		}
		if !strings.Contains(w.disk.current["tpm"], e.Version) {
			w.t.Fatalf("the disk does not open by itself under %s", e.Version)
		}
		w.running = e.Version
		return
	}
	w.t.Fatalf("the machine never comes up: %v", w.boots)
}

// tryFails runs a step of the boot loader; true when the power was cut in it.
func (w *world) tryFails(step func()) (failed bool) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(powerCut); !ok {
				panic(r)
			}
			failed = true
		}
	}()
	step()
	return false
}

func (w *world) must(err error) {
	if err != nil {
		w.t.Fatal(err)
	}
}

// slot gives the slot of a release, and the other one.
func (w *world) slot(version string) (string, string) {
	if w.disk.current["slot1/label"] == version {
		return "slot1", "slot0"
	}
	return "slot0", "slot1"
}

// whole is true when everything that a boot reads is as it was published.
func (w *world) whole(key, version string) bool {
	s, _ := w.slot(version)
	return w.disk.current[key] == "uki "+version && w.disk.current[s+"/usr"] == "usr "+version &&
		w.disk.current[s+"/verity"] == "verity "+version && w.disk.current[s+"/sig"] == "sig "+version
}

func (w *world) agent() *update.Agent {
	return &update.Agent{
		Ports: update.Ports{
			Store: simStore{w}, Releases: simReleases{w}, Stager: simStager{w}, Slots: simSlots{w}, TPM: simTPM{w},
			Power: simPower{w}, Apps: simApps{w}, Settings: simSettings{w}, Journal: simJournal{w}, Events: simEvents{w},
		},
		Clock: w.clock, Architecture: "x86_64",
		Health: health.Gate{Observer: simNode{w.kinds[w.running], maps.Clone(w.disk.fail)}, Clock: w.clock},
	}
}

// outcome is how a session ended.
type outcome string

const (
	settled outcome = "settled"
	wasCut  outcome = "power cut"
	again   outcome = "restart"
)

// session runs the daemon of the booted release: it settles, judges, and checks until
// there is nothing to do.
func (w *world) session(do func(context.Context, *update.Agent)) (out outcome) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case powerCut:
			out = wasCut
		case restarted:
			out = again
		default:
			panic(r)
		}
	}()
	ctx := context.Background()
	switch w.kinds[w.running] {
	case kindCrash:
		return w.watchdog()
	case kindCrashLate:
		for range 10 {
			a := w.agent()
			w.must(a.Boot(ctx))
			short, cancel := context.WithTimeout(ctx, 5*time.Second)
			err := a.Judge(short)
			cancel()
			if err != nil && !errors.Is(err, context.DeadlineExceeded) {
				w.t.Fatal(err)
			}
		}
		return w.watchdog()
	}
	a := w.agent()
	w.must(a.Boot(ctx))
	w.must(a.Judge(ctx))
	do(ctx, a)
	return settled
}

// watchdog is the image's own watch over a boot on trial.
func (w *world) watchdog() outcome {
	if _, e := w.entry(w.running); !e.Counted || w.stay {
		w.t.Fatalf("%s hangs, and nobody restarts it", w.running)
	}
	<-w.clock.After(15 * time.Minute)
	return again
}

// live boots and runs sessions until one settles.
func (w *world) live(do func(context.Context, *update.Agent)) {
	w.t.Helper()
	for range 40 {
		w.boot()
		if w.session(do) == settled {
			return
		}
	}
	w.t.Fatalf("the machine restarts for ever: %v", w.boots)
}

// check is what a settled machine does: one check by itself.
func (w *world) check(ctx context.Context, a *update.Agent) {
	err := a.Check(ctx, update.CheckOptions{})
	if err != nil && !errors.Is(err, update.ErrBadRelease) && !errors.Is(err, update.ErrOlder) {
		w.t.Errorf("checking: %v", err)
	}
}

// document reads what is on the disk.
func (w *world) document() update.Document {
	w.t.Helper()
	doc, _, err := simStore{w}.Load()
	w.must(err)
	return doc
}

// simStore keeps the document as internal/state does: a copy of the last one, a new file
// beside it, a flush, a rename, a flush.
type simStore struct{ w *world }

func (s simStore) Load() (doc update.Document, damage, err error) {
	for _, key := range []string{"state/doc", "state/doc.bak"} {
		text, ok := s.w.disk.current[key]
		if !ok {
			continue
		}
		doc = update.Document{}
		if err = json.Unmarshal([]byte(text), &doc); err == nil {
			return doc, damage, nil
		}
		damage = fmt.Errorf("reading %s: %w", key, err)
	}
	return update.Document{}, damage, err
}

func (s simStore) Save(doc update.Document) error {
	text, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	d := s.w.disk
	if old, ok := d.current["state/doc"]; ok && json.Valid([]byte(old)) {
		if err := d.link("state/doc.bak", old); err != nil {
			return err
		}
	}
	if err := d.put("state/doc.tmp", string(text)); err != nil {
		return err
	}
	d.flush()
	if err := d.rename("state/doc.tmp", "state/doc"); err != nil {
		return err
	}
	d.flush()
	return nil
}

type simReleases struct{ w *world }

func (s simReleases) Newest(context.Context, string, bool) (update.Found, error) {
	if s.w.newest != nil {
		return update.Found{}, s.w.newest
	}
	if len(s.w.published) == 0 {
		return update.Found{}, update.ErrNoRelease
	}
	version := s.w.published[len(s.w.published)-1]
	return update.Found{
		Manifest: release.Manifest{Format: "1", Version: version, Architecture: "x86_64", Severity: release.SeverityLow},
		Digest:   "digest " + version + s.w.digest[version],
	}, nil
}

func (s simReleases) Changelog(context.Context, update.Found, string) (*release.Changelog, error) {
	return &release.Changelog{PriorVersion: verA, Components: map[release.Component]release.ComponentChanges{
		"os":    {Updated: []string{"openssl 3.5.1-1 to 3.5.1-2"}, CVEs: []string{"CVE-2026-0002", "CVE-2026-0001"}},
		"incus": {CVEs: []string{"CVE-2026-0001"}},
	}}, nil
}
