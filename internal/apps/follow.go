package apps

import (
	"fmt"
	"slices"
)

// follow is what a boot under another release of the OS than the last one changes.
//
// A node that goes back to an older OS may have an application that came with the newer one.
// Its data may have been upgraded, so it is tried first; but an application that does not
// run under the older OS gives way to the version that was active when that OS last ran.
// That is a switch which a power cut interrupted, turned round: Version is the one to go
// back to, Next the one that is tried. returning says that this is so.
//
// A node that goes on to a newer OS forgets what did not work under the older one.
func follow(r Record, os string, onDisk []string) (after Record, returning bool) {
	if os == "" || r.OS == os {
		return r, false
	}
	before := r
	r.OS, r.OtherOS, r.OtherVersion = os, before.OS, before.Version
	if before.OS == "" {
		r.OtherVersion = ""
		return r, false
	}
	if !older(os, before.OS) {
		r.Failed = ""
		return r, false
	}
	// Without a note of it, as after two returns, the version of the OS itself is the one.
	target := os
	if before.OtherOS == os {
		target = before.OtherVersion
	}
	if r.Next != "" || target == r.Version || !slices.Contains(onDisk, target) || !slices.Contains(onDisk, r.Version) {
		return r, false
	}
	r.Version, r.Next, r.NextTried = target, r.Version, false
	return r, true
}

// News gives what was decided of applications since it was last asked, each a sentence.
func (m *Manager) News() []string {
	m.telling.Lock()
	defer m.telling.Unlock()
	news := m.news
	m.news = nil
	return news
}

// maxNews bounds what is kept until somebody asks.
const maxNews = 20

func (m *Manager) tell(format string, args ...any) {
	m.telling.Lock()
	defer m.telling.Unlock()
	m.news = append(m.news, fmt.Sprintf(format, args...))
	m.news = m.news[max(0, len(m.news)-maxNews):]
}

// tellReturn tells how the return of an application ended; cause is nil when what came with
// the newer OS runs under the older one.
func (m *Manager) tellReturn(name string, before Record, cause error) {
	if !m.returning[name] {
		return
	}
	delete(m.returning, name)
	if cause == nil {
		m.tell("%s stays at %s, which runs under the older OS %s too", name, before.Next, before.OS)
		return
	}
	m.tell("%s went back from %s to %s, which ran with the OS %s: %v", name, before.Next, before.Version, before.OS, cause)
}
