package os

import "time"

// Storage is /1.0/system/storage.
type Storage struct {
	// Config is what the owner asked for.
	Config StorageConfig `json:"config" yaml:"config"`
	// State is what the node observes; it is not read from a request.
	State StorageState `json:"state" yaml:"state"`
}

// StorageConfig holds what an owner may set.
type StorageConfig struct {
	// ScrubSchedule is a cron expression of five fields; default "0 4 * * 0".
	ScrubSchedule string `json:"scrub_schedule" yaml:"scrub_schedule"`
}

// StorageState is what the node sees of its drives and pools.
type StorageState struct {
	// Drives are the disks that have a lasting name, sorted by it; never null.
	Drives []Drive `json:"drives" yaml:"drives"`
	// Pools are the ZFS pools that are imported, by name; never null.
	Pools []Pool `json:"pools" yaml:"pools"`
	// RootPartition is the space of the node's own state.
	RootPartition RootPartition `json:"root_partition" yaml:"root_partition"`
}

// RootPartition is the space of the node's own state.
type RootPartition struct {
	// SizeInBytes is the size of the file system, in bytes.
	SizeInBytes uint64 `json:"size_in_bytes" yaml:"size_in_bytes"`
	// AvailableInBytes is what can still be written, in bytes.
	AvailableInBytes uint64 `json:"available_in_bytes" yaml:"available_in_bytes"`
}

// Drive is one disk.
type Drive struct {
	// ID is the first /dev/disk/by-id link, or by-path where there is none.
	ID string `json:"id" yaml:"id"`
	// ModelFamily is the maker's product line; empty when the drive is in no list of them.
	ModelFamily string `json:"model_family" yaml:"model_family"`
	// ModelName is what the drive calls itself; empty when it does not say.
	ModelName string `json:"model_name" yaml:"model_name"`
	// SerialNumber is the maker's; empty when the drive does not say.
	SerialNumber string `json:"serial_number" yaml:"serial_number"`
	// Bus is how the drive is attached, as "nvme", "sata", "scsi", "usb" or "virtio", and
	// "unknown" otherwise.
	Bus string `json:"bus" yaml:"bus"`
	// CapacityInBytes is the size of the whole disk, in bytes.
	CapacityInBytes uint64 `json:"capacity_in_bytes" yaml:"capacity_in_bytes"`
	// Boot is true for the disk that the node runs from.
	Boot bool `json:"boot" yaml:"boot"`
	// Multipath is true for a disk that is reached over several paths.
	Multipath bool `json:"multipath" yaml:"multipath"`
	// Removable is true when the kernel says that the medium can be taken out.
	Removable bool `json:"removable" yaml:"removable"`
	// Remote is true for a disk behind a fabric.
	Remote bool `json:"remote" yaml:"remote"`
	// WWN is the worldwide name, as "eui.0025385b11b2c3d4"; left out when the drive has none.
	WWN string `json:"wwn,omitempty" yaml:"wwn,omitempty"`
	// MemberPool is the ZFS pool that the drive belongs to.
	MemberPool string `json:"member_pool,omitempty" yaml:"member_pool,omitempty"`
}

// Pool is one ZFS pool.
type Pool struct {
	// Name is the pool's own, as "local".
	Name string `json:"name" yaml:"name"`
	// Type is "zfs-raid0", "zfs-raid1", "zfs-raid10" or "zfs-raidz1" to "zfs-raidz3".
	Type string `json:"type" yaml:"type"`
	// Devices are the members that hold the data, by drive id; never null.
	Devices []string `json:"devices" yaml:"devices"`
	// Cache are the members that cache reads, by drive id; left out when there are none.
	Cache []string `json:"cache,omitempty" yaml:"cache,omitempty"`
	// Log are the members that take synchronous writes first, by drive id; left out when there are
	// none.
	Log []string `json:"log,omitempty" yaml:"log,omitempty"`
	// Managed is true when the node holds the pool's key.
	Managed bool `json:"managed" yaml:"managed"`
	// State is ZFS' health, as "ONLINE".
	State string `json:"state" yaml:"state"`
	// LastScrub is the check of all data that was begun last; left out when there was none.
	LastScrub *PoolScrub `json:"last_scrub,omitempty" yaml:"last_scrub,omitempty"`
	// EncryptionKeyStatus is "available", "unavailable" or "NONE".
	EncryptionKeyStatus string `json:"encryption_key_status" yaml:"encryption_key_status"`
	// DevicesDegraded are the members that do not work, by drive id; left out when all do.
	DevicesDegraded []string `json:"devices_degraded,omitempty" yaml:"devices_degraded,omitempty"`
	// RawPoolSizeInBytes is the size of all members together, in bytes.
	RawPoolSizeInBytes uint64 `json:"raw_pool_size_in_bytes" yaml:"raw_pool_size_in_bytes"`
	// UsablePoolSizeInBytes is what fits into the pool with its redundancy, in bytes.
	UsablePoolSizeInBytes uint64 `json:"usable_pool_size_in_bytes" yaml:"usable_pool_size_in_bytes"`
	// PoolAllocatedSpaceInBytes is what is written, in bytes.
	PoolAllocatedSpaceInBytes uint64 `json:"pool_allocated_space_in_bytes" yaml:"pool_allocated_space_in_bytes"`
	// Volumes are the first-level datasets; never null.
	Volumes []PoolVolume `json:"volumes" yaml:"volumes"`
}

// PoolScrub is the last scrub of a pool.
type PoolScrub struct {
	// State is "UNKNOWN", "IN_PROGRESS" or "FINISHED".
	State string `json:"state" yaml:"state"`
	// StartTime is when the scrub began.
	StartTime time.Time `json:"start_time" yaml:"start_time"`
	// EndTime is when the scrub ended; year 1 while it runs.
	EndTime time.Time `json:"end_time" yaml:"end_time"`
	// Progress is a percentage, as "12.34%".
	Progress string `json:"progress" yaml:"progress"`
	// Errors counts the errors that were found.
	Errors int `json:"errors" yaml:"errors"`
}

// PoolVolume is one first-level dataset of a pool.
type PoolVolume struct {
	// Name is that of the dataset, without its pool, as "incus".
	Name string `json:"name" yaml:"name"`
	// UsageInBytes is what the volume takes, in bytes.
	UsageInBytes uint64 `json:"usage_in_bytes" yaml:"usage_in_bytes"`
	// QuotaInBytes is the most that the volume may take, in bytes; 0 for no limit.
	QuotaInBytes uint64 `json:"quota_in_bytes" yaml:"quota_in_bytes"`
	// Use is the property incusos:use, "-" when it is not set.
	Use string `json:"use" yaml:"use"`
}
