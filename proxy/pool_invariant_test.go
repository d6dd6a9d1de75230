package proxy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// op is a step of TestPoolInvariants.
type op struct{ kind, user, name, which int }

// TestPoolInvariants does at random what sessions do, and looks after each step whether
// the bounds hold, everybody is served in order, and nobody waits who could be served.
func TestPoolInvariants(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		small := rapid.IntRange(0, 3)
		ops := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) op {
			return op{rapid.IntRange(0, 9).Draw(rt, "kind"), rapid.IntRange(0, 2).Draw(rt, "user"), rapid.IntRange(0, 1).Draw(rt, "name"), rapid.IntRange(0, 99).Draw(rt, "which")}
		}), 1, 80).Draw(rt, "ops")
		size, limit, most := small.Draw(rt, "size")+1, small.Draw(rt, "limit"), small.Draw(rt, "max")
		var fault error
		synctest.Test(t, func(*testing.T) { fault = playOps(ops, size, limit, most) })
		if fault != nil {
			rt.Fatal(fault)
		}
	})
}

func playOps(ops []op, size, limit, most int) error {
	cfg := transactionPool()
	cfg.Size, cfg.Wait = size, time.Hour
	pp := newPipePools(cfg, []LimitConfig{{User: "u0"}, {MaxConnections: limit}}, oneBackend(most))
	var all []*want // in order of arrival
	var before tally
	defer func() {
		pp.shutdown()
		for _, w := range all {
			w.stop()
			synctest.Wait()
			if w.sc != nil {
				w.sc.Close()
			}
		}
	}()
	for i, o := range ops {
		var lent []*want
		for _, w := range all {
			if w.done.Load() && w.sc != nil {
				lent = append(lent, w)
			}
		}
		switch {
		case o.kind < 5:
			all = append(all, pp.wantOn(0, app(fmt.Sprint("u", o.user), fmt.Sprint(o.name))))
		case o.kind == 5:
			if w := all; len(w) > 0 {
				w[o.which%len(w)].stop()
			}
		case o.kind == 6:
			cfg.Size, limit = o.which%4+1, o.which%3
			pp.configure(cfg, []LimitConfig{{User: "u0"}, {MaxConnections: limit}})
		case len(lent) > 0:
			w := lent[o.which%len(lent)]
			if o.kind == 7 {
				w.sc.Close()
			} else {
				pp.release(w.sc, true)
			}
			w.sc = nil
		}
		synctest.Wait()
		if err := pp.check(all); err != nil {
			return fmt.Errorf("after step %d %+v: %w", i, o, err)
		}
		now := pp.tally()
		if err := now.within(before, cfg.Size, limit, most); err != nil {
			return fmt.Errorf("after step %d %+v: %w", i, o, err)
		}
		before = now
	}
	return nil
}

// tally counts connections.
type tally struct {
	byUser         map[string]int
	limited, total int // those that the second entry of `limits` is for, and all
}

func (pp *pipePools) tally() tally {
	n := tally{byUser: make(map[string]int)}
	for _, c := range pp.list() {
		n.byUser[c.user]++
		n.total++
		if c.user != "u0" {
			n.limited++
		}
	}
	return n
}

// within reports what is above its bound and has not become less.
func (n tally) within(before tally, size, limit, most int) error {
	for user, open := range n.byUser {
		if open > max(size, before.byUser[user]) {
			return fmt.Errorf("%d connections of %s, pool.size %d", open, user, size)
		}
	}
	if limit > 0 && n.limited > max(limit, before.limited) {
		return fmt.Errorf("%d connections, limit %d", n.limited, limit)
	}
	if most > 0 && n.total > most {
		return fmt.Errorf("%d connections, max_connections %d", n.total, most)
	}
	return nil
}

// check looks at the invariants. Nothing is under way.
func (pp *pipePools) check(all []*want) error {
	p := pp.pools
	p.mu.Lock()
	defer p.mu.Unlock()
	bp := p.mu.byName["h1"]
	if bp == nil {
		return nil
	}
	open, byLimit := 0, make([]int, len(p.mu.limits))
	for key, g := range bp.groups {
		n := 0
		for l := range bp.links {
			if l.group == g {
				n++
			}
		}
		open += n
		if g.limit >= 0 {
			byLimit[g.limit] += n
		}
		if n != g.open || g.pending != 0 {
			return fmt.Errorf("%v: %d connections, %d places, %d wait for a login", key, n, g.open, g.pending)
		}
		if met := bp.met(g, 0); met != boundNone && len(g.idle) > 0 {
			return fmt.Errorf("%v: idle connections beyond %s", key, bp.describe(g, met))
		}
		if g.waiting.Len() > 0 {
			if met := bp.met(g, 1); met == boundNone || bp.oldest(g, met) != nil {
				return fmt.Errorf("%v: waits although it could be served", key)
			}
		}
	}
	if open != bp.open || !slices.Equal(byLimit, bp.limits) || bp.opening != 0 || bp.logins.Len() != 0 {
		return fmt.Errorf("%d open of %d, limits %v of %v, opening %d", open, bp.open, byLimit, bp.limits, bp.opening)
	}
	waits := make(map[string]bool)
	for _, w := range all {
		switch {
		case !w.done.Load():
			waits[w.user] = true
		case w.err == nil && waits[w.user] && w.sc != nil:
			return fmt.Errorf("%s was served before one who came earlier", w.user)
		case w.err != nil && !errors.Is(w.err, context.Canceled):
			return w.err
		}
	}
	return nil
}
