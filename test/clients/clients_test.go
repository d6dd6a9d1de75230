package clients

import (
	"strings"
	"testing"
	"time"

	"github.com/pgproxy/pgproxy/test/failover/installation"
)

// A handful of clients of each kind, in both pool modes, through a failover and a
// switchover each.
func TestClientsNoticeNothing(t *testing.T) {
	programs, err := installation.Build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, pool := range []string{"session", "transaction"} {
		t.Run(pool, func(t *testing.T) {
			res, err := Run(t.Context(), Options{
				Target: Pgproxy, Programs: programs, Clients: 20, Pace: 100 * time.Millisecond,
				Failovers: 1, Switchovers: 1, Pool: pool, PoolSize: 8, Patient: true, Log: t.Logf,
			})
			if err != nil {
				t.Fatal(err)
			}
			var table strings.Builder
			Print(&table, []*Result{res})
			t.Log("\n" + table.String())
			for _, v := range res.Violations {
				t.Error(v)
			}
			if res.Tallies[failover].Listeners == 0 {
				t.Error("no listener was told that it may have missed something at the failover")
			}
			if res.Acked == 0 {
				t.Error("nothing was written")
			}
		})
	}
}
