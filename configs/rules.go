package configs

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// maxSocketPath is the longest path of a Unix socket, in bytes: sun_path of Linux
// without its final zero (unix(7)). BSD's is four less.
const maxSocketPath = 107

// oneOf checks an enumeration.
func oneOf[T ~string](v validator, path string, got T, allowed ...T) {
	words := make([]string, len(allowed))
	for i, a := range allowed {
		if got == a {
			return
		}
		words[i] = string(a)
	}
	v.fault(path, "want %s, got %q", strings.Join(words, " | "), got)
}

func (v validator) between(path string, got, least, most int) {
	if got < least || got > most {
		v.fault(path, "want %d to %d, got %d", least, most, got)
	}
}

func (v validator) duration(path string, got, least, most time.Duration) {
	if got < least || got > most {
		v.fault(path, "want %s to %s, got %s", short(least), short(most), short(got))
	}
}

// short writes 1h where Duration.String writes 1h0m0s.
func short(d time.Duration) string {
	if d == 0 {
		return "0"
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// unique reports that an earlier item has this value. seen holds the items' paths.
func (v validator) unique(path, value string, seen map[string]string) {
	if value == "" {
		return
	}
	if first, again := seen[value]; again {
		v.fault(path, "%q is that of %s already", value, first)
		return
	}
	seen[value] = parent(path)
}

func (v validator) uniqueName(path, name string, seen map[string]string) {
	switch {
	case name == "":
		v.fault(path, "missing")
	case !nameRule.MatchString(name):
		v.fault(path, "want at most 63 letters, digits, dots, dashes and underscores, got %q", name)
	default:
		v.unique(path, name, seen)
	}
}

func (v validator) function(path, name string) {
	if name == "" || strings.ContainsAny(name, ".() \t\n") {
		v.fault(path, "want the name of a function without schema and arguments, got %q", name)
	}
}

func (v validator) pattern(path, pattern string) {
	if _, err := regexp.Compile(pattern); err != nil {
		v.fault(path, "%s", strings.TrimPrefix(err.Error(), "error parsing regexp: "))
	}
}

func (v validator) keyPair(path, cert, key string) {
	switch {
	case cert != "" && key == "":
		v.fault(path+".cert_file", "needs key_file")
	case cert == "" && key != "":
		v.fault(path+".key_file", "needs cert_file")
	}
}

func (v validator) socketPath(path, socket string) {
	if len(socket) > maxSocketPath {
		v.fault(path, "the path of the socket is longer than %d bytes: %s", maxSocketPath, socket)
	}
}

func (v validator) requiredListener(path, address string) {
	if address == "" {
		v.fault(path, "missing")
		return
	}
	v.optionalListener(path, address)
}

// optionalListener takes the host * (all addresses of this host) and port 0 (the
// system chooses one).
func (v validator) optionalListener(path, address string) {
	if address == "" {
		return
	}
	if strings.HasPrefix(address, ":") {
		v.fault(path, "want host:port, got %q; all addresses are *%s", address, address)
		return
	}
	if port, all := strings.CutPrefix(address, "*:"); all {
		address = "localhost:" + port
	}
	if err := checkHostPort(address, 0); err != nil {
		v.fault(path, "%v", err)
	}
}

// checkServer checks the address of a PostgreSQL server: host:port, or a directory
// with its Unix socket followed by :port.
func checkServer(address string) error {
	if !strings.HasPrefix(address, "/") {
		return checkHostPort(address, 1)
	}
	i := strings.LastIndexByte(address, ':')
	if i < 0 {
		return fmt.Errorf("want a socket directory followed by :port such as /run/postgresql:5432, got %q", address)
	}
	dir, port := address[:i], address[i+1:]
	if err := checkPort(port, 1); err != nil {
		return err
	}
	if socket := dir + "/.s.PGSQL." + port; len(socket) > maxSocketPath {
		return fmt.Errorf("the path of the socket is longer than %d bytes: %s", maxSocketPath, socket)
	}
	return nil
}

// checkHostPort checks host:port, where host is a name, an IPv4 address or an IPv6
// address in brackets.
func checkHostPort(address string, leastPort int) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		reason := err.Error()
		var addr *net.AddrError
		if errors.As(err, &addr) {
			reason = addr.Err
		}
		if strings.Contains(address, "::") && !strings.Contains(address, "[") {
			reason = "an IPv6 address goes in brackets"
		}
		return fmt.Errorf("want host:port, got %q: %s", address, reason)
	}
	if host == "" || strings.ContainsAny(host, " \t\r\n/*\"'") {
		return fmt.Errorf("want host:port, got %q: %q is not a host", address, host)
	}
	return checkPort(port, leastPort)
}

func checkPort(port string, least int) error {
	n, err := strconv.Atoi(port)
	if err != nil || n < least || n > 65535 || strconv.Itoa(n) != port {
		return fmt.Errorf("want a port from %d to 65535, got %q", least, port)
	}
	return nil
}
