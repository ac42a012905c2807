package fetch

import (
	"bufio"
	"context"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// uneven is the chi-square statistic of values against the uniform distribution from 0 to
// span, in 64 classes. With 63 degrees of freedom it is above 103.4 once in a thousand.
func uneven(t *testing.T, values []time.Duration, span time.Duration) float64 {
	t.Helper()
	var classes [64]float64
	for _, v := range values {
		if v < 0 || v >= span {
			t.Fatalf("%s is not from 0 to %s", v, span)
		}
		classes[int(64*v/span)]++
	}
	expected, sum := float64(len(values))/64, 0.0
	for _, n := range classes {
		sum += (n - expected) * (n - expected) / expected
	}
	return sum
}

// Fault 44: 10,000 hosts that lose their server at one moment spread evenly over the wait,
// at each try, and no second has more than its share.
func TestCall_TenThousandHostsReconnect_SpreadIsUniform(t *testing.T) {
	tries := make([][]time.Duration, 10_000)
	for i := range tries {
		tries[i] = reconnect(t, uint64(i))
	}
	span := time.Second
	for n := 1; n < 8; n++ {
		var waits []time.Duration
		perSecond := map[time.Duration]int{}
		for _, host := range tries {
			waits = append(waits, host[n]-host[n-1])
			perSecond[host[n].Truncate(time.Second)]++
		}
		if x := uneven(t, waits, span); x > 103.4 {
			t.Errorf("the waits before try %d are not uniform from 0 to %s: chi-square %.1f", n+1, span, x)
		}
		busiest := 0
		for _, hosts := range perSecond {
			busiest = max(busiest, hosts)
		}
		// The sum of several waits has a peak of its own: it is lower than that of the last
		// wait alone would be.
		if most := int(10_000 * time.Second / span * 13 / 10); busiest > most {
			t.Errorf("try %d: %d hosts in one second, at most %d are expected", n+1, busiest, most)
		}
		span = min(2*span, time.Minute)
	}
}

// reconnect is one host whose server is away; it gives the times of its tries. Its clock
// moves by what is waited.
func reconnect(t *testing.T, seed uint64) []time.Duration {
	t.Helper()
	start := at(1000)
	now := start
	clock := Clock{Now: func() time.Time { return now }, After: func(d time.Duration) <-chan time.Time {
		now = now.Add(d)
		done := make(chan time.Time, 1)
		done <- now
		return done
	}}
	d, err := New(Options{Mirrors: []string{"http://a"}, Clock: clock, Rand: rand.New(rand.NewPCG(seed, 1)).Int64N})
	if err != nil {
		t.Fatal(err)
	}
	var tries []time.Duration
	c := d.newCall("fetching", time.Hour)
	for {
		m, err := c.next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		tries = append(tries, now.Sub(start))
		if c.failed(t.Context(), m, ErrConnect) != nil {
			return tries
		}
	}
}

// A server that sends all away for the same time does not get them all back at its end.
func TestDownloader_ThousandHostsSentAwayTogether_ComeBackEvenly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		direct := func(*http.Request) (*url.URL, error) { return nil, nil }
		busy := func(context.Context) (net.Conn, error) {
			near, far := net.Pipe()
			go func() {
				defer far.Close()
				if _, err := http.ReadRequest(bufio.NewReader(far)); err != nil {
					t.Error(err)
					return
				}
				_, _ = far.Write([]byte("HTTP/1.1 503 Busy\r\nRetry-After: 120\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"))
			}()
			return near, nil
		}
		start := time.Now()
		seconds := make([]time.Duration, 1000)
		var wait sync.WaitGroup
		for i := range seconds {
			d, err := New(Options{
				Mirrors: []string{"http://a"}, Proxy: direct, Limits: Limits{SmallTotal: time.Hour, Attempts: 2}, Rand: rand.New(rand.NewPCG(uint64(i), 1)).Int64N,
				Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
					seconds[i] = time.Since(start)
					return busy(ctx)
				}})
			if err != nil {
				t.Fatal(err)
			}
			wait.Go(func() {
				if _, err := d.Small(t.Context(), "timestamp.json", 1000); err == nil {
					t.Error("a server that is busy has answered")
				}
				d.Close()
			})
		}
		wait.Wait()
		var late []time.Duration
		for _, second := range seconds {
			late = append(late, second-120*time.Second)
		}
		if x := uneven(t, late, time.Minute); x > 103.4 {
			t.Errorf("the second tries are not uniform from 120 s to 180 s: chi-square %.1f", x)
		}
		if slices.Max(late) < 59*time.Second {
			t.Errorf("the last comes back after %s", slices.Max(late))
		}
	})
}
