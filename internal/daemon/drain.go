package daemon

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// unheardTimeout is how long the end of the daemon waits for the first request of a
// connection: whoever opens one sends it at once.
const unheardTimeout = time.Second

// drainListener lets a server end without losing a connection that has just come in. The
// socket outlives the daemon, so whatever is not accepted waits for the next one; but what
// has been accepted is lost in two ways: http.Server.Shutdown does not wait for a connection
// that the server does not know yet, and from its beginning on, the server drops each request
// that it has read and not yet handled. A client repeats a request that is lost on a
// connection which has carried others, and never the first one of a connection. Drain stops
// accepting, and returns when each connection has had its first request handled.
type drainListener struct {
	deadlineListener
	stopping, parked, closed chan struct{}
	stop, park, end          sync.Once

	mu sync.Mutex
	// unheard are the connections of which no request has reached the handler.
	unheard map[net.Conn]struct{}
	// heard is closed when unheard is empty; nil as long as nobody waits for that.
	heard chan struct{}
}

// deadlineListener is a listener on a socket of the kernel.
type deadlineListener interface {
	net.Listener
	SetDeadline(time.Time) error
}

// drainable gives a listener that can be drained, and makes the server tell it which requests
// it handles. A listener that is no socket is given back as it is.
func drainable(l net.Listener, server *http.Server) net.Listener {
	socket, ok := l.(deadlineListener)
	if !ok {
		return l
	}
	drained := &drainListener{
		deadlineListener: socket, unheard: map[net.Conn]struct{}{},
		stopping: make(chan struct{}), parked: make(chan struct{}), closed: make(chan struct{}),
	}
	type connection struct{} // the key of a request's connection in its context
	server.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		drained.mu.Lock()
		defer drained.mu.Unlock()
		drained.unheard[conn] = struct{}{}
		return context.WithValue(ctx, connection{}, conn)
	}
	server.ConnState = func(conn net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			drained.hear(conn)
		}
	}
	handler := server.Handler
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if conn, ok := r.Context().Value(connection{}).(net.Conn); ok {
			drained.hear(conn)
		}
		handler.ServeHTTP(w, r)
	})
	return drained
}

// hear notes that a connection is no longer unheard.
func (l *drainListener) hear(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.unheard, conn)
	if len(l.unheard) == 0 && l.heard != nil {
		close(l.heard)
		l.heard = nil
	}
}

// allHeard gives a channel that is closed when no connection is unheard.
func (l *drainListener) allHeard() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	done := make(chan struct{})
	if len(l.unheard) == 0 {
		close(done)
	} else {
		l.heard = done
	}
	return done
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

// drain stops accepting, and waits until what was accepted is handled; for a connection that
// says nothing, at most unheardTimeout.
func (l *drainListener) drain(ctx context.Context) error {
	l.stop.Do(func() { close(l.stopping) })
	if err := l.SetDeadline(time.Unix(1, 0)); err != nil {
		return err
	}
	select {
	case <-l.parked:
	case <-ctx.Done():
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, unheardTimeout)
	defer cancel()
	select {
	case <-l.allHeard():
	case <-ctx.Done(): // whoever has said nothing until now loses nothing
	}
	return nil
}
