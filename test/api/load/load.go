// Package load asks a node for much, and measures what that does to it.
//
// Latency is an open loop: requests begin at fixed times, whether or not those before have
// been answered, and each is measured from the time at which it should have begun. A node
// that stands still for a moment is therefore seen in all the requests of that moment.
// The generator keeps its times with nanosleep on a thread of its own, since Go's timers
// are a millisecond coarse on an idle thread.
//
// What can fail: the generator's own computer may be too slow for the rate; then the
// latencies say so too, because a request that begins late is late.
package load

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// connections is how many connections there are at most.
	connections = 256
	// maxAnswer is the longest answer that is read, in bytes.
	maxAnswer = 16 << 20
)

// Client is a client of a node's socket.
func Client(socket string) *http.Client {
	dialer := net.Dialer{}
	return &http.Client{Transport: &http.Transport{
		MaxIdleConns: connections, MaxIdleConnsPerHost: connections, MaxConnsPerHost: connections, DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", socket)
		},
	}}
}

// Latency sends GETs for a path to a socket, rate in each second, for a time or until the
// context ends. It gives the middle and the 99th percentile of the time from when a
// request should have begun to the end of its answer, and how many were not answered
// with 200. Without any request all three are 0.
func Latency(ctx context.Context, socket, path string, rate int, duration time.Duration) (p50, p99 time.Duration, failed int) {
	client := Client(socket)
	defer client.CloseIdleConnections()
	total := int(duration.Seconds() * float64(rate))
	if rate < 1 || total < 1 {
		return 0, 0, 0
	}
	took, failures := make([]time.Duration, total), make([]bool, total)
	var running sync.WaitGroup
	begun := 0
	pace(ctx, total, time.Second/time.Duration(rate), func(i int, at time.Time) {
		begun++
		running.Go(func() {
			failures[i] = get(ctx, client, path) != nil
			took[i] = time.Since(at)
		})
	})
	running.Wait()
	took = took[:begun]
	for _, f := range failures[:begun] {
		if f {
			failed++
		}
	}
	if begun == 0 {
		return 0, 0, 0
	}
	slices.Sort(took)
	return took[begun/2], took[min(begun*99/100, begun-1)], failed
}

// pace calls do at fixed times on a thread of its own.
func pace(ctx context.Context, total int, every time.Duration, do func(i int, at time.Time)) {
	var done sync.WaitGroup
	done.Go(func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		began := time.Now()
		for i := 0; i < total && ctx.Err() == nil; i++ {
			at := began.Add(time.Duration(i) * every)
			for rest := time.Until(at); rest > 0; rest = time.Until(at) {
				wait := syscall.NsecToTimespec(rest.Nanoseconds())
				_ = syscall.Nanosleep(&wait, nil) // a signal ends it early: the loop looks again
			}
			do(i, at)
		}
	})
	done.Wait()
}

func get(ctx context.Context, client *http.Client, path string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://node"+path, nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, io.LimitReader(answer.Body, maxAnswer))
	if err = errors.Join(err, answer.Body.Close()); err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", path, answer.Status)
	}
	return nil
}

// Requests sends n GETs for a path over a few connections, as fast as they are answered.
func Requests(ctx context.Context, socket, path string, n int) error {
	const workers = 4
	errs := make(chan error, workers)
	for i := range workers {
		share := n / workers
		if i < n%workers {
			share++
		}
		go func() { errs <- stream(ctx, socket, path, share) }()
	}
	var all []error
	for range workers {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}

// stream sends requests one after the other on one connection.
func stream(ctx context.Context, socket, path string, n int) error {
	dialer := net.Dialer{}
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })()
	reader, text := bufio.NewReader(conn), []byte("GET "+path+" HTTP/1.1\r\nHost: node\r\n\r\n")
	for range n {
		if _, err := conn.Write(text); err != nil {
			return err
		}
		answer, err := http.ReadResponse(reader, nil)
		if err != nil {
			return err
		}
		if _, err = io.Copy(io.Discard, io.LimitReader(answer.Body, maxAnswer)); err != nil {
			return err
		}
		if err := answer.Body.Close(); err != nil {
			return err
		}
		if answer.StatusCode != http.StatusOK {
			return fmt.Errorf("GET %s: %s", path, answer.Status)
		}
	}
	return nil
}

// RSS is the memory that a process has in RAM, in bytes.
func RSS(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		rest, found := strings.CutPrefix(line, "VmRSS:")
		if !found {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
		return kib << 10, err
	}
	return 0, fmt.Errorf("process %d has no VmRSS", pid)
}
