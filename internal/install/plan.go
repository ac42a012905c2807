package install

import (
	"fmt"

	"github.com/holdfast-os/holdfast/internal/layout"
)

// Action is what a step does.
type Action string

// The actions, in the order in which a plan has them.
const (
	Forget    Action = "forget"     // clear the note of an earlier installation
	Wipe      Action = "wipe"       // remove the old table and signatures, set the mark
	Zero      Action = "zero"       // make a range read as zeros
	Copy      Action = "copy"       // copy a range from the medium, and read it back
	WriteSeed Action = "seed"       // write the seed without its request to install
	Sync      Action = "sync"       // make everything durable
	WriteTab  Action = "table"      // write the partition table: the commit
	Reread    Action = "reread"     // let the kernel take the table up, and read it back
	MarkESP   Action = "mark"       // note on the ESP what the machine is installed without
	BootEntry Action = "boot-entry" // put the disk first in the firmware's boot order
	Complete  Action = "complete"   // note in the firmware that the machine is installed
	Unmark    Action = "unmark"     // remove the mark of an unfinished installation
	Leave     Action = "leave"      // restart, or wait until the medium is gone and restart
)

// Step is one step, as data.
type Step struct {
	Action Action
	// Name says what the step works on, as "esp".
	Name string
	// Offset and Size are the range in bytes, the same on medium and target.
	Offset, Size int64
	// Used are the pieces of the range that are copied; nil is all of it. The rest is
	// what an earlier step made of it: zeros.
	Used []Range
}

// Bytes is how much the step moves: the size of its range, or of what is used of it.
func (s Step) Bytes() int64 {
	if s.Used == nil {
		return s.Size
	}
	var sum int64
	for _, r := range s.Used {
		sum += r.Size
	}
	return sum
}

func (s Step) pieces() []Range {
	if s.Used == nil {
		return []Range{{s.Offset, s.Size}}
	}
	return s.Used
}

// String is the step in one line.
func (s Step) String() string {
	text := string(s.Action)
	if s.Name != "" {
		text += " " + s.Name
	}
	if s.Size > 0 {
		text += ": " + formatSize(s.Bytes())
		if s.Used != nil {
			text += " of " + formatSize(s.Size)
		}
		text += fmt.Sprintf(" at %d", s.Offset)
	}
	return text
}

// words say what the steps without a range are for.
var words = map[Action]string{
	Forget:    "clearing the note of the earlier installation",
	Wipe:      "removing the old partition table and the signatures of what was there",
	Sync:      "waiting until the disk has written everything",
	WriteTab:  "writing the partition table; from here on the disk can be started",
	Reread:    "reading the partition table back",
	MarkESP:   "noting on the disk what this machine is installed without",
	BootEntry: "putting the disk first in the firmware's boot order",
	Complete:  "noting in the firmware that the machine is installed",
	Unmark:    "removing the mark of an unfinished installation",
	Leave:     "done, leaving the installer",
}

// Words is the step for a person who watches: what String says, and what it is for.
func (s Step) Words() string {
	if text := words[s.Action]; text != "" {
		return s.String() + ": " + text
	}
	return s.String()
}

// Loader is an entry for the firmware's boot menu.
type Loader struct {
	Label string
	// Partition is the number of the ESP.
	Partition int
	// Start and Size are the place of the ESP, in sectors of the target.
	Start, Size int64
	// GUID is the ESP's unique GUID.
	GUID string
	// Path is the boot loader on the ESP, with backslashes.
	Path string
}

// Plan is a whole installation. It can be printed; the seed is not part of the text.
type Plan struct {
	// Medium and Target are devices.
	Medium, Target string
	// TargetSize is in bytes.
	TargetSize int64
	Steps      []Step
	// Table is the script for sfdisk.
	Table string
	// ESP is the new ESP's unique GUID; the mark holds it too.
	ESP    string
	Loader Loader
	// Marks are the files that early boot looks for on the ESP; see Degraded.
	Marks []string
	// Seed is the tar for the target's seed partition. It may hold secrets.
	Seed []byte `json:"-"`
	// Restart leaves without waiting for the medium to be removed.
	Restart bool
}

// CopyBytes is how much is copied from the medium, in bytes.
func (p Plan) CopyBytes() int64 {
	var sum int64
	for _, step := range p.Steps {
		if step.Action == Copy {
			sum += step.Bytes()
		}
	}
	return sum
}

