package proxy

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgproxy/pgproxy/proxy/session"
)

// What is counted for each statement is counted in shards, so that sessions on different
// processors write to different lines of their caches. A session keeps to one shard, and
// who reads a counter adds the shards up. A shard fills two lines, as processors fetch
// them in pairs.

// kind is what a statement did, by the first word of its command tag.
type kind uint8

const (
	kindSelect kind = iota
	kindInsert
	kindUpdate
	kindDelete
	kindDDL
	kindOther
	kinds
)

func kindOf(tag []byte) kind {
	n := 0
	for n < len(tag) && tag[n] != ' ' {
		n++
	}
	switch string(tag[:n]) {
	case "SELECT":
		return kindSelect
	case "INSERT":
		return kindInsert
	case "UPDATE":
		return kindUpdate
	case "DELETE":
		return kindDelete
	case "CREATE", "ALTER", "DROP", "TRUNCATE", "COMMENT", "GRANT", "REVOKE", "REINDEX", "REFRESH":
		return kindDDL
	}
	return kindOther
}

// route is the way that a statement went.
type route uint8

const (
	routePrimary route = iota
	routeStandby
	routes
)

func routeOf(slot session.Slot) route {
	if slot == session.Standby {
		return routeStandby
	}
	return routePrimary
}

// String is the value of the label.
func (r route) String() string {
	if r == routeStandby {
		return "standby"
	}
	return "primary"
}

// backendCounters count what one backend has done for clients since the start.
type backendCounters []counterShard

type counterShard struct {
	statements     [routes][kinds]atomic.Uint64
	fatals, errors atomic.Uint64
	_              [16]byte
}

func (c *counterShard) completed(slot session.Slot, tag []byte) {
	c.statements[routeOf(slot)][kindOf(tag)].Add(1)
}

func (c *counterShard) failed(fatal bool) {
	if fatal {
		c.fatals.Add(1)
	} else {
		c.errors.Add(1)
	}
}

// totals are backendCounters added up.
type totals struct {
	statements     [routes][kinds]uint64
	fatals, errors uint64
}

func (c backendCounters) sum() (sum totals) {
	for i := range c {
		s := &c[i]
		for r := range s.statements {
			for k := range s.statements[r] {
				sum.statements[r][k] += s.statements[r][k].Load()
			}
		}
		sum.fatals += s.fatals.Load()
		sum.errors += s.errors.Load()
	}
	return sum
}

func (t *totals) of(k kind) uint64 {
	return t.statements[routePrimary][k] + t.statements[routeStandby][k]
}

func (t *totals) by(r route) (n uint64) {
	for _, of := range t.statements[r] {
		n += of
	}
	return n
}

// The upper bounds of a histogram's buckets are leastBound and, from each to the next,
// four times as much.
const (
	leastBound = 100 * time.Microsecond
	bounds     = 10
)

// histogram counts durations.
type histogram []histogramShard

type histogramShard struct {
	buckets [bounds + 1]atomic.Uint64 // the last one has no bound
	sum     atomic.Int64              // nanoseconds
	_       [32]byte
}

func (h histogram) observe(shard int, d time.Duration) {
	i := 0
	for bound := leastBound; i < bounds && d > bound; bound *= 4 {
		i++
	}
	h[shard].buckets[i].Add(1)
	h[shard].sum.Add(int64(d))
}

// metric returns the histogram as it is now.
func (h histogram) metric(desc *prometheus.Desc, labels ...string) prometheus.Metric {
	var count uint64
	var sum time.Duration
	upTo := make(map[float64]uint64, bounds)
	for i, bound := range prometheus.ExponentialBuckets(leastBound.Seconds(), 4, bounds) {
		for s := range h {
			count += h[s].buckets[i].Load()
		}
		upTo[bound] = count
	}
	for s := range h {
		count += h[s].buckets[bounds].Load()
		sum += time.Duration(h[s].sum.Load())
	}
	return prometheus.MustNewConstHistogram(desc, count, sum.Seconds(), upTo, labels...)
}
