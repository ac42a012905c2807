package health

import "time"

// hostClock is the computer's clock.
type hostClock struct{ start time.Time }

// NewClock gives the computer's clock. Its Elapsed counts from now on.
func NewClock() Clock { return hostClock{time.Now()} }

func (hostClock) Now() time.Time                            { return time.Now() }
func (c hostClock) Elapsed() time.Duration                  { return time.Since(c.start) }
func (hostClock) After(wait time.Duration) <-chan time.Time { return time.After(wait) }
