// Package layout is the partition table of a Holdfast node, as one Go value.
//
// Everything that has to know where a partition lies or what it is called asks
// here: the build of the medium (RenderMediumRepart), the early boot of a node
// (RenderRepart), the swap of slots (RenderTransfers), the installer
// (InstallTable) and whoever writes a seed into an image (SeedOffset).
//
//	 1 esp         the boot loader and its kernel images
//	 2 seed-data   a raw tar at byte 2148532224, where the tools of IncusOS write it
//	 3 4 5         slot A: signature, hash tree and content of /usr
//	 6 7 8         slot B: the same, labelled "_empty" until its first update
//	 9 swap        encrypted, made by the first boot
//	10 root        encrypted, made by the first boot
//	11 local-data  the rest of the disk, for the pool "local"
//
// The medium carries partitions 1 to 5. Sizes are fixed: a slot that grows later
// would need every node to be installed again, so they leave room. The package is
// pure: it reads and writes no disk.
package layout

import "fmt"

// Units of this package, in bytes.
const (
	KiB int64 = 1 << 10
	MiB int64 = 1 << 20
	GiB int64 = 1 << 30
)

// Name is the image id: the prefix of the names of slots and kernel images.
const Name = "Holdfast"

// EmptyLabel is the name of a partition of a slot that holds no release.
const EmptyLabel = "_empty"

const (
	// FirstByte is where partition 1 begins.
	FirstByte = MiB
	// MaximumSystem bounds everything that lies before local-data, in bytes.
	MaximumSystem = 12 * GiB
	// MinimumDisk is the smallest disk that a node can be installed on, in bytes.
	MinimumDisk = 20 * GiB
	// MinimumLocalData is the smallest local-data that the first boot accepts, in bytes.
	MinimumLocalData = GiB
)

// Numbers of the partitions.
const (
	ESP = iota + 1
	Seed
	SigA
	VerityA
	UsrA
	SigB
	VerityB
	UsrB
	Swap
	Root
	LocalData
)

// Architectures a table exists for, as uname(1) names them.
const (
	//lint:ignore ST1003 the name of the architecture is written so everywhere
	X86_64  = "x86_64"
	AArch64 = "aarch64"
)

// Partition is one row of the table.
type Partition struct {
	// Number is the partition's number, from 1.
	Number int
	// Label is the partition's name; "%" is the release for the rows of slot A.
	Label string
	// Type is the name that systemd gives to the partition type of the architecture.
	Type string
	// GUID is the partition type, upper case.
	GUID string
	// Start is the first byte.
	Start int64
	// Size is in bytes; 0 means the rest of the disk.
	Size int64
}

type row struct {
	label string
	kind  kind
	size  int64
}

type kind int

const (
	kindESP kind = iota
	kindGeneric
	kindSig
	kindVerity
	kindUsr
	kindSwap
	kindRoot
)

// rows is the table itself; Numbers index it from 1.
var rows = [...]row{
	{"esp", kindESP, 2048 * MiB},
	{"seed-data", kindGeneric, 100 * MiB},
	{Name + "_%_verity_sig", kindSig, 16 * KiB},
	{Name + "_%_verity", kindVerity, 64 * MiB},
	{Name + "_%", kindUsr, 2048 * MiB},
	{EmptyLabel, kindSig, 16 * KiB},
	{EmptyLabel, kindVerity, 64 * MiB},
	{EmptyLabel, kindUsr, 2048 * MiB},
	{"swap", kindSwap, 1024 * MiB},
	{"root-", kindRoot, 4608 * MiB},
	{"local-data", kindGeneric, 0},
}

type typeID struct{ name, guid string }

// types are those of the Discoverable Partitions Specification.
var types = map[string]map[kind]typeID{
	X86_64: {
		kindESP:     {"esp", "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"},
		kindGeneric: {"linux-generic", "0FC63DAF-8483-4772-8E79-3D69D8477DE4"},
		kindSig:     {"usr-x86-64-verity-sig", "E7BB33FB-06CF-4E81-8273-E543B413E2E2"},
		kindVerity:  {"usr-x86-64-verity", "77FF5F63-E7B6-4633-ACF4-1565B864C0E6"},
		kindUsr:     {"usr-x86-64", "8484680C-9521-48C6-9C11-B0720656F69E"},
		kindSwap:    {"swap", "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F"},
		kindRoot:    {"root-x86-64", "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"},
	},
	AArch64: {
		kindESP:     {"esp", "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"},
		kindGeneric: {"linux-generic", "0FC63DAF-8483-4772-8E79-3D69D8477DE4"},
		kindSig:     {"usr-arm64-verity-sig", "C23CE4FF-44BD-4B00-B2D4-B41B3419E02A"},
		kindVerity:  {"usr-arm64-verity", "6E11A4E7-FBCA-4DED-B9E9-E1A512BB664E"},
		kindUsr:     {"usr-arm64", "B0E01050-EE5F-4390-949A-9101B17104E9"},
		kindSwap:    {"swap", "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F"},
		kindRoot:    {"root-arm64", "B921B045-1DF0-41C3-AF44-4C6F280D3FAE"},
	},
}

// Table is the whole table of an architecture, in order. An architecture without
// a table is an error.
func Table(arch string) ([]Partition, error) {
	byKind, ok := types[arch]
	if !ok {
		return nil, fmt.Errorf("looking up the partition table of %q: known are %s and %s", arch, X86_64, AArch64)
	}
	table := make([]Partition, len(rows))
	for i, r := range rows {
		id := byKind[r.kind]
		label := r.label
		if r.kind == kindRoot {
			label = id.name
		}
		table[i] = Partition{Number: i + 1, Label: label, Type: id.name, GUID: id.guid, Start: Start(i + 1), Size: r.size}
	}
	return table, nil
}

// Start is the first byte of a partition. It panics on a number outside 1 to 11,
// which is a mistake in the program and never in its input.
func Start(number int) int64 {
	_ = rows[number-1]
	start := FirstByte
	for _, r := range rows[:number-1] {
		start += r.size
	}
	return start
}

// Size is a partition's size in bytes; 0 for local-data, which takes the rest.
func Size(number int) int64 { return rows[number-1].size }

// SeedOffset is the byte of a disk or medium at which the seed's tar begins.
func SeedOffset() int64 { return Start(Seed) }
