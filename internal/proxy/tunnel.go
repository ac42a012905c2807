package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// dialTunnel reaches a destination for a CONNECT, as its rule says.
func (p *Proxy) dialTunnel(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.options.DialTimeout)
	defer cancel()
	to := p.servers[p.config.find(hostOnly(address)).target]
	if to == nil {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return p.idle(conn, nil)
	}
	conn, rest, err := to.connect(ctx, network, address, p.options.MaxHeader)
	if err != nil {
		return nil, fmt.Errorf("reaching %s through the proxy server %s: %w", address, to.name, err)
	}
	return p.idle(conn, rest)
}

// connect asks the server for a tunnel. What the destination said already is in the
// reader.
func (u *upstream) connect(ctx context.Context, network, address string, maxHeader int) (net.Conn, *bufio.Reader, error) {
	header, err := u.authorizer.Authorization(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("authorizing: %w", err)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, network, u.address)
	if err != nil {
		return nil, nil, err
	}
	// A context that ends cuts what is being read or written.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	through, rest, err := u.greet(ctx, conn, address, header, maxHeader)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, nil, errors.Join(err, ignoreClosed(conn.Close()))
	}
	return through, rest, nil
}

// greet makes the TLS connection where one is configured, and sends the CONNECT.
func (u *upstream) greet(ctx context.Context, conn net.Conn, address, header string, maxHeader int) (net.Conn, *bufio.Reader, error) {
	if u.tls {
		secure := tls.Client(conn, u.tlsConfig)
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, nil, fmt.Errorf("making a TLS connection to it: %w", err)
		}
		conn = secure
	}
	request := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: address}, Host: address, Header: http.Header{}}
	if header != "" {
		request.Header.Set("Proxy-Authorization", header)
	}
	if err := request.Write(conn); err != nil {
		return nil, nil, err
	}
	rest := bufio.NewReader(io.LimitReader(conn, int64(maxHeader)))
	response, err := http.ReadResponse(rest, request)
	if err != nil {
		return nil, nil, fmt.Errorf("reading its answer of at most %d bytes: %w", maxHeader, err)
	}
	if response.StatusCode == http.StatusProxyAuthRequired {
		return nil, nil, fmt.Errorf("it does not take the credentials for it (%s); look at its auth, username and password", response.Status)
	}
	if response.StatusCode/100 != 2 {
		return nil, nil, fmt.Errorf("it answered %s", response.Status)
	}
	return conn, rest, nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// idleConn is the far end of a tunnel. It ends when nothing passes in either
// direction for a time; everything that passes goes through it.
type idleConn struct {
	net.Conn
	// first is what was read already, nil when there is nothing of it left.
	first   io.Reader
	timeout time.Duration
}

func (p *Proxy) idle(conn net.Conn, rest *bufio.Reader) (net.Conn, error) {
	c := &idleConn{Conn: conn, timeout: p.options.IdleTimeout}
	if rest != nil && rest.Buffered() > 0 {
		c.first = io.LimitReader(rest, int64(rest.Buffered()))
	}
	if err := c.touch(); err != nil {
		return nil, errors.Join(err, ignoreClosed(conn.Close()))
	}
	return c, nil
}

func (c *idleConn) touch() error { return c.SetDeadline(time.Now().Add(c.timeout)) }

func (c *idleConn) Read(b []byte) (int, error) {
	if c.first != nil {
		n, err := c.first.Read(b)
		if n > 0 || !errors.Is(err, io.EOF) {
			return n, err
		}
		c.first = nil
	}
	n, err := c.Conn.Read(b)
	if n > 0 && err == nil {
		err = c.touch()
	}
	return n, err
}

func (c *idleConn) Write(b []byte) (int, error) {
	if err := c.touch(); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// CloseWrite tells the other end that no more comes, where that can be told.
func (c *idleConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// CloseRead is for goproxy, which wants both halves. TLS has no such thing.
func (c *idleConn) CloseRead() error {
	if half, ok := c.Conn.(interface{ CloseRead() error }); ok {
		return half.CloseRead()
	}
	return nil
}
