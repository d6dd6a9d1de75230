package auth

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgproxy/pgproxy/internal/pgtest"
)

// serverHBA is read by PostgreSQL and by ParseHBA.
const serverHBA = `local   all      postgres              trust
local   peerdb   all                   peer
host    app      all  127.0.0.1/32     scram-sha-256
host    md5db    all  127.0.0.1/32     md5
host    passdb   all  127.0.0.1/32     password
host    trustdb  all  127.0.0.1/32     trust
host    rejectdb all  127.0.0.1/32     reject
host    replication rejected 127.0.0.1/32 reject
hostssl certdb   all  127.0.0.1/32     cert
hostssl cadb     all  127.0.0.1/32     scram-sha-256 clientcert=verify-ca
hostssl fulldb   all  127.0.0.1/32     scram-sha-256 clientcert=verify-full
`

// serverRoles has each kind of role, and the databases, so that what PostgreSQL
// says after authentication is not about them.
var serverRoles = []string{
	"CREATE ROLE alice LOGIN PASSWORD 'secret'",
	"CREATE ROLE empty LOGIN",
	"CREATE ROLE grouprole NOLOGIN PASSWORD 'secret'",
	"CREATE ROLE expired LOGIN PASSWORD 'secret' VALID UNTIL '2001-01-01'",
	"CREATE ROLE forever LOGIN PASSWORD 'secret' VALID UNTIL 'infinity'",
	"SET password_encryption = 'md5'; CREATE ROLE old LOGIN PASSWORD 'secret'",
	"CREATE DATABASE peerdb", "CREATE DATABASE md5db", "CREATE DATABASE passdb", "CREATE DATABASE trustdb",
	"CREATE DATABASE certdb", "CREATE DATABASE cadb", "CREATE DATABASE fulldb",
}

// realServer is a PostgreSQL with TLS.
type realServer struct {
	*pgtest.Server
	leaf    *x509.Certificate
	clients map[string]tls.Certificate // by common name
}

func startRealServer(t *testing.T) *realServer {
	t.Helper()
	s := &realServer{Server: pgtest.StartCluster(t, pgtest.Options{HBA: serverHBA}).Primary(), clients: map[string]tls.Certificate{}}
	for _, sql := range serverRoles {
		if err := s.Exec(t.Context(), "postgres", sql); err != nil {
			t.Fatal(err)
		}
	}
	s.enableTLS(t)
	return s
}

