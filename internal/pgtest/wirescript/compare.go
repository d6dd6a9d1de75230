package wirescript

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
)

// What may differ between two runs of a script is declared here and nowhere else:
//
//  1. BackendKeyData: process id and secret key. (Their length may not.)
//  2. SCRAM: the server's nonce and the signature, which the client has checked;
//     md5: the salt.
//  3. NotificationResponse: the process id, replaced by the connection that was
//     told this id at its startup.
//  4. ErrorResponse: the source position (fields F, L, R) may be missing where
//     Differences.Own has the SQLSTATE: errors that a proxy must raise itself.
//  5. NegotiateProtocolVersion: the newest version that the server supports.
//  6. What the script itself names, with its reason: ignore, mask-salt, mask-fields.

// Differences says which differences are expected beyond those that two runs
// against the same server have.
type Differences struct {
	Own map[string]bool // SQLSTATEs of errors that the server under test raises itself
}

// own tells whether e is an error that the server under test may raise itself.
func (d Differences) own(e event) bool {
	return e.kind == eventMessage && e.typ == 'E' && d.Own[sqlState(e.body)]
}

// Compare returns how got differs from want, or "" if it does not: the first
// difference with what came before it.
func Compare(want, got *Transcript, d Differences) string {
	w, g := want.visible(), got.visible()
	for i := range max(len(w), len(g)) {
		if i < len(w) && i < len(g) && w[i].conn == g[i].conn && w[i].kind == g[i].kind && w[i].typ == g[i].typ {
			x, y := want.canonical(w[i]), got.canonical(g[i])
			if bytes.Equal(x, y) || d.own(w[i]) && bytes.Equal(withoutFields(x, "FLR"), y) {
				continue
			}
		}
		var b strings.Builder
		fmt.Fprintf(&b, "%s: message %d differs", want.script.Name, i+1)
		if i < len(w) {
			fmt.Fprintf(&b, " (line %d)", w[i].line)
		}
		b.WriteString("\n")
		for _, e := range w[max(0, i-3):min(i, len(w))] {
			fmt.Fprintf(&b, "  both  %s\n", clip(e.String()))
		}
		fmt.Fprintf(&b, "  want  %s\n  got   %s\n", at(w, i), at(g, i))
		if i < len(w) && i < len(g) {
			x, y := want.canonical(w[i]), got.canonical(g[i])
			n := 0
			for n < len(x) && n < len(y) && x[n] == y[n] {
				n++
			}
			fmt.Fprintf(&b, "  first different byte: %d of %d and %d", n, len(x), len(y))
		}
		return b.String()
	}
	return ""
}

// clip shortens a line of context.
func clip(s string) string {
	const most = 300
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}

func at(events []event, i int) string {
	if i >= len(events) {
		return "(nothing more)"
	}
	return clip(events[i].String())
}

// visible returns the events but those that the script ignores.
func (t *Transcript) visible() []event {
	var out []event
	for _, e := range t.events {
		if !t.script.ignore[e.name()] {
			out = append(out, e)
		}
	}
	return out
}

// canonical returns the bytes of an event without what may differ.
func (t *Transcript) canonical(e event) []byte {
	if e.kind != eventMessage {
		return e.body
	}
	switch e.typ {
	case 'K':
		return make([]byte, len(e.body))
	case 'R':
		return t.canonicalAuth(e.body)
	case 'A':
		if len(e.body) < 4 {
			return e.body
		}
		pid := binary.BigEndian.Uint32(e.body)
		return append([]byte("pid of "+t.pids[pid]+" "), e.body[4:]...)
	case 'v':
		if len(e.body) >= 4 {
			return e.body[4:]
		}
	case 'E':
		return withoutFields(e.body, t.script.maskFields)
	}
	return e.body
}

func (t *Transcript) canonicalAuth(body []byte) []byte {
	if len(body) < 4 {
		return body
	}
	switch binary.BigEndian.Uint32(body) {
	case authSASLContinue: // r=nonce,s=salt,i=iterations
		parts := strings.Split(string(body[4:]), ",")
		for i, p := range parts {
			if strings.HasPrefix(p, "r=") || t.script.maskSalt && strings.HasPrefix(p, "s=") {
				parts[i] = p[:2]
			}
		}
		return append(body[:4:4], strings.Join(parts, ",")...)
	case authSASLFinal:
		return body[:4]
	case authMD5:
		return body[:4]
	}
	return body
}

// errorField returns a field of ErrorResponse or NoticeResponse.
func errorField(body []byte, field byte) string {
	for f := range bytes.SplitSeq(body, []byte{0}) {
		if len(f) > 0 && f[0] == field {
			return string(f[1:])
		}
	}
	return ""
}

func sqlState(body []byte) string { return errorField(body, 'C') }

// withoutFields drops fields of ErrorResponse.
func withoutFields(body []byte, fields string) []byte {
	var out [][]byte
	for f := range bytes.SplitSeq(body, []byte{0}) {
		if len(f) > 0 && strings.IndexByte(fields, f[0]) >= 0 {
			continue
		}
		out = append(out, f)
	}
	return bytes.Join(out, []byte{0})
}
