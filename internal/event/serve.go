package event

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"

	osapi "github.com/holdfast-os/holdfast/api/os"
)

const (
	// DefaultPingEvery is how often a listener is asked whether it is there.
	DefaultPingEvery = 20 * time.Second
	// writeWithin is how long one event may take to get out.
	writeWithin = 5 * time.Second
	// readLimit is the largest message taken from a listener, in bytes. It has nothing to
	// say: a message ends the connection.
	readLimit = 1 << 10
)

// Serve turns a request into a websocket and sends events on it, one text message each,
// until the listener or the daemon goes away. The parameter "type" is a list with
// commas; without it the listener gets all types.
//
// Serve gives every answer itself: a request that is refused is answered in the
// envelope, with 400 or 503; a handshake that is wrong, or comes from a page of another
// origin (403), is answered in plain text. The error says why the listener went and is
// for the log at level debug; nil when it went by itself.
func Serve(w http.ResponseWriter, r *http.Request, hub *Hub) error {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return refuse(w, http.StatusBadRequest, errors.New("events are sent on a websocket: ask with Upgrade: websocket"))
	}
	var types []string
	if list := r.URL.Query().Get("type"); list != "" {
		types = strings.SplitN(list, ",", 16)
	}
	// Who is connected gets everything from then on, so the queue is there before.
	s, err := hub.Subscribe(types...)
	if errors.Is(err, ErrType) {
		return refuse(w, http.StatusBadRequest, err)
	}
	if err != nil {
		return refuse(w, http.StatusServiceUnavailable, err)
	}
	defer s.Close()
	// A page of another origin must not listen with the certificate of a browser's
	// owner: Accept refuses an Origin that is not the Host.
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return fmt.Errorf("accepting an event listener: %w", err)
	}
	conn.SetReadLimit(readLimit)
	err = send(conn, s)
	// Both do nothing to a connection that is closed already.
	switch {
	case errors.Is(err, ErrSlow):
		_ = conn.Close(websocket.StatusTryAgainLater, ErrSlow.Error())
	case errors.Is(err, ErrClosed):
		_ = conn.Close(websocket.StatusGoingAway, ErrClosed.Error())
	case errors.Is(err, errTalks):
		_ = conn.Close(websocket.StatusPolicyViolation, errTalks.Error())
	default:
		_ = conn.CloseNow()
	}
	return err
}

// send writes events until the connection or the subscription ends.
func send(conn *websocket.Conn, s *Subscription) error {
	// The context of the request means nothing once the connection is taken over.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	gone := make(chan error, 1)
	go func() { gone <- listen(ctx, conn) }()
	ping := time.NewTicker(s.hub.o.PingEvery)
	defer ping.Stop()
	for {
		select {
		case text := <-s.Events():
			if err := write(ctx, conn, text); err != nil {
				return err
			}
		case <-ping.C:
			// The answer must not keep events back, and is awaited elsewhere.
			go expectPong(ctx, conn, s.hub.o.PingEvery)
		case <-s.Done():
			return s.Err()
		case err := <-gone:
			return err
		}
	}
}

// listen answers pings until the listener closes the connection, which is no error, or
// says something. (The library's CloseRead would wait for itself for 15 seconds then.)
func listen(ctx context.Context, conn *websocket.Conn) error {
	if _, _, err := conn.Reader(ctx); err == nil {
		return errTalks
	}
	return nil
}

// errTalks ends the connection of a listener that sends a message.
var errTalks = errors.New("a listener has nothing to say here")

func write(ctx context.Context, conn *websocket.Conn, text []byte) error {
	ctx, cancel := context.WithTimeout(ctx, writeWithin)
	defer cancel()
	if err := conn.Write(ctx, websocket.MessageText, text); err != nil {
		return fmt.Errorf("sending an event: %w", err)
	}
	return nil
}

// expectPong closes the connection of a listener that does not answer.
func expectPong(ctx context.Context, conn *websocket.Conn, within time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if err := conn.Ping(ctx); err != nil {
		_ = conn.CloseNow() // it may be closed already, which is what is wanted
	}
}

func refuse(w http.ResponseWriter, code int, cause error) error {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	answer := osapi.Response{Type: "error", ErrorCode: code, Error: cause.Error(), Metadata: json.RawMessage("null")}
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		return errors.Join(cause, fmt.Errorf("telling the caller: %w", err))
	}
	return fmt.Errorf("refusing an event listener: %w", cause)
}
