package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

const (
	// Address is where the node's programs find the proxy.
	Address = "127.0.0.1:3128"
	// Credential is the name of the configuration among the credentials of the service.
	Credential = "config.json"
)

// Command runs the service: it reads the configuration out of the folder of
// credentials that systemd made for it, listens on Address, and serves until the
// context ends.
func Command(ctx context.Context, credentials string, log *slog.Logger) error {
	if credentials == "" {
		return errors.New("CREDENTIALS_DIRECTORY is not set: start holdfast-proxy.service, which hands the configuration in")
	}
	config, err := readConfig(filepath.Join(credentials, Credential))
	if err != nil {
		return err
	}
	p, err := New(config, Options{Log: log})
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", Address)
	if err != nil {
		return fmt.Errorf("listening for the node's programs: %w", err)
	}
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		return errors.Join(fmt.Errorf("telling systemd that the proxy is ready: %w", err), listener.Close())
	}
	return p.Serve(ctx, listener)
}

func readConfig(path string) (Config, error) {
	file, err := os.Open(path)
	if err != nil {
		return Config{}, fmt.Errorf("reading the proxy configuration: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(file, MaxConfig+1))
	if err := errors.Join(err, file.Close()); err != nil {
		return Config{}, fmt.Errorf("reading the proxy configuration: %w", err)
	}
	return Parse(data)
}

// ServeHTTP forwards one request.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.handler.ServeHTTP(w, r) }

// Serve takes connections of the listener, which it closes, until the context ends.
// Then tunnels are cut and requests get a moment to end.
func (p *Proxy) Serve(ctx context.Context, listener net.Listener) error {
	limited := &limitedListener{Listener: listener, free: make(chan struct{}, p.options.MaxConnections), open: map[net.Conn]bool{}, done: make(chan struct{})}
	server := &http.Server{
		Handler: p, ReadHeaderTimeout: p.options.DialTimeout, IdleTimeout: 90 * time.Second, MaxHeaderBytes: p.options.MaxHeader,
		ErrorLog: slog.NewLogLogger(p.options.Log.Handler(), slog.LevelWarn),
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(limited) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serving the node's programs: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	err := server.Shutdown(grace)
	if errors.Is(err, context.DeadlineExceeded) {
		err = server.Close()
	}
	// Tunnels are no longer the server's.
	limited.closeAll()
	p.direct.CloseIdleConnections()
	for _, u := range p.servers {
		u.transport.CloseIdleConnections()
	}
	return err
}

// limitedListener holds a new connection back while too many are open. It knows the
// open ones, tunnels too, which the HTTP server gave away.
type limitedListener struct {
	net.Listener
	free chan struct{}
	done chan struct{}
	once sync.Once
	mu   sync.Mutex
	open map[net.Conn]bool
}

func (l *limitedListener) Accept() (net.Conn, error) {
	select {
	case l.free <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.free
		return nil, err
	}
	l.mu.Lock()
	l.open[conn] = true
	l.mu.Unlock()
	return &limitedConn{Conn: conn, listener: l}, nil
}

func (l *limitedListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}

func (l *limitedListener) closeAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for conn := range l.open {
		// It ends anyway; there is nobody to tell.
		_ = conn.Close()
	}
}

type limitedConn struct {
	net.Conn
	listener *limitedListener
	once     sync.Once
}

func (c *limitedConn) Close() error {
	c.once.Do(func() {
		c.listener.mu.Lock()
		delete(c.listener.open, c.Conn)
		c.listener.mu.Unlock()
		<-c.listener.free
	})
	return c.Conn.Close()
}

// CloseWrite and CloseRead let a tunnel end one direction at a time.
func (c *limitedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

func (c *limitedConn) CloseRead() error {
	if half, ok := c.Conn.(interface{ CloseRead() error }); ok {
		return half.CloseRead()
	}
	return nil
}
