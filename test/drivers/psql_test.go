package drivers

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// differs is what two runs of the psql script may print differently.
var differs = regexp.MustCompile(`server process with PID \d+|lo_import \d+`)

// testPsql runs a session of psql's own commands, directly and through the target,
// and compares all that it prints.
func testPsql(t *testing.T, to target) {
	direct := to
	direct.port = to.cluster.Primary().Port
	want, got := psqlSession(t, direct), psqlSession(t, to)
	if got == want {
		return
	}
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	i := 0
	for i < len(g) && i < len(w) && g[i] == w[i] {
		i++
	}
	const context = 10
	t.Errorf("psql prints otherwise from line %d; directly:\n%s\nthrough the target:\n%s", i+1,
		strings.Join(w[i:min(i+context, len(w))], "\n"), strings.Join(g[i:min(i+context, len(g))], "\n"))
}

func psqlSession(t *testing.T, to target) string {
	t.Helper()
	script, err := filepath.Abs("testdata/psql.sql")
	must(t, err)
	cmd := to.command(t, nil, to.tool("psql"), "-X", "-q", "--file="+script)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("psql: %v\n%s", err, tail(out))
	}
	if !strings.Contains(string(out), "the script has come to its end") {
		t.Fatalf("psql has not run all of the script:\n%s", tail(out))
	}
	return differs.ReplaceAllString(string(out), "(differs)")
}
