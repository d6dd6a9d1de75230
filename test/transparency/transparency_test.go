package transparency

import (
	"strconv"
	"testing"
	"time"

	"github.com/pgproxy/pgproxy/internal/pgtest/wirescript"
	"github.com/pgproxy/pgproxy/test/proxytest"
)

// raisedByProxy are the SQLSTATEs of errors that pgproxy may have to raise itself
// as PostgreSQL would: they have PostgreSQL's text, but no file, line and routine
// (docs/transparency.md, "Errors of pgproxy's own").
var raisedByProxy = map[string]bool{
	"28P01": true, "28000": true, "3D000": true, "08P01": true,
	"25P02": true, "26000": true, "34000": true, "42P05": true,
	"0A000": true, // a prepared statement whose result has changed, in transaction mode
}

// bySession are the scripts that show what docs/transparency.md says of transaction
// mode, and why they cannot be the same.
var bySession = map[string]string{
	"backend-pid":                   "the session has no server process of its own",
	"reads-only-primary-can-answer": "the session has no server process of its own",
	"terminate-by-another":          "the session has no server process of its own",
	"listen-notify-other":           "the process id of a notification is the server's",
	"prepare-and-protocol":          "pg_prepared_statements shows what the server has",
	"prepare-execute":               "pg_prepared_statements shows what the server has",
	"transaction-failed-extended":   "25P02 comes from another place of the server",
	"state-sequences":               "currval is answered by the connection of the last statement that may have written",
	"extended-plan-invalidated":     "a statement whose result has changed is prepared again",
}

// undisturbed are the scripts in transaction mode between whose messages nobody else may
// use the connections, and why.
var undisturbed = map[string]string{
	"many-connections":             usesLast,
	"read-only-nextval":            usesLast,
	"session-random":               usesLast,
	"simple-select-into-and-locks": usesLast,
}

const usesLast = "currval and lastval are 55000 once another session has used the connection"

// TestTransparency runs every script against PostgreSQL and through pgproxy; all
// bytes of the answers must be equal but for what docs/transparency.md lists. In
// transaction mode other clients use the same few connections between any two messages,
// unless the session is alone and so meets its last connection again.
func TestTransparency(t *testing.T) {
	all := scripts(t)
	binary := proxytest.Build(t)
	env := startCluster(t)
	direct := env.runner(env.cluster.Primary().Address())
	if err := env.Exec(t.Context(), disturbed); err != nil {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	for _, mode := range []struct {
		name, balance, pool string
		disturbed           bool
	}{
		{"off", "off", "session", false},
		{"balanced", "statement", "session", false},
		{"transaction", "off", "transaction", true},
		{"transaction balanced", "statement", "transaction", true},
		{"transaction alone", "off", "transaction", false},
	} {
		t.Run(mode.name, func(t *testing.T) {
			proxy := proxytest.StartWith(t, binary, env.cluster, proxytest.Options{
				Balance:  "mode: " + mode.balance,
				Sections: "pool: {mode: " + mode.pool + ", size: 3, wait: 15s}\n",
			})
			through := env.runner(proxy.Address())
			var others *disturber
			if mode.disturbed {
				others = newDisturber(t, proxy, seed)
			}
			ran := 0
			for _, s := range all {
				if mode.pool == "transaction" && bySession[s.Name] != "" {
					continue
				}
				t.Run(s.Name, func(t *testing.T) {
					ran++
					if through.Between = nil; others != nil && undisturbed[s.Name] == "" {
						through.Between = others.disturb
					}
					want := mustRun(t, direct, s)
					got, err := through.Run(t.Context(), s)
					if diff := wirescript.Compare(want, got, wirescript.Differences{Own: raisedByProxy}); diff != "" {
						t.Error(diff)
					}
					if err != nil {
						t.Error(err)
					}
				})
			}
			if mode.balance != "off" && ran >= len(all)-len(bySession) { // -run may have chosen a few
				assertBalanced(t, proxy)
			}
		})
	}
}

// assertBalanced shows that the scripts did reach the standbys: without that the
// test would say nothing about balancing.
func assertBalanced(t *testing.T, p *proxytest.Proxy) {
	t.Helper()
	nodes, err := p.Nodes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		reads, err := strconv.Atoi(n["select_cnt"])
		if err != nil {
			t.Fatalf("node %s: read select_cnt: %v", n["node_id"], err)
		}
		if n["role"] == "standby" && reads == 0 {
			t.Errorf("standby %s answered no read: %v", n["node_id"], nodes)
		}
	}
}
