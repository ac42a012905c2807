package daemon

import (
	"context"
	"net"
	"sync"
	"time"
)

// drainListener lets a server end without losing a connection that has just come in. The
// socket outlives the daemon, so whatever is not accepted waits for the next one; but what
// has been accepted, and is not yet among the connections that http.Server.Shutdown waits
// for, would be closed unheard. Drain stops accepting and returns when there is none of these.
type drainListener struct {
	deadlineListener
	stopping, parked, closed chan struct{}
	stop, park, end          sync.Once
}

// deadlineListener is a listener on a socket of the kernel.
type deadlineListener interface {
	net.Listener
	SetDeadline(time.Time) error
}

// drainable gives a listener that can be drained; one that is no socket is given back as it is.
func drainable(l net.Listener) net.Listener {
	socket, ok := l.(deadlineListener)
	if !ok {
		return l
	}
	return &drainListener{deadlineListener: socket, stopping: make(chan struct{}), parked: make(chan struct{}), closed: make(chan struct{})}
}

// Accept is part of net.Listener. After Drain it waits until the listener is closed.
func (l *drainListener) Accept() (net.Conn, error) {
	conn, err := l.deadlineListener.Accept()
	if err == nil {
		return conn, nil
	}
	select {
	case <-l.stopping: // the server has all that was accepted: it would not ask again otherwise
		l.park.Do(func() { close(l.parked) })
		<-l.closed
		return nil, net.ErrClosed
	default:
		return nil, err
	}
}

// Close is part of net.Listener.
func (l *drainListener) Close() error {
	l.end.Do(func() { close(l.closed) })
	return l.deadlineListener.Close()
}

// drain stops accepting and waits until the server has what was accepted.
func (l *drainListener) drain(ctx context.Context) error {
	l.stop.Do(func() { close(l.stopping) })
	if err := l.SetDeadline(time.Unix(1, 0)); err != nil {
		return err
	}
	select {
	case <-l.parked:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
