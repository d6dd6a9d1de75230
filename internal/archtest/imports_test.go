package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	module = "github.com/pgproxy/pgproxy"
	root   = "../.." // of the module, seen from this package
)

// imports says which packages of the module the code of a folder may import. A
// folder that is not listed is governed by the nearest listed one above it, and a
// rule that ends in "/..." covers the folders below. Imports point downward, and
// siblings never meet: they are joined in cmd/pgproxy through interfaces that the
// one who uses them declares.
var imports = map[string]struct {
	may []string
	why string
}{
	"internal/cluster":     {nil, "the nouns that everybody shares can know nobody"},
	"internal/pgwire":      {nil, "framing is below everything that has a meaning"},
	"internal/archtest":    {nil, "it reads the others as text"},
	"internal/pgtest":      {[]string{"internal/pgwire", "internal/pgtest/..."}, "servers for tests must not depend on what they test"},
	"lb":                   {[]string{"internal/cluster"}, "a verdict depends on the text and on snapshots only"},
	"health":               {[]string{"internal/cluster", "internal/pgwire"}, "probers observe; who decides by it is joined in cmd/pgproxy"},
	"failover":             {[]string{"internal/cluster", "internal/pgwire"}, "siblings meet in cmd/pgproxy"},
	"proxy":                {[]string{"internal/cluster", "internal/pgwire", "lb", "proxy/..."}, "the data path knows the classifier and itself; health and failover are interfaces of its own"},
	"proxy/auth":           {nil, "authentication is rules and arithmetic; the wire and the servers are proxy's"},
	"proxy/session":        {[]string{"internal/cluster", "internal/pgwire", "lb"}, "the session core is driven by proxy, never the other way round"},
	"internal/identity":    {nil, "certificates are made of the secret and nothing else"},
	"internal/nettest":     {nil, "hosts for tests must not depend on what they test"},
	"internal/nettest/rig": {[]string{"internal/nettest", "internal/pgtest"}, "what it runs is the built program, as users run it"},
	"watchdog":             {[]string{"internal/cluster", "internal/identity", "watchdog/lease"}, "siblings meet in cmd/pgproxy"},
	"watchdog/lease":       {[]string{"internal/cluster"}, "leases are arithmetic on instants that are handed in"},
	"watchdog/vip":         {[]string{"internal/cluster"}, "it holds the addresses that it is told to hold"},
	"failover/agent":       {[]string{"internal/cluster", "internal/pgwire"}, "it controls one server by what the state says; who leads is not its business"},
	"pcp":                  {[]string{"internal/cluster", "internal/identity"}, "the operator's API; what it serves are interfaces of its own"},
	"cmd/pgproxy-pcp":      {[]string{"pcp"}, "the command line is a client like any other"},
	"configs":              {[]string{"internal/cluster", "lb", "health", "failover", "failover/agent", "watchdog", "watchdog/vip", "pcp", "proxy", "proxy/auth"}, "the tree is made of the parts' own Config types"},
	"cmd/pgproxy":          {[]string{"configs", "internal/cluster", "internal/pgwire", "internal/pgtest", "internal/nettest/...", "internal/identity", "lb", "health", "failover", "failover/agent", "watchdog", "watchdog/vip", "pcp", "proxy/..."}, "the only place that knows every part"},
	"bench":                {[]string{"internal/pgtest"}, "what is measured is run as a user runs it: as a program"},
	"test":                 {[]string{"..."}, "whole-program tests may know everything"},
}

// testImports may be imported by every _test.go file besides what its package may.
var testImports = []string{"internal/pgtest/...", "internal/pgwire", "internal/nettest"}

// pure says which files do no I/O, read no clock and start no goroutine. What they
// know of the world is handed in; so scripts and fuzzing can drive them.
var pure = map[string]string{
	"internal/cluster/*.go":   "Apply must give every member the same state",
	"internal/pgwire/*.go":    "framing is driven by both drivers and by fuzzing",
	"lb/*.go":                 "the same statement and snapshot must give the same verdict",
	"proxy/session/*.go":      "the session core never blocks; drivers move its bytes",
	"failover/decide*.go":     "a decision must be repeatable from its inputs",
	"failover/decide/*.go":    "a decision must be repeatable from its inputs",
	"failover/agent/next*.go": "what an agent does next must be repeatable from what it sees",
	"watchdog/lease/*.go":     "the simulation gives it the instants",
	"proxy/auth/scram*.go":    "the exchange is arithmetic on what the peer sent",
}

