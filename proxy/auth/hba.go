package auth

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"regexp"
)

// Method is an authentication method of pg_hba.conf.
type Method uint8

// The methods that pgproxy knows.
const (
	MethodUnknown Method = iota
	MethodReject
	MethodTrust
	MethodPassword
	MethodMD5
	MethodSCRAM
	MethodCert
	MethodPeer
)

// String returns the word that stands in pg_hba.conf.
func (m Method) String() string {
	switch m {
	case MethodReject:
		return "reject"
	case MethodTrust:
		return "trust"
	case MethodPassword:
		return "password"
	case MethodMD5:
		return "md5"
	case MethodSCRAM:
		return "scram-sha-256"
	case MethodCert:
		return "cert"
	case MethodPeer:
		return "peer"
	case MethodUnknown:
	}
	return "unknown"
}

// GivesKey tells if the method leaves something that logs the client in on a
// backend. For the others the password file has to.
func (m Method) GivesKey() bool {
	switch m {
	case MethodPassword, MethodMD5, MethodSCRAM:
		return true
	case MethodReject, MethodTrust, MethodCert, MethodPeer, MethodUnknown:
	}
	return false
}

// ClientCert is the option clientcert of a hostssl rule.
type ClientCert uint8

// The values of clientcert. The zero value is "not given".
const (
	ClientCertNone       ClientCert = iota
	ClientCertVerifyCA              // a valid certificate is needed
	ClientCertVerifyFull            // and its common name is the user's
)

// ConnInfo is what the startup phase knows of a client before authentication.
type ConnInfo struct {
	Local       bool              // a Unix socket
	Remote      netip.Addr        // of a TCP client
	TLS         bool              // encrypted
	Binding     ChannelBinding    // of the certificate we showed; nil: none
	ClientCert  *x509.Certificate // the client's leaf certificate, verified; nil: none
	PeerUser    func() string     // finds out the OS user at the other end of a Unix socket, "": unknown; nil: there is none
	User        string
	Database    string
	Replication bool // physical replication (replication=true); a logical one names a database and is false
}

// Rule is what a line of pg_hba.conf asks of a client.
type Rule struct {
	Method     Method
	ClientCert ClientCert
	File       string
	Line       int
	Implicit   bool // no line matched; Method is MethodReject
}

// HBA holds the rules of a pg_hba.conf. It is immutable.
type HBA struct {
	entries []entry

	// interfaces returns the addresses of this host with their networks, for
	// samehost and samenet. PostgreSQL asks at each connection too: addresses
	// come and go.
	interfaces func() ([]netip.Prefix, error)
}

// entry is one line.
type entry struct {
	rule      Rule
	transport transport
	databases []nameMatch
	users     []nameMatch
	address   addressMatch
}

// transport is the first field of a line.
type transport uint8

const (
	transportUnknown transport = iota
	transportLocal
	transportHost // with and without TLS
	transportHostSSL
	transportHostNoSSL
	transportHostGSSEnc // never matches: GSS encryption is refused at startup
)

func (t transport) matches(c ConnInfo) bool {
	switch t {
	case transportLocal:
		return c.Local
	case transportHost:
		return !c.Local
	case transportHostSSL:
		return !c.Local && c.TLS
	case transportHostNoSSL:
		return !c.Local && !c.TLS
	case transportHostGSSEnc, transportUnknown:
	}
	return false
}

// nameMatch is one element of a database or user list.
type nameMatch struct {
	kind  nameKind
	name  string
	regex *regexp.Regexp
}

type nameKind uint8

const (
	nameUnknown nameKind = iota
	nameAll
	nameExact
	nameRegex
	nameSameUser
	nameReplication
)

// addressKind is the kind of the address field.
type addressKind uint8

const (
	addressNone addressKind = iota // local lines have none
	addressAll
	addressRange
	addressSameHost
	addressSameNet
)

// addressMatch is the address field. A range keeps its mask as an address
// because PostgreSQL takes any mask, contiguous or not.
type addressMatch struct {
	kind       addressKind
	base, mask netip.Addr
}

// DefaultHBA is what holds without a file: everyone by scram-sha-256.
func DefaultHBA() *HBA {
	everyone := func(t transport, a addressKind, database nameKind) entry {
		return entry{
			rule:      Rule{Method: MethodSCRAM, File: "default"},
			transport: t,
			databases: []nameMatch{{kind: database}},
			users:     []nameMatch{{kind: nameAll}},
			address:   addressMatch{kind: a},
		}
	}
	return &HBA{
		interfaces: hostInterfaces,
		entries: []entry{
			everyone(transportLocal, addressNone, nameAll),
			everyone(transportLocal, addressNone, nameReplication),
			everyone(transportHost, addressAll, nameAll),
			everyone(transportHost, addressAll, nameReplication),
		},
	}
}

