package lb

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

func TestWheelSplitsExactlyByWeight(t *testing.T) {
	var w Wheel
	candidates := []Candidate{
		{Name: "h2", Weight: 1, Usable: true},
		{Name: "h3", Weight: 3, Usable: true},
		{Name: "h4", Weight: 0, Usable: true},
		{Name: "h5", Weight: 9},
	}
	var order []string
	for range 8 {
		order = append(order, candidates[w.Next(candidates)].Name)
	}
	if got, want := strings.Join(order, " "), "h2 h3 h3 h3 h2 h3 h3 h3"; got != want {
		t.Errorf("order %s, want %s", got, want)
	}
}

func TestWheelWithoutCandidates(t *testing.T) {
	var w Wheel
	if i := w.Next(nil); i != -1 {
		t.Errorf("no candidates: %d, want -1", i)
	}
	if i := w.Next([]Candidate{{Name: "h2", Weight: 1}, {Name: "h3", Usable: true}}); i != -1 {
		t.Errorf("none usable with a weight: %d, want -1", i)
	}
}

// In any run as long as the sum of the weights every backend has its share exactly, and
// on the way none is far from it.
func TestWheelIsFair(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		weights := rapid.SliceOfN(rapid.IntRange(0, 20), 1, 6).Draw(t, "weights")
		var w Wheel
		var candidates []Candidate
		total := 0
		for i, weight := range weights {
			candidates = append(candidates, Candidate{Name: string(rune('a' + i)), Weight: weight, Usable: true})
			total += weight
		}
		if total == 0 {
			return
		}
		for range rapid.IntRange(0, 1000).Draw(t, "turns before") {
			w.Next(candidates)
		}
		got := make([]int, len(weights))
		for n := 1; n <= 3*total; n++ {
			got[w.Next(candidates)]++
			for i, weight := range weights {
				want := float64(n) * float64(weight) / float64(total)
				if off := math.Abs(float64(got[i]) - want); off > 6 || n%total == 0 && off != 0 {
					t.Fatalf("weights %v: choices %v after %d", weights, got, n)
				}
			}
		}
	})
}

func TestTurnDiffusesTheError(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		primary := rapid.IntRange(0, 1_000_000).Draw(t, "primary")
		standbys := rapid.IntRange(0, 1_000_000).Draw(t, "standbys")
		turn := NewTurn(rapid.Uint64().Draw(t, "session"))
		n, hits := rapid.IntRange(1, 5000).Draw(t, "reads"), 0
		for range n {
			if turn.Primary(primary, standbys) {
				hits++
			}
		}
		switch {
		case standbys == 0 && hits != n:
			t.Fatalf("no standby: %d of %d to the primary", hits, n)
		case standbys > 0 && primary == 0 && hits != 0:
			t.Fatalf("primary of weight 0 got %d", hits)
		case standbys > 0:
			want := float64(n) * float64(primary) / float64(primary+standbys)
			if math.Abs(float64(hits)-want) > 1.001 {
				t.Fatalf("%d of %d to the primary, want %.2f", hits, n, want)
			}
		}
	})
}

func TestTurnsOfSessionsAreSpread(t *testing.T) {
	// The first reads of sessions that start together: a third of them, not all.
	hits := 0
	for session := range uint64(300) {
		turn := NewTurn(session)
		if turn.Primary(1, 2) {
			hits++
		}
	}
	if hits < 95 || hits > 105 {
		t.Errorf("%d of 300 first reads to the primary, want about 100", hits)
	}
}

