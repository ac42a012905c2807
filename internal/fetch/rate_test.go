package fetch_test

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/fetch"
)

// near is for times that depend on how bytes fall into reads.
func near(t *testing.T, what string, got, want, off time.Duration) {
	t.Helper()
	if got < want-off || got > want+off {
		t.Errorf("%s took %s, want %s more or less %s", what, got, want, off)
	}
}

// An owner's limit is kept, by all downloads together.
func TestBandwidthLimit_TwoStreams_ShareIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		base, _ := w.serve("a", good(theFile))
		d := w.downloader(fetch.Options{Mirrors: []string{base}, BandwidthLimit: func() int64 { return 100_000 }})
		start := time.Now()
		ended := make(chan error, 2)
		for range 2 {
			go func() {
				r, err := d.Stream(t.Context(), blobOf(theFile))
				if err == nil {
					_, err = io.Copy(io.Discard, r)
					err = errors.Join(err, r.Close())
				}
				ended <- err
			}()
		}
		if err := errors.Join(<-ended, <-ended); err != nil {
			t.Error(err)
		}
		near(t, "600,000 bytes at 100,000 a second", time.Since(start), 6*time.Second, 500*time.Millisecond)
	})
}

// A limit that is changed while a download runs is in force at once, in both directions.
// One below the rate at which a server counts as too slow blames no server.
func TestBandwidthLimit_Changed_TakesEffectAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		base, _ := w.serve("a", good(theFile))
		var limit atomic.Int64
		d := w.downloader(fetch.Options{Mirrors: []string{base}, BandwidthLimit: limit.Load})
		r, err := d.Stream(t.Context(), blobOf(theFile))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		read := func(n int64) time.Duration {
			t.Helper()
			start := time.Now()
			if _, err := io.CopyN(io.Discard, r, n); err != nil {
				t.Fatal(err)
			}
			return time.Since(start)
		}
		near(t, "without limit", read(100_000), 0, 0)
		limit.Store(100)
		near(t, "with 100 bytes a second", read(40_000), 400*time.Second, 170*time.Second)
		faster := time.AfterFunc(time.Second, func() { limit.Store(0) })
		defer faster.Stop()
		near(t, "without limit again", read(100_000), time.Second, 110*time.Millisecond)
		if diff := cmp.Diff([]fetch.MirrorState{{URL: base}}, d.State()); diff != "" {
			t.Error(diff)
		}
	})
}

// steady sends a tenth of a second's worth of bytes each tenth of a second.
func steady(rate int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "300000")
		for at := 0; at < len(theFile); at += rate / 10 {
			<-time.After(100 * time.Millisecond)
			_, _ = w.Write(theFile[at:min(at+rate/10, len(theFile))])
			_ = http.NewResponseController(w).Flush()
		}
	})
}

// The bar on the screen: bytes, rate and what is left, not more than four times a second.
func TestFile_Progress_SaysRateAndRemainingTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		base, _ := w.serve("a", steady(100_000))
		dir, _ := onDisk(t)
		var told []fetch.Progress
		d := w.downloader(fetch.Options{Mirrors: []string{base}})
		if err := d.File(t.Context(), blobOf(theFile), dir, "usr", func(p fetch.Progress) { told = append(told, p) }); err != nil {
			t.Fatal(err)
		}
		s := time.Second
		if len(told) < 10 || len(told) > 13 {
			t.Fatalf("told %d times in 3 s", len(told))
		}
		three := []fetch.Progress{told[0], told[len(told)/2], told[len(told)-1]}
		want := []fetch.Progress{
			{Done: 3976, Total: 300_000, Fetched: 3976, Rate: 39_760, Remaining: 8 * s},
			{Done: 160_000, Total: 300_000, Fetched: 160_000, Rate: 100_000, Remaining: 2 * s},
			{Done: 300_000, Total: 300_000, Fetched: 300_000, Rate: 100_000},
		}
		if diff := cmp.Diff(want, three); diff != "" {
			t.Error(diff)
		}
	})
}

// Fault 19: a full disk is seen before anybody is asked, with numbers.
func TestFile_NotEnoughSpace_SaysHowMuchAndFetchesNothing(t *testing.T) {
	w := newWorld(t)
	d := w.downloader(fetch.Options{Mirrors: []string{"http://a"}, Limits: fetch.Limits{Reserve: 1000}})
	disk := newDisk()
	disk.space = 300_999
	err := d.File(t.Context(), blobOf(theFile), disk, "usr", nil)
	checkErr(t, err, fetch.ErrNoSpace)
	var missing *fetch.NoSpaceError
	if !errors.As(err, &missing) {
		t.Fatal(err)
	}
	if diff := cmp.Diff(fetch.NoSpaceError{Need: 301_000, Free: 300_999}, *missing); diff != "" || w.dials != 0 || len(disk.names) != 0 {
		t.Errorf("%d connections, %d files, %s", w.dials, len(disk.names), diff)
	}
}

// Fault 19: a disk that another program fills in the meantime. What was noted is kept, and
// the call after the owner has made space goes on.
func TestFile_DiskRunsFull_SaysHowMuchAndGoesOnAfterwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		base, _ := w.serve("a", steady(100_000))
		d := w.downloader(fetch.Options{Mirrors: []string{base}, Limits: fetch.Limits{Reserve: 1000, Checkpoint: 50_000}})
		disk := newDisk()
		disk.after = 10_000 // enough for a note
		err := d.File(t.Context(), blobOf(theFile), disk, "usr", func(p fetch.Progress) {
			if p.Done >= 100_000 || disk.space < 1<<40 {
				disk.space = min(disk.space, 40_000)
			}
		})
		checkErr(t, err, fetch.ErrNoSpace)
		checkErr(t, err, syscall.ENOSPC)
		disk.space = 1 << 40
		have, asked := fetch.Have(disk, "usr", blobOf(theFile))
		if asked != nil || have < 50_000 {
			t.Errorf("%d bytes are left, %v", have, asked)
		}
		if err := d.File(t.Context(), blobOf(theFile), disk, "usr", nil); err != nil || disk.text("usr") != string(theFile) {
			t.Errorf("afterwards: %v", err)
		}
	})
}