// Input is what a plan is made of.
type Input struct {
	// Arch is "x86_64" or "aarch64".
	Arch   string
	Medium Medium
	Target Disk
	// Used are the ranges that the medium uses, by partition, as Used gives them; a
	// partition that is missing is copied in full.
	Used map[int][]Range
	// Forget is true when an earlier installation left its note in the firmware.
	Forget bool
	// Marks are what the machine is installed without; see Degraded.
	Marks []string
	// Seed is the tar for the target: without the request to install.
	Seed []byte
	// Restart leaves without waiting for the medium to be removed; default false.
	Restart bool
	// NewGUID makes a random GUID in lower case.
	NewGUID func() string
}

// loaders are the boot loader's names on the ESP, by architecture.
var loaders = map[string]string{
	layout.X86_64:  `\EFI\systemd\systemd-bootx64.efi`,
	layout.AArch64: `\EFI\systemd\systemd-bootaa64.efi`,
}

// wipeSize is zeroed at both ends of the target, in bytes.
const wipeSize = 2 << 20

// NewPlan makes the plan. The target was chosen and checked by Check.
func NewPlan(in Input) (Plan, error) {
	table, err := layout.Table(in.Arch)
	if err != nil {
		return Plan{}, err
	}
	if int64(len(in.Seed)) > layout.Size(layout.Seed) {
		return Plan{}, fmt.Errorf("planning the installation of %s: the seed has %d bytes, and its partition %d", in.Target.Path, len(in.Seed), layout.Size(layout.Seed))
	}
	for _, p := range table {
		if !inside(in.Used[p.Number], p) {
			return Plan{}, fmt.Errorf("planning the installation of %s: what is used of partition %d does not lie in it", in.Target.Path, p.Number)
		}
	}
	guids := map[int]string{}
	for number := layout.ESP; number <= layout.UsrB; number++ {
		guids[number] = in.NewGUID()
	}
	for _, part := range in.Medium.Parts {
		if part.Number >= layout.SigA && part.Number <= layout.UsrA {
			guids[part.Number] = part.GUID
		}
	}
	script, err := layout.InstallTable(layout.TableOptions{Arch: in.Arch, Version: in.Medium.Version,
		SectorSize: in.Target.Sector, DiskSize: in.Target.Size, UUIDs: guids, Paths: len(in.Target.Members) > 0})
	if err != nil {
		return Plan{}, fmt.Errorf("planning the installation of %s: %w", in.Target.Path, err)
	}
	esp := table[layout.ESP-1]
	return Plan{
		Medium: in.Medium.Path, Target: in.Target.Path, TargetSize: in.Target.Size,
		Steps: steps(table, in),
		Marks: in.Marks, Table: script, ESP: guids[layout.ESP], Seed: in.Seed, Restart: in.Restart,
		Loader: Loader{Label: layout.Name, Partition: layout.ESP, Start: esp.Start / in.Target.Sector,
			Size: esp.Size / in.Target.Sector, GUID: guids[layout.ESP], Path: loaders[in.Arch]},
	}, nil
}

// steps lists what is done with a table. What a first boot or an update will fill
// later only loses its first bytes, where a left-over signature would be found.
func steps(table []layout.Partition, in Input) []Step {
	var list []Step
	if in.Forget {
		list = append(list, Step{Action: Forget})
	}
	list = append(list, Step{Action: Wipe})
	for _, p := range table {
		name := layout.SlotLabel(p, in.Medium.Version)
		if p.Number > layout.UsrA {
			size := int64(layout.MiB)
			if p.Size > 0 {
				size = min(size, p.Size)
			}
			list = append(list, Step{Action: Zero, Name: fmt.Sprintf("start of partition %d", p.Number), Offset: p.Start, Size: size})
			continue
		}
		list = append(list, Step{Action: Zero, Name: name, Offset: p.Start, Size: p.Size})
		if p.Number == layout.Seed {
			list = append(list, Step{Action: WriteSeed, Name: name, Offset: p.Start, Size: int64(len(in.Seed))})
			continue
		}
		list = append(list, Step{Action: Copy, Name: name, Offset: p.Start, Size: p.Size, Used: in.Used[p.Number]})
	}
	for _, action := range []Action{Sync, WriteTab, Reread, MarkESP, BootEntry, Complete, Unmark, Leave} {
		if action != MarkESP || len(in.Marks) > 0 {
			list = append(list, Step{Action: action})
		}
	}
	return list
}
