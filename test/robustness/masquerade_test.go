package robustness

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/pgproxy/pgproxy/internal/pgtest"
	"github.com/pgproxy/pgproxy/internal/pgwire"
)

// samePID is the process id that all server processes have behind a masquerade.
const samePID = 4242

// masquerade relays to a server and gives all of its processes the same id.
type masquerade struct {
	listener net.Listener
	server   string
	wg       sync.WaitGroup

	mu struct {
		sync.Mutex
		pids  map[string]uint32 // the true ones, by secret
		conns map[net.Conn]bool
	}
}

func newMasquerade(t *testing.T, server string) *masquerade {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	m := &masquerade{listener: l, server: server}
	m.mu.pids = make(map[string]uint32)
	m.mu.conns = make(map[net.Conn]bool)
	m.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			m.wg.Go(func() { _ = m.relay(conn) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		m.mu.Lock()
		for c := range m.mu.conns {
			_ = c.Close()
		}
		m.mu.Unlock()
		m.wg.Wait()
	})
	return m
}

func (m *masquerade) addressOf(*pgtest.Server) string { return m.listener.Addr().String() }

func (m *masquerade) track(c net.Conn) (forget func()) {
	m.mu.Lock()
	m.mu.conns[c] = true
	m.mu.Unlock()
	return func() {
		_ = c.Close()
		m.mu.Lock()
		delete(m.mu.conns, c)
		m.mu.Unlock()
	}
}

// relay carries one connection: its first packet, the server's messages up to
// BackendKeyData, then bytes.
func (m *masquerade) relay(client net.Conn) error {
	defer m.track(client)()
	server, err := net.Dial("tcp", m.server)
	if err != nil {
		return err
	}
	defer m.track(server)()
	if err := m.relayStartup(client, server); err != nil {
		return err
	}
	var up sync.WaitGroup
	up.Go(func() {
		_, _ = io.Copy(server, client)
		_ = server.(*net.TCPConn).CloseWrite()
	})
	defer up.Wait()
	defer client.Close()
	if err := m.relayLogin(client, server); err != nil {
		return err
	}
	_, err = io.Copy(client, server)
	return err
}

// relayStartup refuses TLS and gives a CancelRequest its true process id.
func (m *masquerade) relayStartup(client, server net.Conn) error {
	for {
		packet := make([]byte, 4)
		if _, err := io.ReadFull(client, packet); err != nil {
			return err
		}
		packet = append(packet, make([]byte, binary.BigEndian.Uint32(packet)-4)...)
		if _, err := io.ReadFull(client, packet[4:]); err != nil {
			return err
		}
		switch pgwire.RequestCode(packet[4:]) {
		case pgwire.SSLRequestCode:
			if _, err := client.Write([]byte("N")); err != nil {
				return err
			}
			continue
		case pgwire.CancelRequestCode:
			m.mu.Lock()
			pid := m.mu.pids[string(packet[12:])]
			m.mu.Unlock()
			binary.BigEndian.PutUint32(packet[8:], pid)
		}
		_, err := server.Write(packet)
		return err
	}
}

func (m *masquerade) relayLogin(client, server net.Conn) error {
	for {
		b := make([]byte, pgwire.HeaderLen)
		if _, err := io.ReadFull(server, b); err != nil {
			return errors.Join(err, client.Close())
		}
		b = append(b, make([]byte, binary.BigEndian.Uint32(b[1:])-4)...)
		if _, err := io.ReadFull(server, b[pgwire.HeaderLen:]); err != nil {
			return err
		}
		key := b[0] == pgwire.BackendKeyData
		if key {
			m.mu.Lock()
			m.mu.pids[string(b[9:])] = binary.BigEndian.Uint32(b[5:])
			m.mu.Unlock()
			binary.BigEndian.PutUint32(b[5:], samePID)
		}
		if _, err := client.Write(b); err != nil || key {
			return err
		}
	}
}
