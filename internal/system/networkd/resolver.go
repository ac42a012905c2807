package networkd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// ErrNoDNS means that no nameserver answered.
var ErrNoDNS = errors.New("no nameserver answers; look at dns.nameservers, or at what DHCP gives")

const (
	resolvedStub = "127.0.0.53:53"
	// askAgain is after how long a question is repeated.
	askAgain = 2 * time.Second
	// maxDNS is the size of an answer over UDP, in bytes.
	maxDNS = 4096
)

// FlushDNS forgets what names resolve to.
func (h Host) FlushDNS(ctx context.Context) error {
	if err := h.do(ctx, "resolvectl", "flush-caches"); err != nil {
		return fmt.Errorf("emptying the cache of the resolver: %w", err)
	}
	return nil
}

// DNSProbe asks the node's resolver for the addresses of a name, again and again until
// the context ends. Any answer that comes from a nameserver will do, also that there is
// no such name, or that it does not want to say: networks without the internet have
// such nameservers. Without one, errors.Is(err, ErrNoDNS) holds.
func (h Host) DNSProbe(ctx context.Context, name string) error {
	question, err := dnsQuestion(name)
	if err != nil {
		return fmt.Errorf("asking for the name %s: %w", name, err)
	}
	var last error
	for {
		if last = h.askResolver(ctx, question); last == nil {
			return nil
		}
		// A resolver that fails at once is asked again after a while.
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (asked for %s): %w", ErrNoDNS, name, last)
		case <-time.After(askAgain / 4):
		}
	}
}

const probeID = 4711

func dnsQuestion(name string) ([]byte, error) {
	parsed, err := dnsmessage.NewName(name + ".")
	if err != nil {
		return nil, err
	}
	message := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: probeID, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: parsed, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	return message.Pack()
}

// askResolver asks once.
func (h Host) askResolver(ctx context.Context, question []byte) error {
	address := h.Resolver
	if address == "" {
		address = resolvedStub
	}
	ctx, cancel := context.WithTimeout(ctx, askAgain)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", address)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	answer, err := exchangeDNS(conn, question)
	err = errors.Join(err, conn.Close())
	if err != nil {
		return err
	}
	return checkAnswer(answer)
}

func exchangeDNS(conn net.Conn, question []byte) ([]byte, error) {
	if _, err := conn.Write(question); err != nil {
		return nil, err
	}
	answer := make([]byte, maxDNS)
	n, err := conn.Read(answer)
	return answer[:n], err
}

func checkAnswer(answer []byte) error {
	var parser dnsmessage.Parser
	header, err := parser.Start(answer)
	if err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	if !header.Response || header.ID != probeID {
		return errors.New("the answer is not for the question")
	}
	switch header.RCode {
	case dnsmessage.RCodeSuccess, dnsmessage.RCodeNameError, dnsmessage.RCodeRefused:
		return nil
	}
	return fmt.Errorf("the resolver answered %s", header.RCode)
}