// Match returns the first rule for a connection.
func (h *HBA) Match(c ConnInfo) Rule {
	remote := c.Remote.Unmap().WithZone("")
	for i := range h.entries {
		e := &h.entries[i]
		if e.transport.matches(c) && h.matchAddress(e.address, remote) &&
			matchDatabase(e.databases, c) && matchUser(e.users, c.User) {
			return e.rule
		}
	}
	return Rule{Method: MethodReject, Implicit: true}
}

// UsesClientCert tells if a rule can only be met with a client certificate, so
// that listen.tls.client_ca_file is needed.
func (h *HBA) UsesClientCert() bool {
	for _, e := range h.entries {
		if e.rule.ClientCert != ClientCertNone {
			return true
		}
	}
	return false
}

func matchDatabase(list []nameMatch, c ConnInfo) bool {
	for _, m := range list {
		// Physical replication has no database, so only its own word matches.
		if c.Replication != (m.kind == nameReplication) {
			continue
		}
		switch m.kind {
		case nameAll, nameReplication:
			return true
		case nameSameUser:
			if c.Database == c.User {
				return true
			}
		case nameExact:
			if m.name == c.Database {
				return true
			}
		case nameRegex:
			if m.regex.MatchString(c.Database) {
				return true
			}
		case nameUnknown:
		}
	}
	return false
}

func matchUser(list []nameMatch, user string) bool {
	for _, m := range list {
		switch m.kind {
		case nameAll:
			return true
		case nameExact:
			if m.name == user {
				return true
			}
		case nameRegex:
			if m.regex.MatchString(user) {
				return true
			}
		case nameUnknown, nameSameUser, nameReplication:
		}
	}
	return false
}

func (h *HBA) matchAddress(m addressMatch, remote netip.Addr) bool {
	switch m.kind {
	case addressNone, addressAll:
		return true
	case addressRange:
		return sameUnderMask(remote, m.base, m.mask)
	case addressSameHost, addressSameNet:
		// Without the list nothing matches, as in PostgreSQL.
		prefixes, err := h.interfaces()
		if err != nil {
			return false
		}
		for _, p := range prefixes {
			own := p.Addr().Unmap().WithZone("")
			if own == remote {
				return true
			}
			if m.kind == addressSameNet && netip.PrefixFrom(own, p.Bits()).Contains(remote) {
				return true
			}
		}
	}
	return false
}

// sameUnderMask tells if a and base are of one family and equal where mask has ones.
func sameUnderMask(a, base, mask netip.Addr) bool {
	x, y, m := a.AsSlice(), base.AsSlice(), mask.AsSlice()
	if len(x) != len(y) || len(x) != len(m) {
		return false
	}
	for i := range x {
		x[i] &= m[i]
		y[i] &= m[i]
	}
	return bytes.Equal(x, y)
}

// hostInterfaces lists the addresses of this host's interfaces.
func hostInterfaces() ([]netip.Prefix, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list interface addresses: %w", err)
	}
	var out []netip.Prefix
	for _, a := range addrs {
		ipnet, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		ip, ok := netip.AddrFromSlice(ipnet.IP)
		if !ok {
			continue
		}
		ones, _ := ipnet.Mask.Size()
		out = append(out, netip.PrefixFrom(ip.Unmap(), ones))
	}
	return out, nil
}

// reject returns the error of a connection that the rules do not let in, with
// the texts of ClientAuthentication in PostgreSQL 15.
func (r Rule) reject(c ConnInfo) *Error {
	encryption := "no encryption"
	if c.TLS {
		encryption = "SSL encryption"
	}
	host := "[local]"
	if !c.Local {
		host = c.Remote.Unmap().String()
	}
	e := &Error{Code: codeInvalidAuthorization}
	switch {
	case r.Implicit && c.Replication:
		e.Message = fmt.Sprintf("no pg_hba.conf entry for replication connection from host \"%s\", user \"%s\", %s", host, c.User, encryption)
	case r.Implicit:
		e.Message = fmt.Sprintf("no pg_hba.conf entry for host \"%s\", user \"%s\", database \"%s\", %s", host, c.User, c.Database, encryption)
	case c.Replication:
		e.Message = fmt.Sprintf("pg_hba.conf rejects replication connection for host \"%s\", user \"%s\", %s", host, c.User, encryption)
	default:
		e.Message = fmt.Sprintf("pg_hba.conf rejects connection for host \"%s\", user \"%s\", database \"%s\", %s", host, c.User, c.Database, encryption)
	}
	if !r.Implicit {
		e.Log = r.matched()
	}
	return e
}

// matched names the line for the log.
func (r Rule) matched() string {
	return fmt.Sprintf("connection matched %s line %d, method %s", r.File, r.Line, r.Method)
}
