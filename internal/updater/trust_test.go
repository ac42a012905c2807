package updater_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/system/efi"
	"github.com/holdfast-os/holdfast/internal/update"
	"github.com/holdfast-os/holdfast/internal/updater"
)

// boundDisk is a disk that opens under what it was bound to.
type boundDisk struct {
	to    map[string]bool
	asked []string
}

func (d *boundDisk) Opens(_ context.Context, version, image string) (bool, string, error) {
	d.asked = append(d.asked, "opens "+version+" "+filepath.Base(image))
	return d.to[version], "why", nil
}

func (d *boundDisk) Bind(_ context.Context, version, image string) error {
	d.asked = append(d.asked, "bind "+version+" "+filepath.Base(image))
	d.to[version] = true
	return nil
}

// A release is asked about once its kernel image is here, and the disk is bound to one that
// other keys signed. A node whose disk no TPM opens binds nothing.
func TestTrust_Release_IsBoundWhenItsKernelImageIsHere(t *testing.T) {
	dir := t.TempDir()
	disk := &boundDisk{to: map[string]bool{}}
	bound := true
	trust := updater.Trust{System: &updater.System{Dir: dir}, Vars: efi.Vars{Dir: t.TempDir()}, Disk: disk,
		Bound: func(context.Context) (bool, error) { return bound, nil }, Now: time.Now}
	found := update.Found{Manifest: release.Manifest{Version: after}}
	predict := func() bool {
		t.Helper()
		p, err := trust.Predict(t.Context(), found)
		if err != nil || p.Note == "" {
			t.Errorf("%+v, %v", p, err)
		}
		return p.Unlocks
	}
	got := []bool{predict()}
	write(t, filepath.Join(dir, after+".kernel"), []byte("kernel"))
	got = append(got, predict())
	if err := trust.Rebind(t.Context(), found); err != nil {
		t.Fatal(err)
	}
	got = append(got, predict())
	bound, disk.to = false, map[string]bool{}
	got = append(got, predict())
	if diff := cmp.Diff([]bool{true, false, true, true}, got); diff != "" {
		t.Error(diff)
	}
	want := []string{"opens 202502010000 202502010000.kernel", "bind 202502010000 202502010000.kernel", "opens 202502010000 202502010000.kernel"}
	if diff := cmp.Diff(want, disk.asked); diff != "" {
		t.Error(diff)
	}
}
