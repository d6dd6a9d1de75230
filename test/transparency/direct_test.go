package transparency

import (
	"testing"

	"github.com/pgproxy/pgproxy/internal/pgtest/wirescript"
)

// minScripts keeps scripts from being lost.
const minScripts = 160

// TestWireDirect runs every script twice against PostgreSQL itself. What differs
// here, or is an error that the script does not name, is a fault of the script.
func TestWireDirect(t *testing.T) {
	all := scripts(t)
	if len(all) < minScripts {
		t.Errorf("%d scripts, want at least %d", len(all), minScripts)
	}
	env := startCluster(t)
	r := env.runner(env.cluster.Primary().Address())
	for _, s := range all {
		t.Run(s.Name, func(t *testing.T) {
			first := mustRun(t, r, s)
			for _, p := range first.Problems {
				t.Error(p)
			}
			if testing.Verbose() || t.Failed() {
				t.Logf("transcript:\n%s", first)
			}
			if diff := wirescript.Compare(first, mustRun(t, r, s), wirescript.Differences{}); diff != "" {
				t.Errorf("two runs against the same server differ: %s", diff)
			}
		})
	}
}
