package zfs_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/zfs"
)

// Two pools as ZFS 2.3 describes them: one disk, and a degraded pair of mirrors with a
// log and a cache, in the middle of a scrub, with numbers as text.
const statusJSON = `{
 "output_version": {"command": "zpool status", "vers_major": 0, "vers_minor": 1},
 "pools": {
  "local": {"name": "local", "state": "ONLINE",
   "scan_stats": {"function": "SCRUB", "state": "FINISHED", "start_time": 1700000000, "end_time": 1700000060, "to_examine": 100, "examined": 100, "errors": 2},
   "vdevs": {"local": {"name": "local", "vdev_type": "root", "state": "ONLINE", "vdevs": {
    "/dev/sda11": {"name": "/dev/sda11", "vdev_type": "disk", "path": "/dev/sda11", "state": "ONLINE"}}}},
   "error_count": 0},
  "tank": {"name": "tank", "state": "DEGRADED",
   "scan_stats": {"function": "SCRUB", "state": "SCANNING", "start_time": "1700000000", "end_time": "-", "to_examine": "3000", "examined": "1000", "errors": "0"},
   "vdevs": {"tank": {"name": "tank", "vdev_type": "root", "state": "DEGRADED", "vdevs": {
    "mirror-0": {"name": "mirror-0", "vdev_type": "mirror", "state": "ONLINE", "vdevs": {
     "b": {"name": "b", "vdev_type": "disk", "path": "/dev/b", "state": "ONLINE"},
     "a": {"name": "a", "vdev_type": "disk", "path": "/dev/a", "state": "ONLINE"}}},
    "mirror-1": {"name": "mirror-1", "vdev_type": "mirror", "state": "DEGRADED", "vdevs": {
     "c": {"name": "c", "vdev_type": "disk", "path": "/dev/c", "state": "ONLINE"},
     "1234": {"name": "1234", "vdev_type": "disk", "state": "UNAVAIL"}}}}}},
   "logs": {"l": {"name": "l", "vdev_type": "disk", "path": "/dev/l", "state": "ONLINE"}},
   "l2cache": {"k": {"name": "k", "vdev_type": "disk", "path": "/dev/k", "state": "ONLINE"}}}
 }}`

func lister(t *testing.T, status string) *zfs.ZFS {
	answers := map[string]string{
		"zpool list -H -o name": "tank\nlocal\n",
		"zpool list -Hp":        "tank\t4000\t1000\tDEGRADED\nlocal\t2000\t500\tONLINE\n",
		"zpool status":          status,
		"zfs list": "local\t600\t1200\t0\t-\tavailable\n" +
			"local/incus\t300\t1200\t0\t-\tavailable\n" +
			"local/backup\t100\t900\t1000\tincus\tavailable\n" +
			"tank\t10\t3000\tnone\t-\t-\n",
	}
	directory := t.TempDir()
	if err := os.WriteFile(filepath.Join(directory, "zpool.local.key"), make([]byte, 32), 0o400); err != nil {
		t.Fatal(err)
	}
	return &zfs.ZFS{KeyDirectory: directory, Run: func(_ context.Context, c run.Command) (run.Result, error) {
		key := c.Name + " " + c.Args[0]
		if key == "zpool list" {
			key += " " + c.Args[1]
			if c.Args[1] == "-H" {
				key += " -o name"
			}
		}
		return run.Result{Stdout: []byte(answers[key])}, nil
	}}
}

// An owner reads here whether a disk has died, and how far the scrub is.
func TestList_TwoPools_DescribesLayoutHealthScrubAndSpace(t *testing.T) {
	got, err := lister(t, statusJSON).List(background)
	if err != nil {
		t.Fatal(err)
	}
	want := []api.Pool{
		{
			Name: "local", Type: "zfs-raid0", Devices: []string{"/dev/sda11"}, Managed: true, State: "ONLINE",
			LastScrub: &api.PoolScrub{State: "FINISHED", Progress: "100.00%", Errors: 2,
				StartTime: time.Date(2023, 11, 14, 22, 13, 20, 0, time.UTC), EndTime: time.Date(2023, 11, 14, 22, 14, 20, 0, time.UTC)},
			EncryptionKeyStatus: "available",
			RawPoolSizeInBytes:  2000, UsablePoolSizeInBytes: 1800, PoolAllocatedSpaceInBytes: 500,
			Volumes: []api.PoolVolume{{Name: "incus", UsageInBytes: 300, Use: "-"}, {Name: "backup", UsageInBytes: 100, QuotaInBytes: 1000, Use: "incus"}},
		},
		{
			Name: "tank", Type: "zfs-raid10", Devices: []string{"/dev/a", "/dev/b", "/dev/c", "1234"},
			Cache: []string{"/dev/k"}, Log: []string{"/dev/l"}, State: "DEGRADED", DevicesDegraded: []string{"1234"},
			LastScrub:           &api.PoolScrub{State: "IN_PROGRESS", Progress: "33.33%", StartTime: time.Date(2023, 11, 14, 22, 13, 20, 0, time.UTC)},
			EncryptionKeyStatus: "NONE",
			RawPoolSizeInBytes:  4000, UsablePoolSizeInBytes: 3010, PoolAllocatedSpaceInBytes: 1000,
			Volumes: []api.PoolVolume{},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The layout decides how many disks may die, so each name must be right.
func TestStatus_EachLayout_IsNamed(t *testing.T) {
	for vdevs, want := range map[string]string{
		`"a":{"name":"a","vdev_type":"disk"},"b":{"name":"b","vdev_type":"disk"}`:                     "zfs-raid0",
		`"mirror-0":{"name":"mirror-0","vdev_type":"mirror"}`:                                         "zfs-raid1",
		`"m0":{"name":"mirror-0","vdev_type":"mirror"},"m1":{"name":"mirror-1","vdev_type":"mirror"}`: "zfs-raid10",
		`"raidz1-0":{"name":"raidz1-0","vdev_type":"raidz"}`:                                          "zfs-raidz1",
		`"raidz2-0":{"name":"raidz2-0","vdev_type":"raidz"}`:                                          "zfs-raidz2",
		`"raidz3-0":{"name":"raidz3-0","vdev_type":"raidz"}`:                                          "zfs-raidz3",
	} {
		status := `{"pools":{"local":{"vdevs":{"local":{"name":"local","vdev_type":"root","vdevs":{` + vdevs + `}}}}}}`
		got, found, err := lister(t, status).Status(background, "local")
		if err != nil || !found || got.Type != want {
			t.Errorf("got %q, %v, %v, want %q", got.Type, found, err, want)
		}
	}
	if _, found, err := lister(t, `{}`).Status(background, "nonsense"); found || err != nil {
		t.Errorf("missing pool: %v, %v", found, err)
	}
}
