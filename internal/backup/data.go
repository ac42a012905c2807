package backup

import (
	"maps"
	"slices"
	"strings"
)

// Data is where an application keeps what it knows, and what of it a backup has.
type Data struct {
	// Folder is an absolute path on the node.
	Folder string
	// LeftOut are names in it that no backup has: sockets, and what is mounted.
	LeftOut []string
	// Fetched are names that only a complete backup has: the application can fetch them.
	Fetched []string
	// Steady are folders that must not change while they are read: databases.
	Steady []string
}

// datas are the applications with data, by name; the folders are those of IncusOS.
var datas = map[string]Data{
	"incus":             {Folder: "/var/lib/incus", LeftOut: []string{"guestapi", "shmounts", "unix.socket"}, Steady: []string{"database"}},
	"incus-lts-7.0":     {Folder: "/var/lib/incus", LeftOut: []string{"guestapi", "shmounts", "unix.socket"}, Steady: []string{"database"}},
	"migration-manager": {Folder: "/var/lib/migration-manager", Fetched: []string{"artifacts"}},
	"openfga":           {Folder: "/var/lib/openfga"},
	"operations-center": {Folder: "/var/lib/operations-center", Fetched: []string{"updates"}},
}

// DataOf gives the data of an application, and false for one that keeps none.
func DataOf(application string) (Data, bool) {
	d, ok := datas[application]
	return d, ok
}

// Applications are the names that DataOf knows, sorted.
func Applications() []string { return slices.Sorted(maps.Keys(datas)) }

// sameData tells whether a backup of one application can be restored as another: the two
// editions of Incus have the same data.
func sameData(a, b string) bool {
	return a == b || strings.HasPrefix(a, "incus") && datas[a].Folder != "" && datas[a].Folder == datas[b].Folder
}

// out tells whether a name is left out of a backup.
func (d Data) out(name string, complete bool) bool {
	for _, one := range d.LeftOut {
		if within(name, one) {
			return true
		}
	}
	for _, one := range d.Fetched {
		if !complete && within(name, one) {
			return true
		}
	}
	return false
}

// Rules are what a backup of the data may hold.
func (d Data) Rules() Rules { return Rules{Limits: ApplicationLimits, Folder: d.Folder} }
