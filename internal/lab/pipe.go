package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// Pipe joins in and out to a TCP connection until the other side ends it. QEMU runs one
// for each connection of a guest that is cut off from other networks.
func Pipe(ctx context.Context, address string, in io.Reader, out io.Writer) error {
	dialer := net.Dialer{Timeout: 10 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("joining the guest to %s: %w", address, err)
	}
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, in)
		if half, ok := conn.(*net.TCPConn); ok {
			err = errors.Join(err, half.CloseWrite())
		}
		sent <- err
	}()
	_, err = io.Copy(out, conn)
	err = errors.Join(err, conn.Close())
	select {
	case failed := <-sent:
		return errors.Join(err, failed)
	default: // the guest has said nothing more, and the answer is complete
		return err
	}
}
