package failover

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgproxy/pgproxy/internal/nettest/rig"
)

// TestReloadOfThreeMembers: a changed list of backends counts when the files of all
// members say the same, without a restart and under a session that goes on.
func TestReloadOfThreeMembers(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	in := start(ctx, t, rig.Options{})
	conn, err := pgx.ConnectConfig(ctx, in.ClientConfig(in.VIP, rig.ProxyPort, 10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	weights := func() string {
		t.Helper()
		results, err := conn.PgConn().Exec(ctx, "SHOW pool_nodes").ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, row := range results[0].Rows {
			all = append(all, string(row[5]))
		}
		return strings.Join(all, " ")
	}
	until := func(what string, so func() bool) {
		t.Helper()
		for !so() {
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
				t.Fatalf("not in time: %s", what)
			}
		}
	}
	const equal, changed = "0.333333 0.333333 0.333333", "0.400000 0.400000 0.200000"
	if got := weights(); got != equal {
		t.Fatalf("weights %s", got)
	}
	for i, h := range in.Hosts {
		data, err := os.ReadFile(h.Config)
		if err != nil {
			t.Fatal(err)
		}
		text := string(data)
		for _, s := range in.Servers()[:2] {
			old := fmt.Sprintf("{name: %s, address: \"%s:%d\", weight: 1,", s.Name, s.IP, rig.ServerPort)
			if !strings.Contains(text, old) {
				t.Fatalf("no %s in the file", old)
			}
			text = strings.Replace(text, old, strings.Replace(old, "weight: 1", "weight: 2", 1), 1)
		}
		if err := os.WriteFile(h.Config, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		until("the file of "+h.Name+" is taken", func() bool {
			log, err := os.ReadFile(h.MemberLog)
			return err == nil && strings.Contains(string(log), `msg="configuration reloaded"`)
		})
		if got := weights(); i < len(in.Hosts)-1 && got != equal {
			t.Errorf("weights %s while only %d members have them", got, i+1)
		}
	}
	until("the weights count", func() bool { return weights() == changed })
}
