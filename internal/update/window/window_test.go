package window_test

import (
	"testing"
	"time"
	_ "time/tzdata" // the tests need zones that the computer may not have

	"github.com/google/go-cmp/cmp"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/update/window"
)

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func daily(fromHour, fromMinute, toHour, toMinute int) osapi.MaintenanceWindow {
	return osapi.MaintenanceWindow{StartHour: fromHour, StartMinute: fromMinute, EndHour: toHour, EndMinute: toMinute}
}

func weekly(fromDay string, fromHour, fromMinute int, toDay string, toHour, toMinute int) osapi.MaintenanceWindow {
	w := daily(fromHour, fromMinute, toHour, toMinute)
	w.StartDayOfWeek, w.EndDayOfWeek = fromDay, toDay
	return w
}

func set(t testing.TB, windows ...osapi.MaintenanceWindow) window.Set {
	t.Helper()
	s, err := window.Parse(windows)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// utc reads "2026-03-29 01:00:59"; a test's times are in UTC, so that they are unambiguous.
func utc(t testing.TB, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.DateTime, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// An owner reads the windows off the clock on the wall.
func TestOpen_ReadsTheWallClock(t *testing.T) {
	night := daily(2, 0, 4, 30)
	late := daily(22, 0, 3, 0)
	weekend := weekly("Saturday", 20, 0, "Monday", 5, 0) // over the end of the week
	minute := daily(2, 15, 2, 15)
	for _, c := range []struct {
		name, zone string
		windows    []osapi.MaintenanceWindow
		at         string
		want       bool
	}{
		{"no window", "UTC", nil, "2026-11-22 12:00:00", true},
		{"before", "UTC", []osapi.MaintenanceWindow{night}, "2026-11-22 01:59:59", false},
		{"first second", "UTC", []osapi.MaintenanceWindow{night}, "2026-11-22 02:00:00", true},
		{"last second of the last minute", "UTC", []osapi.MaintenanceWindow{night}, "2026-11-22 04:30:59", true},
		{"after", "UTC", []osapi.MaintenanceWindow{night}, "2026-11-22 04:31:00", false},
		{"in the node's zone", "Europe/Berlin", []osapi.MaintenanceWindow{night}, "2026-11-22 01:00:00", true},
		{"not in UTC then", "Europe/Berlin", []osapi.MaintenanceWindow{night}, "2026-11-22 04:00:00", false},
		{"before midnight", "UTC", []osapi.MaintenanceWindow{late}, "2026-11-22 23:59:59", true},
		{"after midnight", "UTC", []osapi.MaintenanceWindow{late}, "2026-11-22 00:00:00", true},
		{"between the nights", "UTC", []osapi.MaintenanceWindow{late}, "2026-11-22 12:00:00", false},
		{"saturday", "UTC", []osapi.MaintenanceWindow{weekend}, "2026-11-21 20:00:00", true},
		{"sunday", "UTC", []osapi.MaintenanceWindow{weekend}, "2026-11-22 12:00:00", true},
		{"monday", "UTC", []osapi.MaintenanceWindow{weekend}, "2026-11-23 05:00:30", true},
		{"monday, later", "UTC", []osapi.MaintenanceWindow{weekend}, "2026-11-23 05:01:00", false},
		{"saturday, earlier", "UTC", []osapi.MaintenanceWindow{weekend}, "2026-11-21 19:59:59", false},
		{"one of two", "UTC", []osapi.MaintenanceWindow{weekend, night}, "2026-11-25 03:00:00", true},
		{"a minute", "UTC", []osapi.MaintenanceWindow{minute}, "2026-11-25 02:15:59", true},

		// Berlin, 2026-03-29: 02:00 CET (01:00 UTC) is followed by 03:00 CEST.
		{"gap cuts the end", "Europe/Berlin", []osapi.MaintenanceWindow{daily(1, 30, 2, 30)}, "2026-03-29 00:59:59", true},
		{"gap has cut the end", "Europe/Berlin", []osapi.MaintenanceWindow{daily(1, 30, 2, 30)}, "2026-03-29 01:00:00", false},
		{"gap cuts the start", "Europe/Berlin", []osapi.MaintenanceWindow{daily(2, 30, 3, 30)}, "2026-03-29 01:00:00", true},
		{"in the gap as a whole: not at once", "Europe/Berlin", []osapi.MaintenanceWindow{daily(2, 15, 2, 45)}, "2026-03-29 01:14:59", false},
		{"in the gap as a whole: an hour later", "Europe/Berlin", []osapi.MaintenanceWindow{daily(2, 15, 2, 45)}, "2026-03-29 01:15:00", true},
		{"in the gap as a whole: as long as it is", "Europe/Berlin", []osapi.MaintenanceWindow{daily(2, 15, 2, 45)}, "2026-03-29 01:46:00", false},
		{"the day after the gap", "Europe/Berlin", []osapi.MaintenanceWindow{daily(2, 15, 2, 45)}, "2026-03-30 01:15:00", false},
		{"weekly in the gap", "Europe/Berlin", []osapi.MaintenanceWindow{weekly("Sunday", 2, 15, "Sunday", 2, 45)}, "2026-03-29 01:20:00", true},
		// Berlin, 2026-10-25: 03:00 CEST (01:00 UTC) is followed by 02:00 CET.
		{"overlap, first time", "Europe/Berlin", []osapi.MaintenanceWindow{daily(2, 15, 2, 45)}, "2026-10-25 00:20:00", true},
		{"overlap, between", "Europe/Berlin", []osapi.MaintenanceWindow{daily(2, 15, 2, 45)}, "2026-10-25 01:00:00", false},
		{"overlap, second time", "Europe/Berlin", []osapi.MaintenanceWindow{daily(2, 15, 2, 45)}, "2026-10-25 01:20:00", true},
		// Samoa had no 30 December 2011.
		{"a day left out", "Pacific/Apia", []osapi.MaintenanceWindow{weekly("Friday", 2, 0, "Friday", 3, 0)}, "2011-12-30 12:30:00", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := set(t, c.windows...).Open(utc(t, c.at), zone(t, c.zone)); got != c.want {
				t.Errorf("at %s: open %v, want %v", c.at, got, c.want)
			}
		})
	}
}

// A skipped update names the time at which the node will look again, so it has to be so.
func TestNext_IsTheFirstOpenMinute(t *testing.T) {
	for _, c := range []struct{ name, zone, at, want, words string }{
		{"open now", "UTC", "2026-11-22 03:00:30", "2026-11-22 03:00:30", "next Sun 03:00 UTC"},
		{"today", "Europe/Berlin", "2026-11-22 00:10:30", "2026-11-22 01:00:00", "next Sun 02:00 CET"},
		{"next week", "Europe/Berlin", "2026-11-22 12:00:00", "2026-11-29 01:00:00", "next Sun 29 Nov 02:00 CET"},
		{"over the gap", "Europe/Berlin", "2026-03-28 12:00:00", "2026-03-29 01:00:00", "next Sun 03:00 CEST"},
		{"before the overlap", "Europe/Berlin", "2026-10-24 12:00:00", "2026-10-25 00:00:00", "next Sun 02:00 CEST"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, loc := set(t, weekly("Sunday", 2, 0, "Sunday", 4, 0)), zone(t, c.zone)
			got, ok := s.Next(utc(t, c.at), loc)
			if !ok || !got.Equal(utc(t, c.want)) {
				t.Errorf("got %v, %v, want %s", got.UTC(), ok, c.want)
			}
			if diff := cmp.Diff(c.words, s.Words(utc(t, c.at), loc)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Next and Open say the same, minute by minute, over every change of clocks of a year.
func TestNext_AgreesWithAskingEveryMinute(t *testing.T) {
	for _, c := range []struct {
		zone string
		at   []string
	}{
		{"Europe/Berlin", []string{"2026-03-27 00:00:00", "2026-10-23 00:00:00"}},
		{"America/New_York", []string{"2026-03-06 00:00:00", "2026-10-30 00:00:00"}},
		{"Australia/Lord_Howe", []string{"2026-04-02 00:00:00", "2026-10-02 00:00:00"}}, // half an hour
		{"Pacific/Apia", []string{"2011-12-28 00:00:00"}},                               // a whole day
		{"Asia/Kathmandu", []string{"2026-11-20 00:00:00"}},                             // +05:45
	} {
		for _, windows := range [][]osapi.MaintenanceWindow{
			{daily(2, 15, 2, 45)}, {daily(1, 30, 2, 10)}, {daily(23, 30, 0, 29)}, {daily(2, 5, 2, 20), weekly("Friday", 1, 0, "Friday", 1, 5)},
			{weekly("Sunday", 2, 10, "Sunday", 2, 20)}, {weekly("Saturday", 23, 50, "Sunday", 0, 10)},
		} {
			s, loc := set(t, windows...), zone(t, c.zone)
			for _, from := range c.at {
				agree(t, s, utc(t, from), loc)
			}
		}
	}
}

// agree walks backward over four days and compares Next with the open minute met last.
func agree(t *testing.T, s window.Set, from time.Time, loc *time.Location) {
	t.Helper()
	var next time.Time
	for at := from.Add(12 * 24 * time.Hour); !at.Before(from); at = at.Add(-time.Minute) {
		if s.Open(at, loc) {
			next = at
		}
		if at.Sub(from) > 4*24*time.Hour || next.IsZero() || at.Minute()%7 != 0 {
			continue
		}
		if got, ok := s.Next(at, loc); !ok || !got.Equal(next) {
			t.Fatalf("%s, at %v: got %v, want %v", loc, at, got.UTC(), next)
		}
	}
}

// What can never be open would silently keep a node from its updates.
func TestParse_WindowThatCanNeverBe_IsRefused(t *testing.T) {
	for name, w := range map[string]osapi.MaintenanceWindow{
		"hour":           daily(24, 0, 3, 0),
		"minute":         daily(1, 60, 3, 0),
		"negative":       daily(-1, 0, 3, 0),
		"one day":        weekly("Sunday", 1, 0, "", 2, 0),
		"unknown day":    weekly("Sonntag", 1, 0, "Sonntag", 2, 0),
		"ends too early": weekly("Sunday", 3, 0, "Sunday", 2, 0),
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := window.Parse([]osapi.MaintenanceWindow{daily(1, 0, 2, 0), w}); err == nil {
				t.Errorf("accepted as %v", got)
			}
		})
	}
}

func TestFrequency_Texts(t *testing.T) {
	type result struct {
		Every time.Duration
		Never bool
		Bad   bool
	}
	got := map[string]result{}
	for _, text := range []string{"never", "", "6h", "90m", "0", "1s", "-1h", "soon", "1e99h"} {
		every, never, err := window.Frequency(text)
		got[text] = result{every, never, err != nil}
	}
	want := map[string]result{
		"never": {Never: true}, "": {Every: 6 * time.Hour}, "6h": {Every: 6 * time.Hour}, "90m": {Every: 90 * time.Minute},
		"0": {Every: time.Minute}, "1s": {Every: time.Minute}, "-1h": {Bad: true}, "soon": {Bad: true}, "1e99h": {Bad: true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Ten thousand nodes that a window opens for must not ask in the same minute, and a node
// must not miss a window that is shorter than its frequency.
func TestDue_AtItsTimeOrSoonAfterAWindowOpens(t *testing.T) {
	const h, m = time.Hour, time.Minute
	for _, c := range []struct {
		name          string
		pace          window.Pace
		since         time.Duration
		wasOpen, open bool
		openFor       time.Duration
		want          bool
	}{
		{"too early", window.Pace{Every: 6 * h}, 6*h - m, true, true, 9 * h, false},
		{"on time", window.Pace{Every: 6 * h}, 6 * h, true, true, 9 * h, true},
		{"spread", window.Pace{Every: 6 * h, Spread: 0.5}, 6*h + 14*m, true, true, 9 * h, false},
		{"after its spread", window.Pace{Every: 6 * h, Spread: 0.5}, 6*h + 15*m, true, true, 9 * h, true},
		{"spread is bounded", window.Pace{Every: 100 * h, Spread: 0.99}, 100*h + 30*m, true, true, 200 * h, true},
		{"just opened", window.Pace{Every: 6 * h, Shortest: h}, 2 * h, false, true, 59 * time.Second, false},
		{"opened a minute ago", window.Pace{Every: 6 * h, Shortest: h}, 2 * h, false, true, m, true},
		{"opened, spread", window.Pace{Every: 6 * h, Shortest: h, Spread: 0.9}, 2 * h, false, true, 9 * m, false},
		{"opened, after its spread", window.Pace{Every: 6 * h, Shortest: h, Spread: 0.9}, 2 * h, false, true, 10 * m, true},
		{"a very short window", window.Pace{Every: 6 * h, Shortest: m, Spread: 0.9}, 2 * h, false, true, 0, true},
		{"looked in this window already", window.Pace{Every: 6 * h, Shortest: h}, 2 * h, true, true, 2 * h, false},
		{"closed, but time to say so", window.Pace{Every: 6 * h, Shortest: h}, 6 * h, false, false, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.pace.Due(c.since, c.wasOpen, c.open, c.openFor); got != c.want {
				t.Errorf("due %v, want %v", got, c.want)
			}
		})
	}
}
