package wirescript

import (
	"crypto/md5"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// startupOptions are the arguments of the command startup.
type startupOptions struct {
	protocol uint32
	password string
	params   []string // name, value, name, value ... as they are sent
	user     string
}

// parseStartup reads KEY=VALUE words over the defaults.
func parseStartup(arg string, password func(user string) string) (startupOptions, error) {
	words, err := splitWords(arg)
	if err != nil {
		return startupOptions{}, err
	}
	o := startupOptions{protocol: 3 << 16}
	defaults := []string{"user", "app", "database", "app"}
	given := map[string]bool{}
	var params []string
	for _, w := range words {
		key, val, ok := strings.Cut(w, "=")
		if !ok {
			return startupOptions{}, fmt.Errorf("read %q: not KEY=VALUE", w)
		}
		given[key] = true
		switch {
		case key == "protocol":
			major, minor, _ := strings.Cut(val, ".")
			ma, err1 := strconv.ParseUint(major, 10, 16)
			mi, err2 := strconv.ParseUint(minor, 10, 16)
			if err := errors.Join(err1, err2); err != nil {
				return startupOptions{}, fmt.Errorf("read protocol: %w", err)
			}
			o.protocol = uint32(ma<<16 | mi)
		case key == "password":
			o.password = val
		case val == "":
		default:
			params = append(params, key, val)
		}
	}
	for i := 0; i < len(defaults); i += 2 {
		if !given[defaults[i]] {
			o.params = append(o.params, defaults[i], defaults[i+1])
		}
	}
	o.params = append(o.params, params...)
	for i := 0; i < len(o.params); i += 2 {
		if o.params[i] == "user" {
			o.user = o.params[i+1]
		}
	}
	if !given["password"] {
		o.password = password(o.user)
	}
	return o, nil
}

// splitWords splits at spaces; a value may be quoted: options="-c a=b".
func splitWords(s string) ([]string, error) {
	var words []string
	for {
		s = strings.TrimLeft(s, " ")
		if s == "" {
			return words, nil
		}
		end := strings.IndexAny(s, ` "`)
		if end < 0 {
			return append(words, s), nil
		}
		if s[end] == ' ' {
			words, s = append(words, s[:end]), s[end:]
			continue
		}
		quoted, err := strconv.QuotedPrefix(s[end:])
		if err != nil {
			return nil, fmt.Errorf("read quoted value: %w", err)
		}
		val, err := strconv.Unquote(quoted)
		if err != nil {
			return nil, fmt.Errorf("read quoted value: %w", err)
		}
		words, s = append(words, s[:end]+val), s[end+len(quoted):]
	}
}

// packet encodes the startup message, parameters in their order.
func (o startupOptions) packet() []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 4), o.protocol)
	for _, p := range o.params {
		b = append(append(b, p...), 0)
	}
	b = append(b, 0)
	binary.BigEndian.PutUint32(b, uint32(len(b)))
	return b
}

// cancelPacket encodes CancelRequest.
func cancelPacket(pid uint32, secret []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(12+len(secret)))
	b = binary.BigEndian.AppendUint32(b, 80877102)
	b = binary.BigEndian.AppendUint32(b, pid)
	return append(b, secret...)
}

// The kinds of Authentication messages.
const (
	authOK           = 0
	authCleartext    = 3
	authMD5          = 5
	authSASL         = 10
	authSASLContinue = 11
	authSASLFinal    = 12
)

// authenticate answers one Authentication message; it keeps the SCRAM exchange
// from one to the next in *x.
func authenticate(body []byte, o startupOptions, x **scram) (answer []byte, err error) {
	if len(body) < 4 {
		return nil, fmt.Errorf("read Authentication: %d bytes", len(body))
	}
	kind, data := binary.BigEndian.Uint32(body), body[4:]
	if (kind == authSASLContinue || kind == authSASLFinal) && *x == nil {
		return nil, errors.New("authenticate: SCRAM goes on before it has begun")
	}
	switch kind {
	case authOK:
		return nil, nil
	case authCleartext:
		return passwordMessage(append([]byte(o.password), 0)), nil
	case authMD5:
		inner := md5.Sum([]byte(o.password + o.user))
		outer := md5.Sum(append([]byte(hex.EncodeToString(inner[:])), data...))
		return passwordMessage(append([]byte("md5"+hex.EncodeToString(outer[:])), 0)), nil
	case authSASL:
		*x = newScram(o.password)
		first := (*x).first()
		b := append([]byte("SCRAM-SHA-256"), 0)
		b = binary.BigEndian.AppendUint32(b, uint32(len(first)))
		return passwordMessage(append(b, first...)), nil
	case authSASLContinue:
		final, err := (*x).final(data)
		if err != nil {
			return nil, err
		}
		return passwordMessage(final), nil
	case authSASLFinal:
		return nil, (*x).verify(data)
	default:
		return nil, fmt.Errorf("authenticate: the server asks for method %d", kind)
	}
}

// passwordMessage frames what all methods answer with.
func passwordMessage(body []byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte{'p'}, uint32(4+len(body)))
	return append(b, body...)
}

// startup runs the command startup or startup-error.
func (r *run) startup(c *conn, arg, wantState string) error {
	o, err := parseStartup(arg, r.Password)
	if err != nil {
		return err
	}
	c.send(o.packet())
	var x *scram
	for {
		typ, body, err := c.read()
		if errors.Is(err, io.EOF) {
			r.transcript.closed(c)
			c.close()
			if wantState == "" {
				r.problem("the server closed the connection during startup")
			}
			return nil
		}
		if err != nil {
			return err
		}
		r.received(c, typ, body)
		switch typ {
		case 'R':
			answer, err := authenticate(body, o, &x)
			if err != nil {
				return err
			}
			if answer != nil {
				c.send(answer)
			}
		case 'E':
			if got := sqlState(body); got != wantState {
				r.problem("error %s at startup, want %q: %s", got, wantState, quote(body))
			}
		case 'Z':
			if wantState != "" {
				r.problem("startup went well, want error %s", wantState)
			}
			return nil
		}
	}
}
