package os

import "time"

// Storage is /1.0/system/storage.
type Storage struct {
	Config StorageConfig `json:"config" yaml:"config"`
	State  StorageState  `json:"state" yaml:"state"`
}

// StorageConfig holds what an owner may set.
type StorageConfig struct {
	// ScrubSchedule is a cron expression of five fields; default "0 4 * * 0".
	ScrubSchedule string `json:"scrub_schedule" yaml:"scrub_schedule"`
}

// StorageState is what the node sees of its drives and pools.
type StorageState struct {
	Drives        []Drive       `json:"drives" yaml:"drives"`
	Pools         []Pool        `json:"pools" yaml:"pools"`
	RootPartition RootPartition `json:"root_partition" yaml:"root_partition"`
}

// RootPartition is the space of the node's own state.
type RootPartition struct {
	SizeInBytes      uint64 `json:"size_in_bytes" yaml:"size_in_bytes"`
	AvailableInBytes uint64 `json:"available_in_bytes" yaml:"available_in_bytes"`
}

// Drive is one disk.
type Drive struct {
	// ID is the first /dev/disk/by-id link, or by-path where there is none.
	ID              string `json:"id" yaml:"id"`
	ModelFamily     string `json:"model_family" yaml:"model_family"`
	ModelName       string `json:"model_name" yaml:"model_name"`
	SerialNumber    string `json:"serial_number" yaml:"serial_number"`
	Bus             string `json:"bus" yaml:"bus"`
	CapacityInBytes uint64 `json:"capacity_in_bytes" yaml:"capacity_in_bytes"`
	// Boot is true for the disk that the node runs from.
	Boot      bool `json:"boot" yaml:"boot"`
	Multipath bool `json:"multipath" yaml:"multipath"`
	Removable bool `json:"removable" yaml:"removable"`
	// Remote is true for a disk behind a fabric.
	Remote bool   `json:"remote" yaml:"remote"`
	WWN    string `json:"wwn,omitempty" yaml:"wwn,omitempty"`
	// MemberPool is the ZFS pool that the drive belongs to.
	MemberPool string `json:"member_pool,omitempty" yaml:"member_pool,omitempty"`
}

// Pool is one ZFS pool.
type Pool struct {
	Name string `json:"name" yaml:"name"`
	// Type is "zfs-raid0", "zfs-raid1", "zfs-raid10" or "zfs-raidz1" to "zfs-raidz3".
	Type    string   `json:"type" yaml:"type"`
	Devices []string `json:"devices" yaml:"devices"`
	Cache   []string `json:"cache,omitempty" yaml:"cache,omitempty"`
	Log     []string `json:"log,omitempty" yaml:"log,omitempty"`
	// Managed is true when the node holds the pool's key.
	Managed bool `json:"managed" yaml:"managed"`
	// State is ZFS' health, as "ONLINE".
	State     string     `json:"state" yaml:"state"`
	LastScrub *PoolScrub `json:"last_scrub,omitempty" yaml:"last_scrub,omitempty"`
	// EncryptionKeyStatus is "available", "unavailable" or "NONE".
	EncryptionKeyStatus       string       `json:"encryption_key_status" yaml:"encryption_key_status"`
	DevicesDegraded           []string     `json:"devices_degraded,omitempty" yaml:"devices_degraded,omitempty"`
	RawPoolSizeInBytes        uint64       `json:"raw_pool_size_in_bytes" yaml:"raw_pool_size_in_bytes"`
	UsablePoolSizeInBytes     uint64       `json:"usable_pool_size_in_bytes" yaml:"usable_pool_size_in_bytes"`
	PoolAllocatedSpaceInBytes uint64       `json:"pool_allocated_space_in_bytes" yaml:"pool_allocated_space_in_bytes"`
	Volumes                   []PoolVolume `json:"volumes" yaml:"volumes"`
}

// PoolScrub is the last scrub of a pool.
type PoolScrub struct {
	// State is "UNKNOWN", "IN_PROGRESS" or "FINISHED".
	State     string    `json:"state" yaml:"state"`
	StartTime time.Time `json:"start_time" yaml:"start_time"`
	EndTime   time.Time `json:"end_time" yaml:"end_time"`
	// Progress is a percentage, as "12.34%".
	Progress string `json:"progress" yaml:"progress"`
	Errors   int    `json:"errors" yaml:"errors"`
}

// PoolVolume is one first-level dataset of a pool.
type PoolVolume struct {
	Name         string `json:"name" yaml:"name"`
	UsageInBytes uint64 `json:"usage_in_bytes" yaml:"usage_in_bytes"`
	QuotaInBytes uint64 `json:"quota_in_bytes" yaml:"quota_in_bytes"`
	// Use is the property incusos:use, "-" when it is not set.
	Use string `json:"use" yaml:"use"`
}
