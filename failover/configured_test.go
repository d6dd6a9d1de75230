package failover

import (
	"slices"
	"testing"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// TestConfigured: the files of the members count when all that are there agree.
func TestConfigured(t *testing.T) {
	const vip = "10.0.0.9/24"
	old := []cluster.Spec{{Name: "h1", Address: "h1:5432"}}
	changed := []cluster.Spec{{Name: "h1", Address: "h1:5432", Weight: 5}}
	agreed := applyAll(t, cluster.State{}, []cluster.Command{{Kind: cluster.KindConfigure, Backends: old, Addresses: []string{vip}}})

	file := func(config string, addresses ...string) cluster.Report {
		r := cluster.Report{Config: config}
		for _, a := range addresses {
			r.Links = append(r.Links, cluster.Link{Address: a})
		}
		return r
	}
	witness := func(config string) cluster.Report { return cluster.Report{Config: config, Witness: true} }
	for _, tt := range []struct {
		name      string
		state     cluster.State
		reports   map[string]cluster.Report // m1 leads
		weight    int                       // of h1 afterwards
		addresses []string
	}{
		{"the first list is the leader's", cluster.State{}, map[string]cluster.Report{"m1": file("new", vip)}, 5, nil},
		{"and the addresses when all have come", cluster.State{}, map[string]cluster.Report{"m1": file("new", vip), "m2": file("new", vip), "m3": witness("new")}, 5, []string{vip}},
		{"one has the new file", agreed, map[string]cluster.Report{"m1": file("new", vip), "m2": file("old", vip), "m3": file("old", vip)}, 0, []string{vip}},
		{"all have it", agreed, map[string]cluster.Report{"m1": file("new"), "m2": file("new"), "m3": file("new")}, 5, nil},
		{"a witness leads and names no address", agreed, map[string]cluster.Report{"m1": witness("new"), "m2": file("new", vip), "m3": file("new", vip)}, 5, []string{vip}},
		{"one names another address", agreed, map[string]cluster.Report{"m1": file("new"), "m2": file("new", vip), "m3": file("new")}, 5, []string{vip}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := Input{
				Now: testStart, Since: testStart.Add(-100 * time.Millisecond), Self: "m1", Voters: []string{"m1", "m2", "m3"},
				State: &tt.state, Backends: changed, Reports: map[string]cluster.Reported{},
			}
			for name, r := range tt.reports {
				r.Member = name
				in.Reports[name] = cluster.Reported{Report: r, At: testStart}
			}
			s := applyAll(t, tt.state, Decide(in).Commands)
			var addresses []string
			for _, a := range s.Addresses {
				addresses = append(addresses, a.Address)
			}
			if s.Backends[0].Weight != tt.weight || !slices.Equal(addresses, tt.addresses) {
				t.Errorf("weight %d, addresses %v; want %d, %v", s.Backends[0].Weight, addresses, tt.weight, tt.addresses)
			}
		})
	}
}
