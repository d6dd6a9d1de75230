package proxy

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// limits are the entries of the section `limits` in force.
type limits struct {
	entries []LimitConfig
	// shortest is the shortest bound of time among them, which says how often the
	// sessions are looked at; 0: there is none, and nobody looks.
	shortest time.Duration
}

// stallLooks is how often a client that takes nothing is looked at within the time
// that it has: what it took is only seen by comparing.
const stallLooks = 4

func newLimits(entries []LimitConfig) *limits {
	l := &limits{entries: entries}
	for i := range entries {
		e := &entries[i]
		for _, bound := range []time.Duration{e.Query, e.Transaction, e.IdleInTransaction, e.Idle, e.Stalled / stallLooks} {
			if bound > 0 && (l.shortest == 0 || bound < l.shortest) {
				l.shortest = bound
			}
		}
	}
	return l
}

// find returns the index of the first entry that matches, -1 none.
func (l *limits) find(user, database string) int {
	for i := range l.entries {
		e := &l.entries[i]
		if (e.User == "" || e.User == user) && (e.Database == "" || e.Database == database) {
			return i
		}
	}
	return -1
}

// of returns the first entry that matches, nil none.
func (l *limits) of(user, database string) *LimitConfig {
	if i := l.find(user, database); i >= 0 {
		return &l.entries[i]
	}
	return nil
}

// setLimits puts other entries in force, also for the sessions that there are; clients
// beyond a max_clients that is smaller now stay.
func (sh *sessions) setLimits(entries []LimitConfig) {
	sh.limits.Store(newLimits(entries))
	select {
	case sh.relimit <- struct{}{}:
	default:
	}
}

// enter counts a client for limits[].max_clients.
func (sh *sessions) enter(c *client) error {
	err := sh.census.enter(sh.limits.Load(), c.user, c.database)
	if err != nil {
		sh.metrics.limited(limitMaxClients)
	}
	return err
}

// census counts the authenticated clients by the entries of `limits`.
type census struct {
	mu struct {
		sync.Mutex
		byKey map[censusKey]int
		// byEntry counts those of each entry of limits, by its index.
		byEntry []int
		limits  *limits
	}
}

type censusKey struct{ user, database string }

func newCensus() *census {
	c := &census{}
	c.mu.byKey = make(map[censusKey]int)
	return c
}

// enter counts a client, unless its entry has as many as it may have.
func (c *census) enter(l *limits, user, database string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.limits != l {
		c.recount(l)
	}
	if i := l.find(user, database); i >= 0 {
		e := &l.entries[i]
		if e.MaxClients > 0 && c.mu.byEntry[i] >= e.MaxClients {
			return &Refusal{
				Code:    codeTooManyConnections,
				Message: fmt.Sprintf("pgproxy: too many clients%s: at most %d at a time", e.scope(), e.MaxClients),
			}
		}
		c.mu.byEntry[i]++
	}
	c.mu.byKey[censusKey{user, database}]++
	return nil
}

// leave counts a client out.
func (c *census) leave(user, database string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := censusKey{user, database}
	if c.mu.byKey[key]--; c.mu.byKey[key] == 0 {
		delete(c.mu.byKey, key)
	}
	if i := c.mu.limits.find(user, database); i >= 0 {
		c.mu.byEntry[i]--
	}
}

// recount counts by other entries. The lock is held.
func (c *census) recount(l *limits) {
	c.mu.limits, c.mu.byEntry = l, make([]int, len(l.entries))
	for key, n := range c.mu.byKey {
		if i := l.find(key.user, key.database); i >= 0 {
			c.mu.byEntry[i] += n
		}
	}
}

// scope says to whom the entry applies, for a message: nothing where it is everybody.
func (e *LimitConfig) scope() string {
	var of []string
	if e.Database != "" {
		of = append(of, fmt.Sprintf("database %q", e.Database))
	}
	if e.User != "" {
		of = append(of, fmt.Sprintf("user %q", e.User))
	}
	if of == nil {
		return ""
	}
	return " for " + strings.Join(of, ", ")
}
