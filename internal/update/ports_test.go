package update_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/update"
	"github.com/holdfast-os/holdfast/internal/update/health"
)

type simStager struct{ w *world }

func (s simStager) Prepare(context.Context, update.Found) ([]update.PartPlan, error) {
	return []update.PartPlan{
		{Name: "usr", Component: "os", Type: release.TypeUpdateUsr, Bytes: 19 << 20, FullBytes: 141 << 20, How: update.ByDelta, Why: "from the running release"},
		{Name: "uki", Component: "os", Type: release.TypeUpdateEFI, Bytes: 50 << 20, FullBytes: 50 << 20, How: update.ByFull, Why: "no delta from the running release"},
	}, nil
}

func (s simStager) Space(context.Context, update.Found) (update.Space, error) {
	free := s.w.espFree
	if s.w.junk {
		free -= 480 << 20
	}
	return update.Space{
		ESPFree: free, ESPNeed: 60 << 20, StageFree: 10 << 30, StageNeed: 1 << 30,
		Slots: []update.SlotSpace{{Part: "usr", Size: s.w.slotSize, Need: 1 << 30}},
	}, nil
}

func (s simStager) Tidy(context.Context) error {
	s.w.junk = false
	return nil
}

func (s simStager) Fetch(_ context.Context, f update.Found, progress update.Progress) error {
	if s.w.fetch != nil {
		return s.w.fetch
	}
	d, key := s.w.disk, "stage/"+f.Manifest.Version
	if d.current[key] == "parts" {
		return nil
	}
	if err := d.put(key+".part", "parts"); err != nil {
		return err
	}
	progress(1, 2)
	d.flush()
	err := d.rename(key+".part", key)
	d.flush()
	return err
}

// Write refuses in the name of the invariants: never what runs, never what can be booted.
func (s simStager) Write(_ context.Context, f update.Found, _ update.Progress) error {
	w, v := s.w, f.Manifest.Version
	_, to := w.slot(w.running)
	if w.disk.current["stage/"+v] != "parts" {
		w.t.Errorf("%s is written before it is fetched", v)
	}
	if key, _ := w.entry(w.disk.current[to+"/label"]); key != "" {
		w.t.Errorf("%s is written while %s can boot it", to, key)
	}
	d := w.disk
	steps := [][2]string{
		{"/label", "_empty"}, {},
		{"/usr", "usr"}, {"/usr", "usr " + v}, {"/verity", "verity " + v}, {"/sig", "sig " + v}, {},
		{"/label", v}, {},
	}
	for _, step := range steps {
		if step[0] == "" {
			d.flush()
			continue
		}
		if err := d.put(to+step[0], step[1]); err != nil {
			return err
		}
	}
	return nil
}

type simSlots struct{ w *world }

func (s simSlots) Look(context.Context) (update.Machine, error) {
	m := update.Machine{BootID: fmt.Sprint("boot ", s.w.bootID), Uptime: s.w.clock.Elapsed() - s.w.started, Running: s.w.running}
	for _, e := range s.w.entries() {
		m.Entries = append(m.Entries, e)
	}
	return m, nil
}

func (s simSlots) Drop(_ context.Context, version string) error {
	key, _ := s.w.entry(version)
	if version == s.w.running {
		s.w.t.Errorf("the boot entry of %s is removed while it runs", version)
	}
	if key == "" {
		return nil
	}
	err := s.w.disk.remove(key)
	s.w.disk.flush()
	return err
}

func (s simSlots) Arm(_ context.Context, f update.Found) error {
	v, d := f.Manifest.Version, s.w.disk
	if !d.lies && !strings.Contains(d.durable["tpm"], v) {
		s.w.t.Errorf("%s is armed before the disk opens under it", v)
	}
	if err := d.put("esp/"+v+".tmp", "uki "+v); err != nil {
		return err
	}
	d.flush()
	err := d.rename("esp/"+v+".tmp", "esp/"+v+"+3-0.efi")
	d.flush()
	return err
}

func (s simSlots) Bless(context.Context) error {
	key, e := s.w.entry(s.w.running)
	if !e.Counted {
		return nil
	}
	err := s.w.disk.rename(key, "esp/"+e.Version+".efi")
	s.w.disk.flush()
	return err
}

func (s simSlots) MarkBad(_ context.Context, version string) error {
	key, e := s.w.entry(version)
	if key == "" {
		return errors.New("no such entry")
	}
	err := s.w.disk.rename(key, fmt.Sprintf("esp/%s+0-%d.efi", e.Version, e.TriesDone))
	s.w.disk.flush()
	return err
}

type simTPM struct{ w *world }

func (s simTPM) Predict(_ context.Context, f update.Found) (update.Prediction, error) {
	return update.Prediction{Unlocks: !s.w.locked && strings.Contains(s.w.disk.current["tpm"], f.Manifest.Version), Note: "PCR 7 stays"}, nil
}

func (s simTPM) Rebind(_ context.Context, f update.Found) error {
	err := s.w.disk.link("tpm", s.w.running+" "+f.Manifest.Version)
	s.w.disk.flush()
	return err
}

type simPower struct{ w *world }

func (simPower) Reboot(context.Context, string) error { panic(restarted{}) }

func (s simPower) StayUp(context.Context) error {
	s.w.stay = true
	return nil
}

type simApps struct{ w *world }

func (s simApps) CheckUpdates(context.Context) ([]string, error) {
	s.w.appChecks.Add(1)
	return nil, s.w.appErr
}

func (s simApps) News() []string {
	news := s.w.appNews
	s.w.appNews = nil
	return news
}

func (s simApps) Primary() (string, error) { return s.w.primary, nil }

type simSettings struct{ w *world }

func (s simSettings) Update() osapi.UpdateConfig { return s.w.config }
func (s simSettings) Location() *time.Location   { return s.w.location }

type simJournal struct{ w *world }

func (s simJournal) Tail(context.Context, int) ([]string, error) { return s.w.journal, nil }

type simEvents struct{ w *world }

func (s simEvents) Publish(n update.Notice) {
	if n.Kind == update.NoticeOS || n.Kind == update.NoticeReturned {
		s.w.notices = append(s.w.notices, n.Kind+" "+n.Version)
	}
}

// simNode is the node as the gate sees it. It has its own copy of what it tells, since a
// question may outlive the boot that asked it.
type simNode struct {
	kind kind
	fail map[string]error
}

func (s simNode) is(k kind) bool { return s.kind == k }

func (s simNode) API(ctx context.Context) error {
	if s.is(kindSilent) || s.is(kindCrashLate) {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

func (s simNode) StateWritable(context.Context) error {
	for _, err := range s.fail {
		return err
	}
	return nil
}

func (s simNode) Network(context.Context) (health.Network, error) {
	if s.is(kindNoNetwork) {
		return health.Network{}, nil
	}
	return health.Network{Interfaces: []string{"enp1s0"}}, nil
}

func (s simNode) Pools(context.Context) ([]string, error) {
	if s.is(kindNoPool) {
		return nil, nil
	}
	return []string{"local"}, nil
}

func (s simNode) Applications(context.Context) ([]health.Application, error) {
	if s.is(kindNoApp) {
		return nil, nil
	}
	return []health.Application{{Name: "incus", Ready: true}}, nil
}

func (s simNode) Instances(context.Context) ([]string, error) { return nil, nil }