// impure are imports that no pure file has; net/netip and log/slog only describe.
var impure = []string{
	"net", "net/http", "os", "os/exec", "os/signal", "syscall", "io/ioutil", "log",
	"database/sql", "math/rand", "math/rand/v2", "testing/synctest",
}

// clocks are the functions of package time that read or wait for the clock.
var clocks = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}

type source struct {
	name string // slash-separated, relative to the module's root
	dir  string
	test bool
	fset *token.FileSet
	ast  *ast.File
}

// position of n for a message: file and line from the module's root.
func (s *source) position(n ast.Node) string {
	return s.name + ":" + strconv.Itoa(s.fset.Position(n.Pos()).Line)
}

// sources parses every Go file of the module whatever its build constraints;
// modules of their own below it (tools, test-only cgo) have other rules.
func sources(t *testing.T) []*source {
	t.Helper()
	var all []*source
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if entry.IsDir() {
			if base := entry.Name(); rel != "." && (base[0] == '.' || base[0] == '_' || base == "testdata" || base == "node_modules") {
				return fs.SkipDir
			}
			if matches, _ := filepath.Glob(filepath.Join(name, "go.mod")); rel != "." && len(matches) > 0 {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(rel, ".go") {
			return nil
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		all = append(all, &source{
			name: rel, dir: path.Dir(rel), test: strings.HasSuffix(rel, "_test.go"), fset: fset, ast: file,
		})
		return nil
	})
	if err != nil {
		t.Fatalf("read the module's sources: %v", err)
	}
	if len(all) == 0 {
		t.Fatal("read the module's sources: none found")
	}
	return all
}

// covers tells whether a rule names the package: itself, or by "/..." one below.
func covers(rule, pkg string) bool {
	prefix, tree := strings.CutSuffix(rule, "...")
	if !tree {
		return rule == pkg
	}
	return pkg == strings.TrimSuffix(prefix, "/") || strings.HasPrefix(pkg, prefix)
}

func TestImportsPointDownward(t *testing.T) {
	for _, s := range sources(t) {
		dir := s.dir
		for dir != "." && imports[dir].why == "" {
			dir = path.Dir(dir)
		}
		rule, known := imports[dir]
		if !known {
			t.Errorf("%s: the table of imports says nothing about this folder", s.name)
			continue
		}
		may := rule.may
		if s.test {
			may = slices.Concat(may, testImports)
		}
		for _, spec := range s.ast.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatalf("%s: %v", s.position(spec), err)
			}
			pkg, ours := strings.CutPrefix(imported, module+"/")
			if !ours || pkg == s.dir || slices.ContainsFunc(may, func(r string) bool { return covers(r, pkg) }) {
				continue
			}
			t.Errorf("%s: %s may not import %s: %s", s.position(spec), s.dir, pkg, rule.why)
		}
	}
}

func TestPureCoreStaysPure(t *testing.T) {
	for _, s := range sources(t) {
		why := pureBecause(t, s)
		if why == "" {
			continue
		}
		for _, spec := range s.ast.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatalf("%s: %v", s.position(spec), err)
			}
			if slices.Contains(impure, imported) {
				t.Errorf("%s: no %s here: %s", s.position(spec), imported, why)
			}
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				t.Errorf("%s: no goroutine here: %s", s.position(n), why)
			case *ast.SelectorExpr:
				if pkg, ok := n.X.(*ast.Ident); ok && pkg.Name == "time" && slices.Contains(clocks, n.Sel.Name) {
					t.Errorf("%s: no clock here (time.%s): %s", s.position(n), n.Sel.Name, why)
				}
			}
			return true
		})
	}
}

// pureBecause returns the reason why the file must be pure, "" when it need not be.
func pureBecause(t *testing.T, s *source) string {
	t.Helper()
	if s.test {
		return ""
	}
	for pattern, why := range pure {
		ok, err := path.Match(pattern, s.name)
		if err != nil {
			t.Fatalf("pattern %q: %v", pattern, err)
		}
		if ok {
			return why
		}
	}
	return ""
}

// The demo uses the clusters of internal/pgtest, so the released program links
// them; package testing and what hangs on it must not come along.
func TestReleasedProgramDoesNotLinkTesting(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || strings.HasPrefix(s.dir, "test/") || s.dir == "test" {
			continue
		}
		for _, spec := range s.ast.Imports {
			if spec.Path.Value == `"testing"` {
				t.Errorf("%s: package testing in code that pgproxy demo links", s.position(spec))
			}
		}
	}
}