// enableTLS gives the server a certificate and the authority of its clients.
func (s *realServer) enableTLS(t *testing.T) {
	t.Helper()
	issue := func(name string, ca *x509.Certificate, caKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			BasicConstraintsValid: true, IsCA: ca == nil,
		}
		if ca == nil {
			ca, caKey = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, ca, key.Public(), caKey)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert, key
	}
	ca, caKey := issue("authority", nil, nil)
	var serverKey *ecdsa.PrivateKey
	s.leaf, serverKey = issue("server", ca, caKey)
	for _, name := range []string{"alice", "bob", "nobody"} {
		cert, key := issue(name, ca, caKey)
		s.clients[name] = tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(serverKey)
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(s.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	owner := st.Sys().(*syscall.Stat_t)
	for name, block := range map[string]*pem.Block{
		"server.crt": {Type: "CERTIFICATE", Bytes: s.leaf.Raw},
		"server.key": {Type: "PRIVATE KEY", Bytes: keyDER},
		"root.crt":   {Type: "CERTIFICATE", Bytes: ca.Raw},
	} {
		path := filepath.Join(s.DataDir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, int(owner.Uid), int(owner.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	for _, sql := range []string{"ALTER SYSTEM SET ssl_ca_file = 'root.crt'", "ALTER SYSTEM SET ssl = on"} {
		if err := s.Exec(t.Context(), "postgres", sql); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Restart(t.Context(), pgtest.StopFast); err != nil {
		t.Fatal(err)
	}
}

// lookup is the auth query of these tests, run by the superuser.
func (s *realServer) lookup(ctx context.Context, user string) (Role, error) {
	conn, err := s.Conn(ctx, "postgres", pgtest.Superuser)
	if err != nil {
		return Role{}, err
	}
	defer conn.Close(ctx)
	role := Role{Name: user}
	var password *string
	var until *time.Time
	err = conn.QueryRow(ctx, "SELECT rolpassword, rolcanlogin, NULLIF(rolvaliduntil, 'infinity') FROM pg_authid WHERE rolname = $1", user).
		Scan(&password, &role.CanLogin, &until)
	if errors.Is(err, pgx.ErrNoRows) {
		return role, nil
	}
	if err != nil {
		return Role{}, err
	}
	role.Exists = true
	if until != nil {
		role.ValidUntil = *until
	}
	if password != nil {
		role.Verifier, err = ParseVerifier(*password)
	}
	return role, err
}

// login is how a client comes to a server and what it says there.
type login struct {
	name        string
	local       bool
	tls         bool
	clientCert  string // common name
	user        string
	database    string
	replication bool

	password string   // a client that does what it is asked to
	messages []string // or what it sends without looking; the first byte is the type, "<nonce>" stands for that of both sides
}

// event is one thing that a server did, in a form that can be compared.
type event string

// server is one that a client logs in on: PostgreSQL or an Exchange.
type server interface {
	// next sends a message (nil: the startup) and returns the messages that come
	// back, until an answer is asked for or the connection is over.
	next(message []byte) (messages [][]byte, over bool)
}

// run plays a login on a server and writes down what the server sends.
func (l *login) run(t *testing.T, s server, binding ChannelBinding) []event {
	var events []event
	var serverFirst []byte
	client := NewPasswordCredential(l.password).Login(l.user, binding)
	messages, over := s.next(nil)
	for i := 0; ; i++ {
		var answer []byte
		for _, m := range messages {
			events = append(events, l.describe(m))
			if m[0] == 'R' && m[8] == pgproto3.AuthTypeSASLContinue {
				serverFirst = m[9:]
			}
			if m[0] == 'R' && l.password != "" {
				send, _, err := client.Next(m[5:])
				if err != nil {
					t.Fatalf("%s: the client gives up: %v", l.name, err)
				}
				answer = append(answer, send...)
			}
		}
		if over {
			return events
		}
		if l.password == "" {
			if i == len(l.messages) {
				t.Fatalf("%s: the server wants more than the client has: %q", l.name, events)
			}
			text := finalWith(l.messages[i], serverFirst)
			answer = binary.BigEndian.AppendUint32([]byte{text[0]}, uint32(len(text)+3))
			answer = append(answer, text[1:]...)
		}
		messages, over = s.next(answer)
	}
}

// describe leaves out what differs from login to login: nonces, signatures, md5
// salts, and the salts of those who have none.
func (l *login) describe(m []byte) event {
	if m[0] == 'E' {
		var e pgproto3.ErrorResponse
		if err := e.Decode(m[5:]); err != nil {
			return event(err.Error())
		}
		return event(fmt.Sprintf("%s %s %s %q %q", e.Severity, e.SeverityUnlocalized, e.Code, e.Message, e.Detail))
	}
	body := m[5:]
	switch body[3] {
	case pgproto3.AuthTypeMD5Password:
		return event(fmt.Sprintf("md5, salt of %d bytes", len(body)-4))
	case pgproto3.AuthTypeSASLContinue:
		nonce, rest, _ := strings.Cut(string(body[4:]), ",")
		if l.user != "alice" && l.user != "forever" && l.user != "grouprole" {
			rest = fmt.Sprintf("%d bytes %s", len(rest), rest[strings.LastIndex(rest, ","):])
		}
		return event(fmt.Sprintf("continue, nonce of %d bytes, %s", len(nonce), rest))
	case pgproto3.AuthTypeSASLFinal:
		return event(fmt.Sprintf("final, %d bytes", len(body)-4))
	}
	return event(fmt.Sprintf("%c %q", m[0], body))
}

// postgres is the real server.
type postgres struct {
	t    *testing.T
	conn net.Conn
	l    *login
}

func (s *realServer) connect(t *testing.T, l *login) *postgres {
	t.Helper()
	network, address := "tcp", s.Address()
	if l.local {
		network, address = "unix", filepath.Join(s.SocketDir, fmt.Sprintf(".s.PGSQL.%d", s.Port))
	}
	conn, err := (&net.Dialer{}).DialContext(t.Context(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if l.tls {
		if _, err := conn.Write(mustEncodeFrontend(t, &pgproto3.SSLRequest{})); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, 1)
		if _, err := io.ReadFull(conn, answer); err != nil || answer[0] != 'S' {
			t.Fatalf("TLS: %q, %v", answer, err)
		}
		cfg := &tls.Config{InsecureSkipVerify: true}
		if l.clientCert != "" {
			cfg.Certificates = []tls.Certificate{s.clients[l.clientCert]}
		}
		conn = tls.Client(conn, cfg)
	}
	return &postgres{t: t, conn: conn, l: l}
}

func (p *postgres) next(message []byte) (messages [][]byte, over bool) {
	if message == nil {
		startup := &pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersionNumber, Parameters: map[string]string{"user": p.l.user, "database": p.l.database}}
		if p.l.replication {
			startup.Parameters["replication"] = "true"
		}
		message = mustEncodeFrontend(p.t, startup)
	}
	if _, err := p.conn.Write(message); err != nil {
		p.t.Fatal(err)
	}
	for {
		m, err := readMessage(p.conn)
		if err != nil { // closed or reset: nothing more is said
			return messages, true
		}
		switch m[0] {
		case 'E':
			return append(messages, m), true
		case 'R':
			messages = append(messages, m)
			if m[8] != pgproto3.AuthTypeOk && m[8] != pgproto3.AuthTypeSASLFinal {
				return messages, false
			}
		default: // the session has begun
			return messages, true
		}
	}
}

func readMessage(r io.Reader) ([]byte, error) {
	head := make([]byte, 5)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	body := make([]byte, binary.BigEndian.Uint32(head[1:])-4)
	_, err := io.ReadFull(r, body)
	return append(head, body...), err
}

func mustEncodeFrontend(t *testing.T, m pgproto3.FrontendMessage) []byte {
	t.Helper()
	b, err := m.Encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// ours is an Exchange, driven as the startup phase does.
type ours struct {
	ctx  context.Context
	auth *Authenticator
	conn ConnInfo
	x    *Exchange
	step Step
}

func (o *ours) next(message []byte) (messages [][]byte, over bool) {
	switch {
	case message == nil:
		o.x, o.step = o.auth.Start(o.ctx, o.conn)
	case len(message)-5 > o.step.MaxBody:
		o.step = Step{Fail: o.x.Oversized()}
	default:
		o.step = o.x.Next(o.ctx, message[0], message[5:])
	}
	out := slices.Clone(o.step.Send)
	if o.step.Done != nil {
		out = append(out, mustEncode(&pgproto3.AuthenticationOk{})...)
	}
	if o.step.Fail != nil {
		out = append(out, o.step.Fail.Encode()...)
	}
	for r := bytes.NewReader(out); r.Len() > 0; {
		m, err := readMessage(r)
		if err != nil {
			panic(err)
		}
		messages = append(messages, m)
	}
	return messages, !o.step.Wait
}

// initial is a SASLInitialResponse.
func initial(mechanism, message string) string {
	return "p" + mechanism + "\x00" + string(binary.BigEndian.AppendUint32(nil, uint32(len(message)))) + message
}

// logins are what the two servers are compared by.
func logins() []login {
	list := []login{
		{name: "scram", user: "alice", database: "app", password: "secret"},
		{name: "scram wrong", user: "alice", database: "app", password: "wrong"},
		{name: "scram over TLS", user: "alice", database: "app", tls: true, password: "secret"},
		{name: "scram unknown user", user: "nobody", database: "app", password: "secret"},
		{name: "scram no password", user: "empty", database: "app", password: "secret"},
		{name: "scram expired", user: "expired", database: "app", password: "secret"},
		{name: "scram forever", user: "forever", database: "app", password: "secret"},
		{name: "scram no login", user: "grouprole", database: "app", password: "secret"},
		{name: "scram md5 verifier", user: "old", database: "app", password: "secret"},
		{name: "md5", user: "old", database: "md5db", password: "secret"},
		{name: "md5 wrong", user: "old", database: "md5db", password: "wrong"},
		{name: "md5 scram verifier", user: "alice", database: "md5db", password: "secret"},
		{name: "md5 unknown user", user: "nobody", database: "md5db", password: "secret"},
		{name: "md5 expired", user: "expired", database: "md5db", password: "secret"},
		{name: "md5 empty", user: "old", database: "md5db", messages: []string{"p\x00"}},
		{name: "password", user: "alice", database: "passdb", password: "secret"},
		{name: "password wrong", user: "alice", database: "passdb", password: "wrong"},
		{name: "password md5 verifier", user: "old", database: "passdb", password: "secret"},
		{name: "password md5 verifier wrong", user: "old", database: "passdb", password: "wrong"},
		{name: "password unknown user", user: "nobody", database: "passdb", password: "secret"},
		{name: "password expired", user: "expired", database: "passdb", password: "secret"},
		{name: "password no login", user: "grouprole", database: "passdb", password: "secret"},
		{name: "password empty", user: "alice", database: "passdb", messages: []string{"p\x00"}},
		{name: "password without end", user: "alice", database: "passdb", messages: []string{"psecret"}},
		{name: "password with NUL", user: "alice", database: "passdb", messages: []string{"psec\x00ret\x00"}},
		{name: "password without anything", user: "alice", database: "passdb", messages: []string{"p"}},
		{name: "password of another type", user: "alice", database: "passdb", messages: []string{"Qselect 1\x00"}},
		{name: "password oversized", user: "alice", database: "passdb", messages: []string{"p" + strings.Repeat("x", 65534)}},
		{name: "password longest", user: "alice", database: "passdb", messages: []string{"p" + strings.Repeat("x", 65530) + "\x00"}},
		{name: "trust", user: "alice", database: "trustdb"},
		{name: "trust unknown user", user: "nobody", database: "trustdb"},
		{name: "trust no login", user: "grouprole", database: "trustdb"},
		{name: "trust expired", user: "expired", database: "trustdb"},
		{name: "reject", user: "alice", database: "rejectdb"},
		{name: "reject over TLS", user: "alice", database: "rejectdb", tls: true},
		{name: "reject replication", user: "rejected", replication: true},
		{name: "no entry", user: "alice", database: "other"},
		{name: "no entry over TLS", user: "alice", database: "other", tls: true},
		{name: "no entry replication", user: "alice", database: "app", replication: true},
		{name: "no entry local", user: "alice", database: "app", local: true},
		{name: "no entry local replication", user: "alice", local: true, replication: true},
		{name: "peer of another user", user: "alice", database: "peerdb", local: true},
		{name: "cert", user: "alice", database: "certdb", tls: true, clientCert: "alice"},
		{name: "cert of another user", user: "alice", database: "certdb", tls: true, clientCert: "bob"},
		{name: "cert missing", user: "alice", database: "certdb", tls: true},
		{name: "cert unknown user", user: "nobody", database: "certdb", tls: true, clientCert: "nobody"},
		{name: "verify-ca", user: "alice", database: "cadb", tls: true, clientCert: "bob", password: "secret"},
		{name: "verify-ca missing", user: "alice", database: "cadb", tls: true, password: "secret"},
		{name: "verify-full", user: "alice", database: "fulldb", tls: true, clientCert: "alice", password: "secret"},
		{name: "verify-full of another user", user: "alice", database: "fulldb", tls: true, clientCert: "bob", password: "secret"},
		{name: "verify-full wrong password", user: "alice", database: "fulldb", tls: true, clientCert: "alice", password: "wrong"},

		{name: "sasl of another type", user: "alice", database: "app", messages: []string{"Qselect 1\x00"}},
		{name: "sasl final of another type", user: "alice", database: "app", messages: []string{initial(mechSCRAM, "n,,n=,r=abc"), "X"}},
		{name: "sasl mechanism without end", user: "alice", database: "app", messages: []string{"pSCRAM-SHA-256"}},
		{name: "sasl unknown mechanism", user: "alice", database: "app", messages: []string{initial("SCRAM-SHA-1", "")}},
		{name: "sasl plus without TLS", user: "alice", database: "app", messages: []string{initial(mechSCRAMPlus, "p=tls-server-end-point,,n=,r=abc")}},
		{name: "sasl length cut", user: "alice", database: "app", messages: []string{"pSCRAM-SHA-256\x00\x00\x00"}},
		{name: "sasl length too long", user: "alice", database: "app", messages: []string{"pSCRAM-SHA-256\x00\x00\x00\x00\x09n,,n="}},
		{name: "sasl length too short", user: "alice", database: "app", messages: []string{"pSCRAM-SHA-256\x00\x00\x00\x00\x01n,,n="}},
		{name: "sasl length negative", user: "alice", database: "app", messages: []string{"pSCRAM-SHA-256\x00\xff\xff\xff\xfen,,n="}},
		{name: "sasl none and more", user: "alice", database: "app", messages: []string{"pSCRAM-SHA-256\x00\xff\xff\xff\xffn,,"}},
		{name: "sasl no initial response", user: "alice", database: "app", messages: []string{"pSCRAM-SHA-256\x00\xff\xff\xff\xff", "pn,,n=,r=abc", "pc=biws,r=<nonce>,p=" + zeroProof}},
		{name: "sasl no initial response, empty", user: "alice", database: "app", messages: []string{"pSCRAM-SHA-256\x00\xff\xff\xff\xff", "p"}},
		{name: "sasl oversized", user: "alice", database: "app", messages: []string{"p" + strings.Repeat("x", 1021)}},
		{name: "sasl longest", user: "alice", database: "app", messages: []string{"p" + strings.Repeat("x", 1020)}},
		{name: "sasl final oversized", user: "alice", database: "app", messages: []string{initial(mechSCRAM, "n,,n=,r=abc"), "p" + strings.Repeat("x", 1021)}},
	}
	for _, f := range scramFaults {
		mechanism := mechSCRAM
		if f.plus {
			mechanism = mechSCRAMPlus
		}
		l := login{name: fmt.Sprintf("%q %q", f.first, f.final), tls: f.tls, user: "alice", database: "app", messages: []string{initial(mechanism, f.first)}}
		if f.final != "" {
			l.messages = append(l.messages, "p"+f.final)
		}
		list = append(list, l)
	}
	return list
}

// TestAsPostgreSQL plays every login on PostgreSQL and on an Exchange over the
// same roles and rules, and wants the same messages.
func TestAsPostgreSQL(t *testing.T) {
	s := startRealServer(t)
	h, err := ParseHBA(strings.NewReader(serverHBA), "pg_hba.conf")
	if err != nil {
		t.Fatal(err)
	}
	a, err := NewAuthenticator(AuthenticatorConfig{HBA: h, Store: NewStore(StoreConfig{Lookup: s.lookup, TTL: time.Hour})})
	if err != nil {
		t.Fatal(err)
	}
	self, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range logins() {
		c := ConnInfo{
			Local: l.local, Remote: netip.MustParseAddr("127.0.0.1"), TLS: l.tls,
			PeerUser: func() string { return self.Username }, User: l.user, Database: l.database, Replication: l.replication,
		}
		var binding ChannelBinding
		if l.tls {
			binding = EndpointBinding(s.leaf)
			c.Binding = binding
		}
		if l.clientCert != "" {
			c.ClientCert = s.clients[l.clientCert].Leaf
		}
		want := l.run(t, s.connect(t, &l), binding)
		o := &ours{ctx: t.Context(), auth: a, conn: c}
		got := l.run(t, o, binding)
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n      got %q\nPostgreSQL %q", l.name, got, want)
		}

		// What a login leaves is good for one on PostgreSQL.
		if done := o.step.Done; done != nil && done.Kind != CredentialNone {
			again := login{name: l.name + ", passed on", tls: l.tls, clientCert: l.clientCert, user: l.user, database: l.database}
			p := s.connect(t, &again)
			if err := logIn(p, done.Login(l.user, binding)); err != nil {
				t.Errorf("%s: pass the credential on: %v", l.name, err)
			}
		}
	}
}

// logIn goes through a login until the session begins.
func logIn(p *postgres, l *Login) error {
	messages, over := p.next(nil)
	for {
		var answer []byte
		for _, m := range messages {
			if m[0] != 'R' {
				return fmt.Errorf("the server answers %q", m)
			}
			send, done, err := l.Next(m[5:])
			if err != nil || done {
				return err
			}
			answer = append(answer, send...)
		}
		if over {
			return io.ErrUnexpectedEOF
		}
		messages, over = p.next(answer)
	}
}

// TestPasswordsArePreparedAsPostgreSQLDoes lets the server make verifiers of
// passwords that SASLprep changes, and of some that it does not take.
func TestPasswordsArePreparedAsPostgreSQLDoes(t *testing.T) {
	s := pgtest.StartCluster(t, pgtest.Options{}).Primary()
	real := &realServer{Server: s}
	h := newHasher(1)
	for i, password := range []string{
		"secret", "pa\u00adss\u00e9", "a\u00a0b\u2003c\u200bd", "\ufb01\u2168e\u0301", "\u00ad", "\u00ad\u0001x", "\u00ad\U0001f600",
		"\u00ad\ue000", "\u0627\u0661\u0628", "\u00ad\u0627a\u0628", "\u00ad\u06271", "\u00aa\u00df\u0130", "\u1e9b\u0323", "\ufdfa", "\u200c\u2060x",
	} {
		name := fmt.Sprintf("prep%d", i)
		if err := s.Exec(t.Context(), "postgres", fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'", name, password)); err != nil {
			t.Fatal(err)
		}
		role, err := real.lookup(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		cred, err := h.check(t.Context(), role.Verifier, name, password)
		if err != nil {
			t.Fatal(err)
		}
		if cred == nil {
			t.Errorf("%q: PostgreSQL's verifier does not fit", password)
		}
	}
}
