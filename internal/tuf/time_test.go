package tuf

import (
	"maps"
	"slices"
	"testing"
	"time"
)

var (
	year1970 = time.Unix(0, 0)
	tenYears = start.AddDate(10, 0, 0)
)

// The whole table of what is taken for the time.
func TestReference_ClockAndProofs_GivesTheLatestThatIsProven(t *testing.T) {
	cases := map[string]struct {
		given evidence
		want  time.Time
	}{
		"confirmed clock":                         {evidence{clock: start, confirmed: true, built: start.Add(-day)}, start},
		"confirmed clock set back":                {evidence{clock: year1970, confirmed: true, built: start}, start},
		"clock at 1970":                           {evidence{clock: year1970, built: start}, start},
		"clock ten years ahead":                   {evidence{clock: tenYears, built: start}, start},
		"clock ten years ahead, said confirmed":   {evidence{clock: tenYears, confirmed: true, built: start}, tenYears},
		"older release booted again":              {evidence{clock: year1970, built: start.Add(-99 * day), issued: start.Add(-day), seen: start}, start},
		"last timestamp newer than the release":   {evidence{clock: year1970, built: start.Add(-day), issued: start}, start},
		"release newer than the last timestamp":   {evidence{clock: year1970, built: start, issued: start.Add(-day), seen: start.Add(-day)}, start},
		"nothing known":                           {evidence{clock: year1970}, time.Time{}},
		"clock behind what was seen, unconfirmed": {evidence{clock: start.Add(-day), seen: start}, start},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) { same(t, c.want.UTC(), c.given.reference()) })
	}
}

// No battery: a node whose clock is at 1970 or ten years ahead updates all the same, and
// says that it could not tell whether the metadata are fresh.
func TestRefresh_WrongUnconfirmedClock_AcceptsAndSaysWhatItDoesNotKnow(t *testing.T) {
	for name, c := range map[string]struct {
		clock time.Time
		stale bool
	}{"1970": {year1970, false}, "ten years ahead": {tenYears, true}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.confirmed, w.clock = false, c.clock
			same(t, Status{
				Root: 1, Timestamp: 2, Snapshot: 2, Targets: 1, Expires: start.Add(14 * day), Reference: start, Stale: c.stale, Changed: true,
			}, w.refresh())
			w.publish("stable", v2)
			same(t, v2, w.newest())
		})
	}
}

// Then NTP steps the clock: what was remembered under the wrong one must not be in the way.
func TestRefresh_ClockSteppedByNTP_GoesOn(t *testing.T) {
	for name, wrong := range map[string]time.Time{"from 1970": year1970, "from ten years ahead": tenYears} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.confirmed, w.clock = false, wrong
			w.refresh()
			w.confirmed, w.clock = true, start.Add(day)
			same(t, start.Add(day), w.refresh().Reference)
		})
	}
}

// Time servers that lie (NTP is not signed) stop updates as long as they lie, and no
// longer: nothing of it is remembered.
func TestRefresh_TimeServersLieTenYearsAhead_RefusesUntilTheyStop(t *testing.T) {
	w := newWorld(t)
	w.refresh()
	before := w.remembered()
	w.clock = tenYears
	_, err := w.client().Refresh(t.Context())
	checkErr(t, err, ErrExpired)
	same(t, before, w.remembered())
	w.clock = time.Time{}
	w.publish("stable", v2)
	same(t, v2, w.newest())
}

// The most that lying time servers can have remembered is the end of a timestamp that
// was valid; the next one that is signed ends later.
func TestRefresh_TimeServersLieWithinTheTimestamp_NextTimestampIsAccepted(t *testing.T) {
	w := newWorld(t)
	w.clock = start.Add(14 * day)
	same(t, start.Add(14*day), w.refresh().Reference)
	w.now, w.clock = start.Add(day), time.Time{}
	_, err := w.p.Refresh(t.Context())
	w.must(err)
	same(t, int64(3), w.refresh().Timestamp)
}

