package listener

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// recordHandshake is the first byte of TLS.
const recordHandshake = 0x16

// upgrade is the whole answer to a request without TLS.
const upgrade = "HTTP/1.1 426 Upgrade Required\r\nUpgrade: TLS/1.3, HTTP/1.1\r\nConnection: Upgrade, close\r\n" +
	"Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\nContent-Length: 17\r\n\r\nUpgrade Required\n"

// front is a net.Listener that gives the connections which begin with TLS, answers the
// others itself, and counts them. Looking at a connection does not hold up the next.
type front struct {
	net.Listener
	timeout  time.Duration
	ready    chan net.Conn
	stop     chan struct{}
	stopOnce sync.Once
	closeErr error
	workers  sync.WaitGroup

	mu     sync.Mutex
	open   map[net.Conn]bool // those that were not handed out yet
	each   map[netip.Addr]int
	total  int
	most   int
	failed error
}

func newFront(base net.Listener, options Options) *front {
	f := &front{Listener: base, timeout: options.Timeout, most: options.Connections,
		ready: make(chan net.Conn), stop: make(chan struct{}), open: map[net.Conn]bool{}, each: map[netip.Addr]int{}}
	f.workers.Add(1)
	go f.loop()
	return f
}

// Accept gives the next connection with TLS.
func (f *front) Accept() (net.Conn, error) {
	select {
	case conn := <-f.ready:
		return conn, nil
	case <-f.stop:
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.failed != nil {
			return nil, f.failed
		}
		return nil, net.ErrClosed
	}
}

// Close ends the listening.
func (f *front) Close() error {
	f.stopOnce.Do(func() {
		close(f.stop)
		f.closeErr = f.Listener.Close()
	})
	return f.closeErr
}

// end closes what was not handed out and waits for the rest.
func (f *front) end() error {
	err := f.Close()
	f.mu.Lock()
	held := slices.Collect(maps.Keys(f.open))
	f.mu.Unlock()
	for _, conn := range held {
		_ = conn.Close() // its worker sees it and ends
	}
	f.workers.Wait()
	return err
}

func (f *front) loop() {
	defer f.workers.Done()
	for {
		conn, err := f.Listener.Accept()
		if err != nil {
			var temporary interface{ Temporary() bool } // too many open files and the like
			if errors.As(err, &temporary) && temporary.Temporary() && f.pause() {
				continue
			}
			f.mu.Lock()
			f.failed = err
			f.mu.Unlock()
			_ = f.Close() // the error that counts is the first
			return
		}
		counted, ok := f.admit(conn)
		if !ok {
			_ = conn.Close() // one too many
			continue
		}
		f.workers.Add(1)
		go f.look(counted)
	}
}

// pause waits a moment; false when the front is closed.
func (f *front) pause() bool {
	timer := time.NewTimer(50 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-f.stop:
		return false
	}
}

// admit counts a connection; false when there are too many.
func (f *front) admit(conn net.Conn) (*counted, bool) {
	var from netip.Addr
	if address, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		from = address.AddrPort().Addr().Unmap()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.stop:
		return nil, false
	default:
	}
	if f.total >= f.most || f.each[from] >= maxPerAddress {
		return nil, false
	}
	f.total++
	f.each[from]++
	c := &counted{Conn: conn, reader: bufio.NewReaderSize(conn, 4096), front: f, from: from}
	f.open[c] = true
	return c, true
}

// leave takes a connection out of the count.
func (f *front) leave(c *counted) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.open, c)
	f.total--
	if f.each[c.from]--; f.each[c.from] == 0 {
		delete(f.each, c.from)
	}
}

// look reads the first byte and hands the connection out, or answers it.
func (f *front) look(c *counted) {
	defer f.workers.Done()
	if err := c.SetDeadline(time.Now().Add(f.timeout)); err != nil {
		_ = c.Close() // nobody to tell
		return
	}
	first, err := c.reader.Peek(1)
	if err != nil || first[0] != recordHandshake {
		if err == nil {
			c.refuse()
		}
		_ = c.Close()
		return
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		_ = c.Close()
		return
	}
	f.mu.Lock()
	delete(f.open, c)
	f.mu.Unlock()
	select {
	case f.ready <- c:
	case <-f.stop:
		_ = c.Close()
	}
}

// counted is a connection whose first byte was looked at.
type counted struct {
	net.Conn
	reader *bufio.Reader
	front  *front
	from   netip.Addr
	once   sync.Once
}

func (c *counted) Read(p []byte) (int, error) { return c.reader.Read(p) }

func (c *counted) Close() error {
	c.once.Do(func() { c.front.leave(c) })
	return c.Conn.Close()
}

// refuse answers a request without TLS. Its header is read first, so that the client
// reads the answer and not a broken connection.
func (c *counted) refuse() {
	header := make([]byte, 0, maxHeader)
	for len(header) < maxHeader && !bytes.Contains(header, []byte("\r\n\r\n")) {
		n, err := c.reader.Read(header[len(header):min(len(header)+4096, maxHeader)])
		header = header[:len(header)+n]
		if err != nil {
			return
		}
	}
	if _, err := io.WriteString(c.Conn, upgrade); err != nil {
		return
	}
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_, _ = io.CopyN(io.Discard, c.reader, maxHeader) // until the client closes, or the deadline
	}
}
