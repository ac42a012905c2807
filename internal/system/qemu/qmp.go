package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// maxLine is the longest line accepted from QEMU, in bytes.
const maxLine = 4 << 20

// eventBacklog is how many events wait for a reader; later ones are dropped.
const eventBacklog = 256

// ErrClosed is returned for a command on a connection that has ended, most often
// because QEMU has.
var ErrClosed = errors.New("the connection to QEMU is closed")

// Event is something QEMU says by itself, such as RESET or SHUTDOWN.
type Event struct {
	Name string          `json:"event"`
	Data json.RawMessage `json:"data"`
}

// CommandError is a command QEMU refused.
type CommandError struct {
	Command string
	Class   string
	Text    string
}

func (e *CommandError) Error() string {
	return fmt.Sprintf("QEMU refused %s: %s", e.Command, e.Text)
}

// Client is one QMP connection. It may be used by several goroutines.
type Client struct {
	conn   net.Conn
	events chan Event
	done   chan struct{}

	mu      sync.Mutex
	next    int
	waiting map[int]chan message
}

type message struct {
	Greeting json.RawMessage `json:"QMP"`
	Event
	ID     *int            `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
}

// Dial connects to a control socket and leaves negotiation behind. It waits until
// QEMU greets, which it does when no other client is connected; bound it by ctx.
func Dial(ctx context.Context, path string) (*Client, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("connecting to QEMU: %w", err)
	}
	c := &Client{
		conn: conn, events: make(chan Event, eventBacklog),
		done: make(chan struct{}), waiting: map[int]chan message{},
	}
	greeted := make(chan struct{})
	go c.read(greeted)
	select {
	case <-greeted:
	case <-c.done:
		_ = conn.Close()
		return nil, fmt.Errorf("connecting to QEMU on %s: %w", path, ErrClosed)
	case <-ctx.Done():
		_ = conn.Close()
		return nil, fmt.Errorf("waiting for QEMU's greeting on %s: %w", path, ctx.Err())
	}
	if err := c.Execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return c, nil
}

func (c *Client) read(greeted chan struct{}) {
	defer close(c.done)
	defer close(c.events)
	scanner := bufio.NewScanner(c.conn)
	scanner.Buffer(nil, maxLine)
	for scanner.Scan() {
		var m message
		if err := json.Unmarshal(scanner.Bytes(), &m); err != nil {
			return // not QMP: nothing after it can be trusted
		}
		switch {
		case m.Greeting != nil:
			if greeted != nil {
				close(greeted)
				greeted = nil
			}
		case m.Event.Name != "":
			select {
			case c.events <- m.Event:
			default:
			}
		case m.ID != nil:
			c.deliver(*m.ID, m)
		}
	}
}

func (c *Client) deliver(id int, m message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if answer, ok := c.waiting[id]; ok {
		answer <- m
		delete(c.waiting, id)
	}
}

// Events gives what QEMU says by itself. The channel is closed with the connection.
// Whoever does not read it loses events beyond the first 256.
func (c *Client) Events() <-chan Event { return c.events }

// Close ends the connection; the machine runs on.
func (c *Client) Close() error { return c.conn.Close() }

// Execute sends a command with its arguments (nil for none) and decodes the answer
// into result (nil to ignore it). A refusal is a *CommandError.
func (c *Client) Execute(ctx context.Context, command string, arguments, result any) error {
	c.mu.Lock()
	c.next++
	id, answer := c.next, make(chan message, 1)
	c.waiting[id] = answer
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, id)
		c.mu.Unlock()
	}()
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        int    `json:"id"`
	}{command, arguments, id})
	if err != nil {
		return fmt.Errorf("encoding the QEMU command %s: %w", command, err)
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = c.conn.SetWriteDeadline(deadline)
	} else {
		_ = c.conn.SetWriteDeadline(time.Time{})
	}
	if _, err := c.conn.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("sending %s to QEMU: %w: %w", command, ErrClosed, err)
	}
	select {
	case m := <-answer:
		return m.decode(command, result)
	case <-c.done:
		return fmt.Errorf("waiting for QEMU's answer to %s: %w", command, ErrClosed)
	case <-ctx.Done():
		return fmt.Errorf("waiting for QEMU's answer to %s: %w", command, ctx.Err())
	}
}

func (m message) decode(command string, result any) error {
	if m.Error != nil {
		return &CommandError{Command: command, Class: m.Error.Class, Text: m.Error.Desc}
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(m.Return, result); err != nil {
		return fmt.Errorf("reading QEMU's answer to %s: %w", command, err)
	}
	return nil
}
