package proxy

import (
	"net/netip"
	"sync"
	"time"
)

// How many CancelRequests with keys that this member does not know one network may
// send: a second, and at once. Their keys are looked for on the other members.
const (
	guessRate  = 10
	guessBurst = 50
)

const (
	// maxGuessers bounds the networks that are remembered. Those beyond share one
	// allowance, so that addresses that are made up give nobody more.
	maxGuessers = 4096
	// sweepGuessers is how often networks with nothing to remember are forgotten, when
	// there are maxGuessers.
	sweepGuessers = time.Second
)

// guesses bounds the CancelRequests with unknown keys, by network.
type guesses struct {
	mu struct {
		sync.Mutex
		byNetwork map[netip.Prefix]*allowance
		rest      allowance // of the networks that are not in byNetwork
		swept     time.Time
	}
}

// allowance is a token bucket. The zero value is full.
type allowance struct {
	used float64 // of guessBurst
	at   time.Time
}

func newGuesses() *guesses {
	g := new(guesses)
	g.mu.byNetwork = make(map[netip.Prefix]*allowance)
	return g
}

// take reports whether an unknown key from that address may be looked for.
func (g *guesses) take(from netip.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	a := g.of(network(from), now)
	a.refill(now)
	if a.used+1 > guessBurst {
		return false
	}
	a.used++
	return true
}

// giveBack undoes take: the key was a real one.
func (g *guesses) giveBack(from netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if a := g.mu.byNetwork[network(from)]; a != nil {
		a.used = max(a.used-1, 0)
	}
}

// of returns the allowance of a network; the lock is held.
func (g *guesses) of(key netip.Prefix, now time.Time) *allowance {
	if a := g.mu.byNetwork[key]; a != nil {
		return a
	}
	if len(g.mu.byNetwork) >= maxGuessers {
		g.sweep(now)
	}
	if len(g.mu.byNetwork) >= maxGuessers {
		return &g.mu.rest
	}
	a := new(allowance)
	g.mu.byNetwork[key] = a
	return a
}

// sweep forgets the networks whose allowance is full again.
func (g *guesses) sweep(now time.Time) {
	if now.Sub(g.mu.swept) < sweepGuessers {
		return
	}
	g.mu.swept = now
	for key, a := range g.mu.byNetwork {
		if a.refill(now); a.used == 0 {
			delete(g.mu.byNetwork, key)
		}
	}
}

func (a *allowance) refill(now time.Time) {
	a.used = max(a.used-now.Sub(a.at).Seconds()*guessRate, 0)
	a.at = now
}
