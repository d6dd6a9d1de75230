package lease

import (
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

const length = time.Second

var start = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

func at(d time.Duration) time.Time { return start.Add(d) }

// state returns one with that primary on timeline 1.
func state(epoch uint64, primary string) *cluster.State {
	return &cluster.State{Epoch: epoch, Primary: primary, Timeline: 1}
}

func operation(id uint64, kind cluster.OperationKind, phase cluster.Phase) *cluster.Operation {
	return &cluster.Operation{ID: id, Kind: kind, Phase: phase, Old: "a"}
}

// with returns the state with an operation, without a primary when it is barred.
func with(epoch uint64, primary string, o *cluster.Operation) *cluster.State {
	s := state(epoch, primary)
	s.Operation = o
	return s
}

func grant(t *testing.T, g *Grantor, member string, s *cluster.State, when time.Duration) Grant {
	t.Helper()
	out, err := g.Grant(member, s, at(when), at(when))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestGrantEndsNoLaterThanItsRound(t *testing.T) {
	for _, c := range []struct {
		old, want time.Duration // since the nonce was sent; length of the grant, 0 refused
	}{
		{0, length},
		{100 * time.Millisecond, 900 * time.Millisecond},
		{750 * time.Millisecond, 250 * time.Millisecond},
		{751 * time.Millisecond, 0},
		{time.Hour, 0},
		{-time.Millisecond, 0},
	} {
		g := NewGrantor(length, 3, start)
		out, err := g.Grant("m1", state(7, "a"), at(time.Minute).Add(-c.old), at(time.Minute))
		if c.want == 0 {
			if !errors.Is(err, ErrRound) {
				t.Errorf("round of %v ago: error %v, want ErrRound", c.old, err)
			}
			continue
		}
		want := Grant{Term: 3, Epoch: 7, Primary: "a", Timeline: 1, Length: c.want}
		if err != nil || out != want {
			t.Errorf("round of %v ago: %+v, %v, want %+v", c.old, out, err, want)
		}
	}
}

func TestGrantNamesPrimary(t *testing.T) {
	for _, c := range []struct {
		name  string
		state *cluster.State
		asked uint64 // operation that Barred was asked about before; 0 none
		want  bool
	}{
		{"primary", state(5, "a"), 0, true},
		{"no primary", state(5, ""), 0, false},
		{"drain", with(5, "a", operation(5, cluster.Switchover, cluster.PhaseDrain)), 0, true},
		{"barrier", with(6, "", operation(5, cluster.Failover, cluster.PhaseBarrier)), 0, false},
		{"from before the operation", state(4, "a"), 5, false},
		{"from before its barrier", with(5, "a", operation(5, cluster.Switchover, cluster.PhaseDrain)), 5, false},
		{"after the operation", state(9, "b"), 5, true},
		{"in the next one's drain", with(9, "b", operation(8, cluster.Switchover, cluster.PhaseDrain)), 5, true},
	} {
		g := NewGrantor(length, 1, start)
		if c.asked != 0 {
			g.Barred(operation(c.asked, cluster.Failover, cluster.PhaseBarrier), start)
		}
		out := grant(t, g, "m1", c.state, time.Minute)
		if (out.Primary != "") != c.want || out.Length != length {
			t.Errorf("%s: %+v", c.name, out)
		}
	}
}

func TestGrantNamesOnePrimaryAtATime(t *testing.T) {
	g := NewGrantor(length, 1, start)
	grant(t, g, "m1", state(5, "a"), 0)
	if out := grant(t, g, "m2", state(6, "b"), 1009*time.Millisecond); out.Primary != "" {
		t.Errorf("b is named while m1 may hold a: %+v", out)
	}
	if out := grant(t, g, "m1", state(6, "b"), 1009*time.Millisecond); out.Primary != "b" {
		t.Errorf("b is not named to the one who held a: %+v", out)
	}
	if out := grant(t, g, "m2", state(6, "b"), 1009*time.Millisecond); out.Primary != "" {
		t.Errorf("b is named while m1, whose grant may be lost, may hold a: %+v", out)
	}
	if out := grant(t, g, "m2", state(6, "b"), 1010*time.Millisecond); out.Primary != "b" {
		t.Errorf("b is not named when no lease on a runs: %+v", out)
	}
}

func TestBarred(t *testing.T) {
	op := operation(9, cluster.Failover, cluster.PhaseBarrier)
	barred := func(g *Grantor, when time.Duration, want time.Duration, missing ...string) {
		t.Helper()
		done, wait := g.Barred(op, at(when))
		if done != (want == 0) || wait != want {
			t.Errorf("at %v: done %t, wait %v, want %v", when, done, wait, want)
		}
		if got := g.Missing(op, at(when)); !slices.Equal(got, missing) {
			t.Errorf("at %v: missing %v, want %v", when, got, missing)
		}
	}
	t.Run("new leader", func(t *testing.T) {
		g := NewGrantor(length, 1, start)
		barred(g, 0, 1010*time.Millisecond)
		g.Acknowledge("m1", 9) // of a lease that another leader gave
		barred(g, 1009*time.Millisecond, time.Millisecond)
		barred(g, 1010*time.Millisecond, 0)
	})
	t.Run("lease runs out", func(t *testing.T) {
		g := NewGrantor(length, 1, start)
		grant(t, g, "m1", state(5, "a"), 2*time.Second)
		grant(t, g, "m2", state(5, "a"), 3*time.Second)
		barred(g, 3*time.Second, 1010*time.Millisecond, "m1", "m2")
		barred(g, 4*time.Second, 10*time.Millisecond, "m2")
		barred(g, 4010*time.Millisecond, 0)
	})
	t.Run("acknowledged", func(t *testing.T) {
		g := NewGrantor(length, 1, start)
		grant(t, g, "m1", state(5, "a"), 2*time.Second)
		grant(t, g, "m2", state(5, "a"), 2*time.Second)
		g.Acknowledge("m1", 9)
		g.Acknowledge("m2", 8) // another operation
		g.Acknowledge("m1", 0) // a report that is older
		barred(g, 2*time.Second, 1010*time.Millisecond, "m2")
		g.Acknowledge("m2", 9)
		barred(g, 2*time.Second, 0)
		if out := grant(t, g, "m1", state(5, "a"), 2*time.Second); out.Primary != "" {
			t.Errorf("a State from before the barrier is granted: %+v", out)
		}
	})
	t.Run("acknowledged before the lease", func(t *testing.T) {
		g := NewGrantor(length, 1, start)
		grant(t, g, "m1", state(9, "a"), 0) // the operation 9 has ended, and a is what it ended with
		g.Acknowledge("m1", 9)              // as the member goes on to report
		if out := grant(t, g, "m2", state(10, "b"), 0); out.Primary != "" {
			t.Errorf("b is named while m1 may hold a: %+v", out)
		}
	})
	t.Run("granted again after the acknowledgement", func(t *testing.T) {
		g := NewGrantor(length, 1, start)
		grant(t, g, "m1", state(5, "a"), 2*time.Second)
		g.Acknowledge("m1", 9)
		grant(t, g, "m1", state(5, "a"), 2*time.Second)
		barred(g, 2*time.Second, 1010*time.Millisecond, "m1")
	})
	t.Run("later grant of an older round", func(t *testing.T) {
		g := NewGrantor(length, 1, start)
		grant(t, g, "m1", state(5, "a"), 2*time.Second)
		if _, err := g.Grant("m1", state(5, "a"), at(1500*time.Millisecond), at(2*time.Second)); err != nil {
			t.Fatal(err)
		}
		barred(g, 2*time.Second, 1010*time.Millisecond, "m1")
	})
	t.Run("not barred", func(t *testing.T) {
		g := NewGrantor(length, 1, start)
		for _, o := range []*cluster.Operation{nil, operation(9, cluster.Switchover, cluster.PhaseDrain)} {
			if done, wait := g.Barred(o, at(time.Minute)); done || wait <= 0 {
				t.Errorf("%+v: done %t, wait %v", o, done, wait)
			}
		}
	})
}

func TestTake(t *testing.T) {
	full := Grant{Term: 3, Epoch: 5, Primary: "a", Timeline: 1, Length: length}
	end := at(990 * time.Millisecond)
	for _, c := range []struct {
		name    string
		grant   func(*Grant)
		applied *cluster.State
		held    bool // the lease
		until   bool // the primary
	}{
		{"taken", func(*Grant) {}, state(5, "a"), true, true},
		{"applied is newer and the same", func(*Grant) {}, state(6, "a"), true, true},
		{"epoch not applied yet", func(*Grant) {}, state(4, "a"), false, false},
		{"another primary", func(*Grant) {}, state(6, "b"), true, false},
		{"another timeline", func(g *Grant) { g.Timeline = 2 }, state(5, "a"), true, false},
		{"barred", func(*Grant) {}, with(6, "", operation(6, cluster.Failover, cluster.PhaseBarrier)), true, false},
		{"drain", func(*Grant) {}, with(6, "a", operation(6, cluster.Switchover, cluster.PhaseDrain)), true, true},
		{"no primary", func(g *Grant) { g.Primary = "" }, state(5, ""), true, false},
		{"lower term", func(g *Grant) { g.Term = 2 }, state(5, "a"), false, false},
	} {
		h := Holder{term: 3}
		g := full
		c.grant(&g)
		h = h.Take(g, start, c.applied)
		if got := h.Held().Equal(end); got != c.held {
			t.Errorf("%s: held until %v", c.name, h.Held())
		}
		if got := h.Until("a", 1).Equal(end); got != c.until {
			t.Errorf("%s: primary until %v", c.name, h.Until("a", 1))
		}
		if !h.Until("b", 1).IsZero() || !h.Until("a", 2).IsZero() || !h.Until("", 0).IsZero() {
			t.Errorf("%s: a lease on what was not granted", c.name)
		}
	}
}

func TestHolderKeepsTheLaterEnd(t *testing.T) {
	g := Grant{Term: 3, Epoch: 5, Primary: "a", Timeline: 1, Length: length}
	h := Holder{}.Take(g, at(time.Second), state(5, "a"))
	late := h.Take(g, start, state(5, "a"))
	if late != h {
		t.Errorf("a late answer made %+v of %+v", late, h)
	}
	nobody := Grant{Term: 3, Epoch: 6, Length: length}
	if got := h.Take(nobody, at(2*time.Second), state(6, "a")); !got.Until("a", 1).Equal(h.Until("a", 1)) || !got.Held().After(h.Held()) {
		t.Errorf("a grant without a primary made %+v of %+v", got, h)
	}
}

func TestApplyTakesThePrimaryAway(t *testing.T) {
	g := Grant{Term: 3, Epoch: 5, Primary: "a", Timeline: 1, Length: length}
	h := Holder{}.Take(g, start, state(5, "a"))
	for _, c := range []struct {
		name  string
		state *cluster.State
		kept  bool
	}{
		{"same", state(8, "a"), true},
		{"drain", with(8, "a", operation(8, cluster.Switchover, cluster.PhaseDrain)), true},
		{"other", state(8, "b"), false},
		{"none", state(8, ""), false},
		{"timeline", &cluster.State{Epoch: 8, Primary: "a", Timeline: 2}, false},
	} {
		got := h.Apply(c.state)
		if kept := !got.Until("a", 1).IsZero(); kept != c.kept {
			t.Errorf("%s: kept %t", c.name, kept)
		}
		if !got.Held().Equal(h.Held()) {
			t.Errorf("%s: the lease itself changed", c.name)
		}
	}
	if back := h.Apply(state(8, "")).Apply(state(9, "a")); !back.Until("a", 1).IsZero() {
		t.Error("what was taken away came back by itself")
	}
}

func TestGrantCrossesTheNetwork(t *testing.T) {
	want := Grant{Term: 3, Epoch: 5, Primary: "a", Timeline: 1, Length: length}
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got Grant
	if err := json.Unmarshal(data, &got); err != nil || got != want {
		t.Errorf("%s became %+v, %v", data, got, err)
	}
}

// TestNoLeaseOutlivesTheBarrier plays one leader and three members with clocks of
// their own, answers that are late or never come, and acknowledgements. Whenever
// Barred says that it is done, no member may hold a lease on the old primary.
func TestNoLeaseOutlivesTheBarrier(t *testing.T) {
	type member struct {
		rate    int // percent of real time
		holder  Holder
		applied *cluster.State
	}
	type answer struct {
		to    int
		grant Grant
		asked time.Time
	}
	rapid.Check(t, func(t *rapid.T) {
		now := time.Duration(0) // real
		clock := func(rate int) time.Time { return at(now * time.Duration(rate) / 100) }
		leaderRate := rapid.IntRange(99, 101).Draw(t, "leader's clock")
		g := NewGrantor(length, 1, start)
		now = time.Minute
		names := []string{"m1", "m2", "m3"}
		members := make([]*member, len(names))
		before := state(5, "a")
		for i := range members {
			members[i] = &member{rate: rapid.IntRange(99, 101).Draw(t, "clock"), applied: before}
		}
		op := operation(6, cluster.Failover, cluster.PhaseBarrier)
		after := with(6, "", op)
		current := before
		var answers []answer
		t.Repeat(map[string]func(*rapid.T){
			"time passes": func(t *rapid.T) { now += time.Duration(rapid.IntRange(1, 100).Draw(t, "ms")) * time.Millisecond },
			"a member asks": func(t *rapid.T) {
				i := rapid.IntRange(0, len(members)-1).Draw(t, "member")
				asked := clock(members[i].rate)
				now += time.Duration(rapid.IntRange(0, 20).Draw(t, "ms to the leader")) * time.Millisecond
				if out, err := g.Grant(names[i], current, clock(leaderRate), clock(leaderRate)); err == nil {
					answers = append(answers, answer{i, out, asked})
				}
			},
			"an answer arrives": func(t *rapid.T) {
				if len(answers) == 0 {
					return
				}
				i := rapid.IntRange(0, len(answers)-1).Draw(t, "answer")
				m := members[answers[i].to]
				m.holder = m.holder.Take(answers[i].grant, answers[i].asked, m.applied)
				answers = slices.Delete(answers, i, i+1)
			},
			"the barrier begins": func(t *rapid.T) { current = after },
			"the leader waits": func(t *rapid.T) {
				if _, wait := g.Barred(op, clock(leaderRate)); current == after {
					now += wait*100/time.Duration(leaderRate) + time.Microsecond
				}
			},
			"a member applies and acknowledges": func(t *rapid.T) {
				i := rapid.IntRange(0, len(members)-1).Draw(t, "member")
				members[i].applied = current
				members[i].holder = members[i].holder.Apply(current)
				if current == after {
					g.Acknowledge(names[i], op.ID)
				}
			},
			"": func(t *rapid.T) {
				if current != after {
					return
				}
				if done, _ := g.Barred(op, clock(leaderRate)); !done {
					return
				}
				for i, m := range members {
					if clock(m.rate).Before(m.holder.Until("a", 1)) {
						t.Fatalf("%s holds a lease %v beyond the barrier", names[i], m.holder.Until("a", 1).Sub(clock(m.rate)))
					}
				}
			},
		})
	})
}
