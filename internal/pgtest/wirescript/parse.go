package wirescript

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// verb is the kind of a command.
type verb string

// The commands; doc.go says what they do.
const (
	verbStartup      verb = "startup"
	verbStartupError verb = "startup-error"
	verbOpen         verb = "open"
	verbConn         verb = "conn"
	verbSend         verb = "send"
	verbUntil        verb = "until"
	verbQuery        verb = "query"
	verbQueryError   verb = "query-error"
	verbBytes        verb = "bytes"
	verbExpectClose  verb = "expect-close"
	verbExpectRaw    verb = "expect-raw-close"
	verbClose        verb = "close"
	verbCancel       verb = "cancel"
	verbSQL          verb = "sql"
	verbAwait        verb = "await"
	verbCatchup      verb = "catchup"
	verbSetup        verb = "setup"
	verbCleanup      verb = "cleanup"
	verbIgnore       verb = "ignore"
	verbMaskSalt     verb = "mask-salt"
	verbMaskFields   verb = "mask-fields"
)

// blockVerbs take a block; query only when nothing follows on its line.
var blockVerbs = []verb{verbSend, verbSQL, verbAwait, verbSetup, verbCleanup}

// Script is a parsed script.
type Script struct {
	Name       string
	commands   []command
	setup      []string
	cleanup    []string
	ignore     map[string]bool // names of backend messages
	maskSalt   bool
	maskFields string // of errors
}

type command struct {
	line  int
	verb  verb
	arg   string   // the rest of its line
	block []string // lines
}

// Parse reads a script. Errors have the line number.
func Parse(name string, text []byte) (*Script, error) {
	s := &Script{Name: name, ignore: make(map[string]bool)}
	lines := strings.Split(string(text), "\n")
	for i := 0; i < len(lines); i++ {
		line := strings.TrimSpace(lines[i])
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		word, arg, _ := strings.Cut(line, " ")
		c := command{line: i + 1, verb: verb(word), arg: strings.TrimSpace(arg)}
		if slices.Contains(blockVerbs, c.verb) || c.verb == verbQuery && c.arg == "" {
			for i+1 < len(lines) && strings.TrimSpace(lines[i+1]) != "" {
				i++
				if !strings.HasPrefix(lines[i], "#") {
					c.block = append(c.block, lines[i])
				}
			}
		}
		if err := s.add(c); err != nil {
			return nil, fmt.Errorf("parse %s: line %d: %w", name, c.line, err)
		}
	}
	return s, nil
}

// add checks the form of a command and keeps it.
func (s *Script) add(c command) error {
	switch c.verb {
	case verbSetup, verbCleanup, verbSQL, verbAwait, verbSend:
		if len(c.block) == 0 || c.arg != "" {
			return fmt.Errorf("%s needs a block and nothing on its own line", c.verb)
		}
	case verbQuery:
		if c.arg == "" && len(c.block) == 0 {
			return fmt.Errorf("%s needs SQL", c.verb)
		}
	case verbUntil, verbConn, verbCancel, verbStartupError:
		if c.arg == "" {
			return fmt.Errorf("%s needs an argument", c.verb)
		}
	case verbBytes:
		if _, err := strconv.Atoi(c.arg); err != nil {
			return fmt.Errorf("%s needs a number: %w", c.verb, err)
		}
	case verbQueryError, verbIgnore, verbMaskFields:
		if !strings.Contains(c.arg, " ") {
			return fmt.Errorf("%s needs two arguments", c.verb)
		}
	case verbMaskSalt:
		if c.arg == "" {
			return fmt.Errorf("%s needs a reason", c.verb)
		}
	case verbOpen, verbExpectClose, verbExpectRaw, verbClose, verbCatchup:
		if c.arg != "" {
			return fmt.Errorf("%s takes no argument", c.verb)
		}
	case verbStartup:
	default:
		return fmt.Errorf("unknown command %q", c.verb)
	}
	switch c.verb {
	case verbSetup:
		s.setup = append(s.setup, strings.Join(c.block, "\n"))
	case verbCleanup:
		s.cleanup = append(s.cleanup, strings.Join(c.block, "\n"))
	case verbIgnore:
		name, _, _ := strings.Cut(c.arg, " ")
		if name != bytesName && !slices.Contains(backendNames(), name) {
			return fmt.Errorf("unknown message %q", name)
		}
		s.ignore[name] = true
	case verbMaskSalt:
		s.maskSalt = true
	case verbMaskFields:
		s.maskFields, _, _ = strings.Cut(c.arg, " ")
	case verbUntil:
		if _, err := parseExpectations(c.arg); err != nil {
			return err
		}
		s.commands = append(s.commands, c)
	default:
		s.commands = append(s.commands, c)
	}
	return nil
}

// expectation is one word of until.
type expectation struct {
	name  string
	state string // SQLSTATE, only of ErrorResponse; empty: any
}

func parseExpectations(arg string) ([]expectation, error) {
	var all []expectation
	for word := range strings.FieldsSeq(arg) {
		word, times, repeated := strings.Cut(word, "*")
		n := 1
		if repeated {
			var err error
			if n, err = strconv.Atoi(times); err != nil {
				return nil, fmt.Errorf("read the number of repetitions: %w", err)
			}
		}
		name, state, _ := strings.Cut(word, "/")
		if !slices.Contains(backendNames(), name) {
			return nil, fmt.Errorf("unknown message %q", name)
		}
		for range n {
			all = append(all, expectation{name: name, state: state})
		}
	}
	return all, nil
}
