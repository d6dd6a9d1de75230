package watchdog

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/hashicorp/raft"
)

// raftTimeout bounds one exchange of raft, and the connecting for it. A connection
// that a partition has frozen is given up after it, so that a healed one is found.
const raftTimeout = time.Second

// greeting is what the one who dials a connection for raft says first. raft itself
// does not look whom it asks for a vote: without this an incarnation that lost its
// disk would answer for the one that it was.
type greeting struct {
	To      string `json:"to"`      // id of the server that is meant
	Cluster string `json:"cluster"` // that the dialer belongs to
}

// maxGreeting bounds a greeting, in bytes; its length stands before it in two.
const maxGreeting = 1024

func (g greeting) write(w io.Writer) error {
	body, err := json.Marshal(g)
	if err != nil {
		return fmt.Errorf("encode greeting: %w", err)
	}
	out := binary.BigEndian.AppendUint16(nil, uint16(len(body)))
	_, err = w.Write(append(out, body...))
	return err
}

func readGreeting(r io.Reader) (greeting, error) {
	var g greeting
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return g, fmt.Errorf("read greeting: %w", err)
	}
	n := binary.BigEndian.Uint16(length[:])
	if n > maxGreeting {
		return g, fmt.Errorf("read greeting: %d bytes", n)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return g, fmt.Errorf("read greeting: %w", err)
	}
	if err := json.Unmarshal(body, &g); err != nil {
		return g, fmt.Errorf("read greeting: %w", err)
	}
	return g, nil
}

// streams is raft's network: the connections of its protocol that the listener let
// in, and those that it dials.
type streams struct {
	in      *accepted
	address raft.ServerAddress // of this server, as the others know it
	dial    dialFunc
	cluster func() string        // that this server belongs to; "" none yet
	greeted func(greeting) error // of an incoming connection: whether it is for this server
	dialed  conns
}

// Accept implements raft.StreamLayer. A dialer that is mistaken is turned away by
// greetedConn when raft reads from it first.
func (s *streams) Accept() (net.Conn, error) {
	c, err := s.in.Accept()
	if err != nil {
		return nil, err
	}
	return &greetedConn{Conn: c, check: s.greeted}, nil
}

// Close implements raft.StreamLayer. The port belongs to the listener, and so does
// what came in by it.
func (s *streams) Close() error {
	s.dialed.close()
	return s.in.Close()
}

// Addr implements raft.StreamLayer.
func (s *streams) Addr() net.Addr { return address(s.address) }

// Dial implements raft.StreamLayer.
func (s *streams) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	id, hostport := splitAddress(to)
	c, err := s.dial(ctx, nameOf(id), hostport, protocolRaft)
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		c.SetWriteDeadline(time.Now().Add(timeout)),
		greeting{To: id, Cluster: s.cluster()}.write(c),
		c.SetWriteDeadline(time.Time{}))
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("greet %s: %w", to, err)
	}
	if c = s.dialed.add(c); c == nil {
		return nil, net.ErrClosed
	}
	return c, nil
}

// greetedConn reads the greeting before anything else. It has one reader.
type greetedConn struct {
	net.Conn
	check func(greeting) error // nil: done
}

// Read implements net.Conn.
func (c *greetedConn) Read(b []byte) (int, error) {
	if c.check != nil {
		if err := c.greet(); err != nil {
			c.Close()
			return 0, io.EOF // raft logs any other error of a connection
		}
		c.check = nil
	}
	return c.Conn.Read(b)
}

func (c *greetedConn) greet() error {
	if err := c.SetReadDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return err
	}
	g, err := readGreeting(c.Conn)
	if err != nil {
		return err
	}
	if err := c.check(g); err != nil {
		return err
	}
	return c.SetReadDeadline(time.Time{})
}

// address is a server's address as a net.Addr.
type address string

// Network implements net.Addr.
func (address) Network() string { return "pgproxy" }

// String implements net.Addr.
func (a address) String() string { return string(a) }

// dial connects to a member: where the file says that it is, else at hostport,
// where raft knows it.
func (w *Watchdog) dial(ctx context.Context, member, hostport, protocol string) (net.Conn, error) {
	if m := w.cfg.member(member); m != nil {
		hostport = m.Address
	}
	if w.deps.Identity == nil || hostport == "" {
		return nil, errors.New("this member is alone")
	}
	conn, err := w.dialer(ctx, "tcp", hostport)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", member, err)
	}
	c := tls.Client(conn, w.deps.Identity.ClientTLS(protocol))
	if err := c.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("connect to %s at %s: %w", member, hostport, err)
	}
	return c, nil
}
