package zfs

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

// maxVdevDepth bounds the recursion over devices; real pools have a depth of 3 or 4.
const maxVdevDepth = 8

// List describes all imported pools, sorted by name.
func (z *ZFS) List(ctx context.Context) ([]api.Pool, error) {
	names, err := z.names(ctx)
	if err != nil || len(names) == 0 {
		return []api.Pool{}, err
	}
	sizes, err := z.Run(ctx, run.Command{Name: "zpool", Args: []string{"list", "-Hp", "-o", "name,size,allocated,health"}})
	if err != nil {
		return nil, fmt.Errorf("listing pools: %w", err)
	}
	status, err := z.Run(ctx, run.Command{Name: "zpool", Args: []string{"status", "-P", "-j", "--json-int"}})
	if err != nil {
		return nil, fmt.Errorf("reading the status of the pools: %w", err)
	}
	datasets, err := z.Run(ctx, run.Command{Name: "zfs", Args: []string{
		"list", "-Hp", "-d", "1", "-t", "filesystem,volume", "-o", "name,used,available,quota,incusos:use,keystatus"}})
	if err != nil {
		return nil, fmt.Errorf("listing datasets: %w", err)
	}
	pools, err := parsePools(sizes.Stdout, status.Stdout, datasets.Stdout)
	if err != nil {
		return nil, err
	}
	for i := range pools {
		if pools[i].Managed, err = exists(z.KeyPath(pools[i].Name)); err != nil {
			return nil, err
		}
	}
	return pools, nil
}

// Status describes one pool, and false when it is not imported.
func (z *ZFS) Status(ctx context.Context, pool string) (api.Pool, bool, error) {
	pools, err := z.List(ctx)
	if err != nil {
		return api.Pool{}, false, err
	}
	i := slices.IndexFunc(pools, func(p api.Pool) bool { return p.Name == pool })
	if i < 0 {
		return api.Pool{}, false, nil
	}
	return pools[i], true, nil
}

func (z *ZFS) names(ctx context.Context) ([]string, error) {
	result, err := z.Run(ctx, run.Command{Name: "zpool", Args: []string{"list", "-H", "-o", "name"}})
	if err != nil {
		return nil, fmt.Errorf("listing the names of the pools: %w", err)
	}
	return strings.Fields(string(result.Stdout)), nil
}

// number is an integer that may come as text; text that is no integer counts as zero,
// because "-" and "none" stand for it.
type number uint64

func (n *number) UnmarshalJSON(text []byte) error {
	*n = parseNumber(strings.Trim(string(text), `"`))
	return nil
}

func parseNumber(text string) number {
	value, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0
	}
	return number(value)
}

type poolStatus struct {
	State string          `json:"state"`
	Scan  *scanStatus     `json:"scan_stats"`
	Vdevs map[string]vdev `json:"vdevs"`
	Logs  map[string]vdev `json:"logs"`
	Cache map[string]vdev `json:"l2cache"`
}

type scanStatus struct {
	Function  string `json:"function"`
	State     string `json:"state"`
	Start     number `json:"start_time"`
	End       number `json:"end_time"`
	ToExamine number `json:"to_examine"`
	Examined  number `json:"examined"`
	Errors    number `json:"errors"`
}

type vdev struct {
	Name  string          `json:"name"`
	Type  string          `json:"vdev_type"`
	Path  string          `json:"path"`
	State string          `json:"state"`
	Vdevs map[string]vdev `json:"vdevs"`
}

// parsePools puts the three outputs together.
func parsePools(sizes, status, datasets []byte) ([]api.Pool, error) {
	var document struct {
		Pools map[string]poolStatus `json:"pools"`
	}
	if err := json.Unmarshal(status, &document); err != nil {
		return nil, fmt.Errorf("reading the status of the pools: %w", err)
	}
	pools := []api.Pool{}
	for _, fields := range table(sizes, 4) {
		pool := api.Pool{
			Name: fields[0], State: fields[3], Type: "zfs-raid0", Devices: []string{}, Volumes: []api.PoolVolume{},
			EncryptionKeyStatus:       "NONE",
			RawPoolSizeInBytes:        uint64(parseNumber(fields[1])),
			PoolAllocatedSpaceInBytes: uint64(parseNumber(fields[2])),
		}
		if s, ok := document.Pools[pool.Name]; ok {
			s.describe(&pool)
		}
		pools = append(pools, pool)
	}
	addDatasets(pools, datasets)
	slices.SortFunc(pools, func(a, b api.Pool) int { return strings.Compare(a.Name, b.Name) })
	return pools, nil
}

