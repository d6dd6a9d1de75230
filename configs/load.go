package configs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/parser"

	"github.com/pgproxy/pgproxy/failover"
	"github.com/pgproxy/pgproxy/lb"
	"github.com/pgproxy/pgproxy/proxy"
)

// File is a configuration file that was read, with the places of its keys.
type File struct {
	Name     string
	Config   *Config // nil when the text is not YAML; where Faults is not empty, not to be used but for finding more
	Faults   Faults
	Warnings Faults

	at map[string]position // of the keys and items that were written, by path
}

// position is a place in the file, both from 1.
type position struct{ line, column int }

// Load reads, completes and checks a file. The error is of type Faults unless the
// file could not be read.
func Load(path string) (*Config, Faults, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read configuration: %w", err)
	}
	f := Parse(path, data)
	if len(f.Faults) > 0 {
		return nil, f.Warnings, f.Faults
	}
	return f.Config, f.Warnings, nil
}

// Parse is Load for a text that was read already. name is the path of the file: the
// start of every message, and where relative paths begin.
func Parse(name string, data []byte) *File {
	f := &File{Name: name, at: make(map[string]position)}
	// Editors of some systems put a byte order mark in front; YAML allows it (5.2).
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	// Duplicate keys are allowed here because the decoder reports them, all at once.
	doc, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		f.Faults = Faults{syntaxFault(name, err)}
		return f
	}
	f.Config = Default()
	d := decoder{file: f, faulty: make(map[string]bool)}
	d.document(doc, f.Config)
	f.resolvePaths()

	v := validator{Config: f.Config, fault: func(path, format string, args ...any) {
		// What could not be read was reported already, and its value is only the default.
		if !d.unread(path) {
			f.AddFault(path, format, args...)
		}
	}}
	v.validate()
	f.warn()
	f.Faults.sort()
	return f
}

// AddFault reports a fault of the key at path, or where the file does not have that
// key, of the nearest one around it.
func (f *File) AddFault(path, format string, args ...any) {
	f.Faults = append(f.Faults, f.faultAt(path, format, args...))
	f.Faults.sort()
}

// AddWarning is AddFault for what may be wrong but need not.
func (f *File) AddWarning(path, format string, args ...any) {
	f.Warnings = append(f.Warnings, f.faultAt(path, format, args...))
	f.Warnings.sort()
}

func (f *File) faultAt(path, format string, args ...any) Fault {
	p := f.position(path)
	return Fault{File: f.Name, Line: p.line, Column: p.column, Path: path, Message: fmt.Sprintf(format, args...)}
}

func (f *File) position(path string) position {
	for ; path != ""; path = parent(path) {
		if p, ok := f.at[path]; ok {
			return p
		}
	}
	return position{1, 1}
}

// parent returns the path of what is around: backends[1].name, backends[1], backends, "".
func parent(path string) string { return path[:max(strings.LastIndexAny(path, ".["), 0)] }

// resolvePaths makes the paths in the file absolute, from the directory of the file.
func (f *File) resolvePaths() {
	base, err := filepath.Abs(filepath.Dir(f.Name))
	if err != nil {
		// The working directory is gone; what is relative stays so and fails when opened.
		return
	}
	for _, p := range f.Config.files() {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(base, *p)
		}
	}
}

// warn tells what the file asks for and this version does not do.
func (f *File) warn() {
	c := f.Config
	if c.Witness() && len(c.VIP) > 0 {
		f.AddWarning("vip", "this member is a witness and never holds an address; the section is ignored")
	}
	if c.Balance.Transactions == lb.TransactionsUntilWrite {
		f.AddWarning("balance.transactions", "this version keeps the reads of a read-write transaction on the primary, as with primary")
	}
	managed := slices.ContainsFunc(c.Backends, func(b proxy.BackendConfig) bool { return b.Agent != "" })
	if c.Watchdog != nil && c.Failover.Mode == failover.ModeManaged && !managed {
		f.AddWarning("failover.mode", "no backend has an agent, so managed behaves as external: a promotion made by others is followed")
	}
	if c.Watchdog != nil && len(c.Watchdog.Members) == 2 {
		f.AddWarning("watchdog.members", "two members stop when either is lost; add a witness")
	}
}

// syntaxFault turns the parser's error, whose text is made for a terminal, into a fault.
func syntaxFault(name string, err error) Fault {
	fault := Fault{File: name, Line: 1, Column: 1, Message: err.Error()}
	var e yaml.Error
	if !errors.As(err, &e) {
		return fault
	}
	fault.Message = e.GetMessage()
	if tk := e.GetToken(); tk != nil && tk.Position != nil {
		fault.Line, fault.Column = tk.Position.Line, tk.Position.Column
	}
	if strings.Contains(fault.Message, "'\t'") {
		fault.Message = "a tab cannot indent; use spaces"
	}
	return fault
}
