// Package backup makes backups and takes them back: of the node itself (the system), and of
// the data of one application.
//
// A backup is a gzip tar, as IncusOS gives it. Its first member, holdfast-backup.json
// (api/os.BackupManifest), says who made it when, and lists all others with their sums. It
// may be encrypted with age (encrypt.go); who restores it decrypts it first.
//
// Parties: the daemon asks for an archive or brings one; Scan reads what is brought and
// trusts none of it; a system's archive is small and is held in memory, an application's is
// spooled to a file and read twice.
//
// Invariants:
//
//   - Nothing of an archive is written before all of it was read and found good (Scan):
//     names, types, links, sizes, number, ratio, sums. What is refused is a *Problem.
//   - Nothing of an archive can end up outside of its folder: no absolute name, no "..", no
//     member below a link, no link that leads out.
//   - A restore of the system is one rename of one file (Commit). The daemon carries it out
//     at its next start, before it reads its state (Resume). A power cut leaves the old
//     state or the new one, never a mix that anybody reads.
//   - A restore of an application leaves the data of before beside the new one until the
//     application has started with it (Place).
//   - A key of a pool is never deleted, and the machine id is never taken from a backup.
//
// What can fail: no room (told before anything is replaced), a foreign or newer archive, a
// file that shrinks while it is read, an application that does not start with its data.
//
// The package reads and writes files, as package state does, and starts no program.
package backup

import (
	"fmt"

	osapi "github.com/holdfast-os/holdfast/api/os"
)

const (
	// Format is what this release writes and the newest that it reads.
	Format = 1
	// ManifestName is the first member of an archive.
	ManifestName = "holdfast-backup.json"
)

// Kinds of backups.
const (
	KindSystem      = "system"
	KindApplication = "application"
)

// Types of members, as the manifest names them.
const (
	TypeFile      = "file"
	TypeDirectory = "directory"
	TypeSymlink   = "symlink"
)

// Limits bound what an archive may be.
type Limits struct {
	// Packed is the longest archive, in bytes as it is sent.
	Packed int64
	// Unpacked is the most that all members may hold together, in bytes.
	Unpacked int64
	// Entries is the largest number of members.
	Entries int
	// Manifest is the longest manifest, in bytes.
	Manifest int64
	// Ratio is how many times its packed size an archive may unpack to. It counts once
	// RatioFrom bytes were unpacked: preallocated files of databases are mostly zeros.
	Ratio     int64
	RatioFrom int64
}

// SystemLimits are those of a backup of the system, which is documents and keys.
var SystemLimits = Limits{Packed: 16 << 20, Unpacked: 64 << 20, Entries: 2000, Manifest: 1 << 20, Ratio: 100, RatioFrom: 8 << 20}

// ApplicationLimits are those of a backup of an application. Instances and their images are
// not in it.
var ApplicationLimits = Limits{Packed: 64 << 30, Unpacked: 256 << 30, Entries: 200_000, Manifest: 64 << 20, Ratio: 100, RatioFrom: 512 << 20}

// Rules of a Problem.
const (
	RuleArchive   = "archive"
	RuleEncrypted = "encrypted"
	RuleLimit     = "limit"
	RuleName      = "name"
	RuleType      = "type"
	RuleLink      = "link"
	RuleUnique    = "unique"
	RuleSum       = "sum"
	RuleFormat    = "format"
	RuleNewer     = "newer"
	RuleContent   = "content"
	RuleMachine   = "machine"
)

// Problem is why an archive is refused. Nothing was written then.
type Problem struct {
	// Member is the name of the member; empty for the archive itself.
	Member string
	// Rule is one of the rules; programs may test it.
	Rule string
	// Text says it in words, with the way on.
	Text string
}

func (p *Problem) Error() string {
	if p.Member == "" {
		return fmt.Sprintf("backup: %s (rule %s)", p.Text, p.Rule)
	}
	return fmt.Sprintf("backup, member %q: %s (rule %s)", shown(p.Member), p.Text, p.Rule)
}

// shown cuts a name that is too long for a person.
func shown(name string) string {
	if len(name) > 200 {
		return name[:200] + "..."
	}
	return name
}

func refuse(member, rule, format string, args ...any) error {
	return &Problem{Member: member, Rule: rule, Text: fmt.Sprintf(format, args...)}
}

// CheckManifest refuses an archive of another kind, or of a newer format. A nil manifest is
// that of an archive of IncusOS.
func CheckManifest(m *osapi.BackupManifest, kind, application string) error {
	switch {
	case m == nil && kind == KindApplication:
		return nil // IncusOS' archives of applications have the same shape
	case m == nil:
		return refuse("", RuleFormat, "there is no %s in it, so Holdfast did not make it; the state of IncusOS cannot be read, set the node up with a seed instead", ManifestName)
	case m.Format > Format:
		return refuse(ManifestName, RuleNewer, "it has format %d and this release reads up to %d: update the node first", m.Format, Format)
	case m.Format < 1:
		return refuse(ManifestName, RuleFormat, "format %d is none", m.Format)
	case m.Kind != kind:
		return refuse(ManifestName, RuleFormat, "it is a backup of kind %q, and %q is wanted here", m.Kind, kind)
	case !sameData(m.Application, application):
		return refuse(ManifestName, RuleFormat, "it is a backup of the application %q, not of %q", m.Application, application)
	}
	return nil
}
