package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/coder/websocket"

	"github.com/holdfast-os/holdfast/api/os"
)

// maxEvent is the longest event that is read, in bytes; a node sends none above 64 KiB.
const maxEvent = 1 << 20

// EventStream are the events of a node as they happen. One goroutine reads it.
type EventStream struct {
	conn     *websocket.Conn
	endpoint string
}

// Events listens to a node: to os.EventTypeLogging, os.EventTypeOperation and
// os.EventTypeLifecycle, or to all of them when none is named. What happened before is not
// in it. The context is that of connecting; the caller closes the stream.
func (c *Client) Events(ctx context.Context, types ...string) (*EventStream, error) {
	const path = "/1.0/events"
	address := c.base + path
	if len(types) > 0 {
		address += "?" + url.Values{"type": {strings.Join(types, ",")}}.Encode()
	}
	// A request that asks for an upgrade goes over HTTP/1.1 whatever else the server speaks.
	conn, response, err := websocket.Dial(ctx, address, &websocket.DialOptions{
		HTTPClient: c.http, HTTPHeader: http.Header{"User-Agent": {c.userAgent}},
	})
	if err == nil {
		conn.SetReadLimit(maxEvent)
		return &EventStream{conn: conn, endpoint: c.endpoint}, nil
	}
	if response == nil || response.Body == nil || response.StatusCode == http.StatusSwitchingProtocols {
		return nil, &ConnectError{Endpoint: c.endpoint, Err: unwrapURL(err)}
	}
	data, readErr := io.ReadAll(response.Body) // the library keeps 1024 bytes of it
	if readErr != nil {
		return nil, &ConnectError{Endpoint: c.endpoint, Err: readErr}
	}
	if _, refused := decode(path, response.StatusCode, response.Header, data); refused != nil {
		return nil, refused
	}
	return nil, fmt.Errorf("the answer for %s is not a stream of events", path)
}

// Next waits for the next event. It is io.EOF when the node has ended the stream in order,
// and a *ConnectError when it broke, or the node says why it ends it.
func (s *EventStream) Next(ctx context.Context) (os.Event, error) {
	_, text, err := s.conn.Read(ctx)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return os.Event{}, ctx.Err()
	case websocket.CloseStatus(err) == websocket.StatusNormalClosure:
		return os.Event{}, io.EOF
	default:
		var closed websocket.CloseError
		if errors.As(err, &closed) && closed.Reason != "" {
			err = errors.New(closed.Reason)
		}
		return os.Event{}, &ConnectError{Endpoint: s.endpoint, Err: fmt.Errorf("reading events: %w", err)}
	}
	var event os.Event
	if err := json.Unmarshal(text, &event); err != nil {
		return os.Event{}, fmt.Errorf("decoding an event: %w", err)
	}
	return event, nil
}

// Close ends the stream.
func (s *EventStream) Close() error { return s.conn.CloseNow() }