func (s poolStatus) describe(pool *api.Pool) {
	for _, root := range s.Vdevs {
		pool.Type = poolType(root)
		pool.Devices = append(pool.Devices, leaves(root.Vdevs, false, 0)...)
		pool.DevicesDegraded = append(pool.DevicesDegraded, leaves(root.Vdevs, true, 0)...)
	}
	pool.Log, pool.Cache = leaves(s.Logs, false, 0), leaves(s.Cache, false, 0)
	if s.Scan != nil && s.Scan.Function == "SCRUB" {
		pool.LastScrub = s.Scan.scrub()
	}
}

// poolType names the layout by the first level of devices.
func poolType(root vdev) string {
	mirrors := 0
	for _, name := range slices.Sorted(maps.Keys(root.Vdevs)) {
		child := root.Vdevs[name]
		switch {
		case strings.HasPrefix(child.Name, "raidz2"):
			return "zfs-raidz2"
		case strings.HasPrefix(child.Name, "raidz3"):
			return "zfs-raidz3"
		case child.Type == "raidz":
			return "zfs-raidz1"
		case child.Type == "mirror":
			mirrors++
		}
	}
	switch mirrors {
	case 0:
		return "zfs-raid0"
	case 1:
		return "zfs-raid1"
	}
	return "zfs-raid10"
}

// leaves lists the devices at the ends of the tree, sorted; with degraded only those
// that are not online.
func leaves(vdevs map[string]vdev, degraded bool, depth int) []string {
	var found []string
	if depth > maxVdevDepth {
		return nil
	}
	for _, v := range vdevs {
		if len(v.Vdevs) > 0 {
			found = append(found, leaves(v.Vdevs, degraded, depth+1)...)
			continue
		}
		if degraded && v.State == "ONLINE" {
			continue
		}
		name := v.Path
		if name == "" {
			name = v.Name
		}
		found = append(found, name)
	}
	slices.Sort(found)
	return found
}

func (s scanStatus) scrub() *api.PoolScrub {
	scrub := &api.PoolScrub{State: "UNKNOWN", Progress: "0.00%", Errors: int(min(s.Errors, 1<<31-1)), StartTime: moment(s.Start), EndTime: moment(s.End)}
	switch s.State {
	case "FINISHED":
		scrub.State, scrub.Progress = "FINISHED", "100.00%"
		return scrub
	case "SCANNING":
		scrub.State, scrub.EndTime = "IN_PROGRESS", time.Time{}
	}
	if s.ToExamine > 0 {
		scrub.Progress = fmt.Sprintf("%.2f%%", 100*float64(s.Examined)/float64(s.ToExamine))
	}
	return scrub
}

func moment(seconds number) time.Time {
	if seconds == 0 || seconds > 1<<40 {
		return time.Time{}
	}
	return time.Unix(int64(seconds), 0).UTC()
}

// addDatasets reads first-level datasets: the pool's own tells what is usable and
// whether its key is loaded.
func addDatasets(pools []api.Pool, datasets []byte) {
	for _, fields := range table(datasets, 6) {
		name, child, isChild := strings.Cut(fields[0], "/")
		i := slices.IndexFunc(pools, func(p api.Pool) bool { return p.Name == name })
		if i < 0 {
			continue
		}
		used := uint64(parseNumber(fields[1]))
		if isChild {
			pools[i].Volumes = append(pools[i].Volumes, api.PoolVolume{
				Name: child, UsageInBytes: used, QuotaInBytes: uint64(parseNumber(fields[3])), Use: fields[4],
			})
			continue
		}
		pools[i].UsablePoolSizeInBytes = used + uint64(parseNumber(fields[2]))
		if fields[5] == "available" || fields[5] == "unavailable" {
			pools[i].EncryptionKeyStatus = fields[5]
		}
	}
}

// table splits lines at tabs and drops those with another number of columns.
func table(text []byte, columns int) [][]string {
	var rows [][]string
	for line := range strings.Lines(string(text)) {
		if fields := strings.Split(strings.TrimRight(line, "\n"), "\t"); len(fields) == columns {
			rows = append(rows, fields)
		}
	}
	return rows
}
