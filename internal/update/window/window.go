// Package window knows when a node may update by itself: the owner's maintenance
// windows and how often to look.
//
// A window is read off the wall clock of the node's time zone, in minutes, both ends
// included: it is open whenever that clock shows a time inside it. So where the clock is
// set back, a window in the repeated hour is open twice; where it is set forward, a window
// that begins or ends in the hour left out is shorter. A window that lies wholly in that
// hour would be lost, for a weekly one the whole week: it is open by as much later as
// the clock was moved, as RFC 5545 reads such times.
//
// Everything is a function of the time and the zone that are passed in: a change of
// either holds from the next question on. Nothing here reads a clock.
package window

import (
	"fmt"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
)

const (
	day  = 24 * time.Hour
	week = 7 * day
)

// span is one window: it begins every period at an offset from Sunday (weekly) or from
// midnight (daily), and is length long.
type span struct {
	period, offset, length time.Duration
}

// Set is the windows of a configuration. The empty set is always open.
type Set struct {
	spans []span
}

// Parse reads the windows of a configuration. The error names the first window, by its
// number from 0, that can never be.
func Parse(windows []osapi.MaintenanceWindow) (Set, error) {
	var set Set
	for i, w := range windows {
		s, err := parse(w)
		if err != nil {
			return Set{}, fmt.Errorf("reading maintenance window %d: %w", i, err)
		}
		set.spans = append(set.spans, s)
	}
	return set, nil
}

func parse(w osapi.MaintenanceWindow) (span, error) {
	for _, part := range []struct{ value, max int }{
		{w.StartHour, 23}, {w.EndHour, 23}, {w.StartMinute, 59}, {w.EndMinute, 59},
	} {
		if part.value < 0 || part.value > part.max {
			return span{}, fmt.Errorf("%d is not between 0 and %d", part.value, part.max)
		}
	}
	s := span{period: day, offset: clock(w.StartHour, w.StartMinute)}
	end := clock(w.EndHour, w.EndMinute)
	if w.StartDayOfWeek != "" || w.EndDayOfWeek != "" {
		from, okFrom := weekday(w.StartDayOfWeek)
		to, okTo := weekday(w.EndDayOfWeek)
		if !okFrom || !okTo {
			return span{}, fmt.Errorf("from %q to %q: give both days, each as \"Sunday\"", w.StartDayOfWeek, w.EndDayOfWeek)
		}
		if from == to && end < s.offset {
			return span{}, fmt.Errorf("it ends before it starts on %s", from)
		}
		s.period = week
		s.offset += time.Duration(from) * day
		end += time.Duration(to) * day
	}
	s.length = (end-s.offset+s.period)%s.period + time.Minute // the last minute belongs to it
	return s, nil
}

func clock(hour, minute int) time.Duration {
	return time.Duration(hour)*time.Hour + time.Duration(minute)*time.Minute
}

func weekday(name string) (time.Weekday, bool) {
	for d := time.Sunday; d <= time.Saturday; d++ {
		if d.String() == name {
			return d, true
		}
	}
	return 0, false
}

// Always is true when there are no windows, so that every time is right.
func (s Set) Always() bool { return len(s.spans) == 0 }

// Shortest is the length of the shortest window; 0 when there is none.
func (s Set) Shortest() time.Duration {
	var shortest time.Duration
	for _, one := range s.spans {
		if shortest == 0 || one.length < shortest {
			shortest = one.length
		}
	}
	return shortest
}

// Open tells whether now lies in a window, in the time zone loc.
func (s Set) Open(now time.Time, loc *time.Location) bool {
	if s.Always() {
		return true
	}
	local := now.In(loc)
	naive := wall(local)
	for _, one := range s.spans {
		if one.contains(naive) || one.moved(local, naive) {
			return true
		}
	}
	return false
}

// Next gives the first time from now on at which a window is open: now itself when one
// is. It is false when there is none in the next nine days, which no set that Parse
// accepted has.
func (s Set) Next(now time.Time, loc *time.Location) (time.Time, bool) {
	if s.Open(now, loc) {
		return now, true
	}
	var next time.Time
	for _, c := range s.candidates(now, loc) {
		if !c.Before(now) && (next.IsZero() || c.Before(next)) && s.Open(c, loc) {
			next = c
		}
	}
	return next, !next.IsZero()
}

// candidates are the times of the next nine days at which a window can open: where the
// wall clock shows its start, under each offset that the zone has in that time, where the
// clock is moved into a window, and the moved starts. All that are too many are harmless.
func (s Set) candidates(now time.Time, loc *time.Location) []time.Time {
	var found []time.Time
	end := now.Add(9 * day)
	offsets := []time.Duration{offset(now.Add(-day).In(loc))}
	for at := now.Add(-day).In(loc); ; {
		_, next := at.ZoneBounds()
		if next.IsZero() || next.After(end) {
			break
		}
		found, offsets = append(found, next), append(offsets, offset(next))
		at = next
	}
	today := wall(now.In(loc)).Truncate(day)
	for _, one := range s.spans {
		for n := -1; n <= 9; n++ {
			start := today.Add(time.Duration(n) * day)
			if one.period == week {
				start = start.Add(one.offset % day)
			} else {
				start = start.Add(one.offset)
			}
			if begin := one.begin(start); !begin.Equal(start) {
				continue // another day of the week
			}
			for _, o := range offsets {
				found = append(found, start.Add(-o))
			}
		}
	}
	return found
}

// contains tells whether the wall clock lies in the window.
func (s span) contains(naive time.Time) bool { return naive.Before(s.begin(naive).Add(s.length)) }

// begin is the last start of the window at or before the wall clock.
func (s span) begin(naive time.Time) time.Time {
	base := naive.Truncate(day)
	if s.period == week {
		base = base.Add(-time.Duration(naive.Weekday()) * day)
	}
	begin := base.Add(s.offset)
	if begin.After(naive) {
		begin = begin.Add(-s.period)
	}
	return begin
}

// moved tells whether the wall clock lies in a window that a clock set forward has left
// out as a whole, and that is open that much later instead.
func (s span) moved(local, naive time.Time) bool {
	since, _ := local.ZoneBounds()
	if since.IsZero() || local.Sub(since) > 2*day {
		return false
	}
	before := offset(since.Add(-time.Second).In(local.Location()))
	gap := offset(since.In(local.Location())) - before
	if gap <= 0 {
		return false
	}
	from := since.UTC().Add(before) // the first time that the wall clock did not show
	to := from.Add(gap)
	would := naive.Add(-gap)
	begin := s.begin(would)
	return s.contains(would) && !begin.Before(from) && !begin.Add(s.length).After(to)
}

// wall gives what the wall clock shows, as if it were UTC.
func wall(local time.Time) time.Time { return local.UTC().Add(offset(local)) }

func offset(local time.Time) time.Duration {
	_, seconds := local.Zone()
	return time.Duration(seconds) * time.Second
}

// Words tell a person when a window opens next, as "next Sun 02:00 CET".
func (s Set) Words(now time.Time, loc *time.Location) string {
	next, ok := s.Next(now, loc)
	if !ok {
		return "no window in the next nine days"
	}
	form := "Mon 15:04 MST"
	if next.Sub(now) >= 6*day {
		form = "Mon 2 Jan 15:04 MST"
	}
	return "next " + next.In(loc).Format(form)
}