func TestUsableStandbys(t *testing.T) {
	backend := func(name string, change func(*cluster.Backend)) cluster.Backend {
		b := cluster.Backend{Name: name, Weight: 2, Status: cluster.StatusUp, Role: cluster.RoleStandby}
		if change != nil {
			change(&b)
		}
		return b
	}
	state := &cluster.State{
		Timeline: 3,
		SystemID: 7,
		Backends: []cluster.Backend{
			backend("primary", func(b *cluster.Backend) { b.Role = cluster.RolePrimary }),
			backend("good", nil),
			backend("down", func(b *cluster.Backend) { b.Status = cluster.StatusDown }),
			backend("detached", func(b *cluster.Backend) { b.Status = cluster.StatusDetached }),
			backend("rebuild", func(b *cluster.Backend) { b.Rebuild = true }),
			backend("unseen", nil),
			backend("starting", nil),
			backend("promoted", nil),
			backend("incompatible", nil),
			backend("late", nil),
			backend("unknown-lag", nil),
			backend("other-timeline", nil),
			backend("other-cluster", nil),
			backend("heavy", func(b *cluster.Backend) { b.Weight = 5 }),
		},
	}
	observations := make(map[string]cluster.Observation)
	for _, b := range state.Backends {
		observations[b.Name] = cluster.Observation{
			Backend: b.Name, Alive: true, Ready: true, Role: cluster.RoleStandby, Timeline: 3, SystemID: 7, LagSeconds: 1, LagBytes: 10,
		}
	}
	change := func(name string, f func(*cluster.Observation)) {
		o := observations[name]
		f(&o)
		observations[name] = o
	}
	delete(observations, "unseen")
	change("starting", func(o *cluster.Observation) { o.Ready = false })
	change("promoted", func(o *cluster.Observation) { o.Role = cluster.RolePrimary })
	change("incompatible", func(o *cluster.Observation) { o.Incompatible = "another collation version" })
	change("late", func(o *cluster.Observation) { o.LagSeconds = 10.5 })
	change("unknown-lag", func(o *cluster.Observation) { o.LagSeconds = math.NaN() })
	change("other-timeline", func(o *cluster.Observation) { o.Timeline = 4 })
	change("other-cluster", func(o *cluster.Observation) { o.SystemID = 8 })

	names := func(candidates []Candidate) (out []string) {
		for _, c := range candidates {
			out = append(out, c.Name)
		}
		return out
	}
	got := UsableStandbys(state, observations, 10*time.Second)
	if want := []string{"good", "heavy"}; !slices.Equal(names(got), want) {
		t.Errorf("usable %v, want %v", names(got), want)
	}
	if want := (Candidate{Name: "good", Weight: 2, Usable: true, LagSeconds: 1, LagBytes: 10}); got[0] != want {
		t.Errorf("candidate %+v, want %+v", got[0], want)
	}
	if TotalWeight(got) != 7 {
		t.Errorf("total weight %d, want 7", TotalWeight(got))
	}
	if got, want := names(UsableStandbys(state, observations, 0)), []string{"good", "late", "unknown-lag", "heavy"}; !slices.Equal(got, want) {
		t.Errorf("without a limit %v, want %v", got, want)
	}
}

func TestRedirects(t *testing.T) {
	r, err := NewRedirects([]Redirect{
		{User: "report.*", To: "h3"},
		{Database: "app", Application: "cron|batch", To: "primary"},
		{Database: "app", To: "standby"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ user, database, application, to string }{
		{"reporting", "app", "cron", "h3"},
		{"a-report", "app", "cron", "primary"},
		{"a", "app", "cronjob", "standby"},
		{"a", "application", "cron", ""},
	} {
		to, ok := r.Match(c.user, c.database, c.application)
		if to != c.to || ok != (c.to != "") {
			t.Errorf("Match(%q, %q, %q) = %q, %t, want %q", c.user, c.database, c.application, to, ok, c.to)
		}
	}
	_, err = NewRedirects([]Redirect{{User: "a)(b"}, {Database: "["}})
	if err == nil || !strings.Contains(err.Error(), "redirects[0].user") || !strings.Contains(err.Error(), "redirects[1].database") {
		t.Errorf("error %v does not name both patterns", err)
	}
}
