package tuf

import "time"

// evidence is what is known about the time. docs/decisions/0015-trusted-time.md has the
// reasons.
type evidence struct {
	// clock is the system's clock.
	clock time.Time
	// confirmed says that the clock was set by a time server since boot.
	confirmed bool
	// built is the time of the running release.
	built time.Time
	// issued is the time of signing of the last accepted timestamp; zero for none.
	issued time.Time
	// seen is the newest confirmed clock at which that timestamp was accepted; zero for none.
	seen time.Time
}

// reference is the time at which expiry is judged. It is never before what is proven, and
// a clock that nobody confirmed does not count, neither when it is behind nor ahead.
func (e evidence) reference() time.Time {
	at := e.built
	for _, other := range []time.Time{e.issued, e.seen} {
		at = later(at, other)
	}
	if e.confirmed {
		at = later(at, e.clock)
	}
	return at.UTC()
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