// Freeze: a node that knows the time stops at the end of the timestamp; one that does not
// knows at least the time of what it has seen, and says that it may be held back.
func TestRefresh_HeldBack_IsRefusedOrSaid(t *testing.T) {
	w := newWorld(t)
	w.refresh()
	w.now = start.Add(14*day + time.Second)
	_, err := w.client().Refresh(t.Context())
	checkErr(t, err, ErrExpired)
	w.confirmed = false
	same(t, true, w.refresh().Stale)
	// The end itself still counts.
	w.confirmed, w.now = true, start.Add(14*day)
	same(t, false, w.refresh().Stale)
}

// Replay after the clock was reset: what was current at a proven time is refused for ever
// after, also on a node that forgot the metadata and only knows its own release.
func TestRefresh_ReplayWithClockAt1970_IsRefused(t *testing.T) {
	w := newWorld(t)
	old := w.copy()
	w.now = start.Add(20 * day)
	_, err := w.p.Refresh(t.Context())
	w.must(err)
	t.Run("the release is newer", func(t *testing.T) {
		w.confirmed, w.clock, w.built = false, year1970, start.Add(19*day)
		_, err := w.client(old).Refresh(t.Context())
		checkErr(t, err, ErrExpired)
	})
	t.Run("newer metadata were seen", func(t *testing.T) {
		w.built = start
		w.refresh()
		_, err := w.client(old).Refresh(t.Context())
		checkErr(t, err, ErrVersion)
	})
	t.Run("a confirmed time was seen, and the keys are the same", func(t *testing.T) {
		// A newer version that a thief prepared in time, and that has ended since.
		evil := w.copy()
		evil[timestampFile] = forge(t, evil[timestampFile], func(m *timestampMeta) {
			m.Signed.Version, m.Signed.Expires = 90, start.Add(14*day)
			m.Signed.UnrecognizedFields[issuedField] = stamp(start)
		}, "timestamp")
		_, err := w.client(evil).Refresh(t.Context())
		checkErr(t, err, ErrExpired)
	})
}

// An older release in the other slot was built earlier; the time does not go back with it.
func TestRefresh_OlderSlotBooted_KeepsTheTimeOfWhatWasSeen(t *testing.T) {
	w := newWorld(t)
	w.refresh()
	w.confirmed, w.clock, w.built = false, year1970, start.Add(-300*day)
	same(t, start, w.refresh().Reference) // from the timestamp
	w.confirmed, w.clock = true, start.Add(3*day)
	w.refresh()
	w.confirmed, w.clock = false, year1970
	same(t, start.Add(3*day), w.refresh().Reference) // from the clock of before
}

// A node that was off for three years gets its time from what it fetches, and follows the
// roots that have ended in between.
func TestRefresh_OffForYearsWithoutClock_FollowsEndedRoots(t *testing.T) {
	w := newWorld(t)
	w.refresh()
	for range 6 {
		w.now = w.now.Add(184 * day)
		due, err := w.p.Refresh(t.Context())
		w.must(err)
		same(t, []Due(nil), due)
	}
	w.publish("stable", "202911110000")
	w.confirmed, w.clock = false, year1970
	status := w.refresh()
	same(t, Status{Root: 7, Timestamp: 9, Snapshot: 9, Targets: 7, Expires: w.now.Add(14 * day), Reference: w.now, Changed: true}, status)
	same(t, "202911110000", w.newest())
}

// A root that has ended is no root, also for a node that learns the time only from the
// timestamp that it names.
func TestRefresh_RootHasEnded_IsRefused(t *testing.T) {
	w := newWorld(t)
	w.p.Validity.Root = 10 * day
	w.must(w.p.Rotate(t.Context(), "root", role(2, "root-1", "root-2")))
	w.now = start.Add(11 * day)
	w.p.Signers = keys("snapshot", "timestamp")
	due, err := w.p.Refresh(t.Context())
	w.must(err)
	same(t, []Due{{"root", start.Add(10 * day)}}, due)
	for _, confirmed := range []bool{true, false} {
		w.confirmed = confirmed
		_, err = w.client().Refresh(t.Context())
		checkErr(t, err, ErrExpired)
		w.clock = year1970
	}
	same(t, []string{"root.json"}, slices.Sorted(maps.Keys(w.remembered())))
}
