package proxy

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/proxy/session"
)

// exposed returns the metrics of a registry that have a value, a line for each.
func exposed(t *testing.T, reg *prometheus.Registry, name string) (lines []string) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			var b strings.Builder
			for _, l := range m.GetLabel() {
				fmt.Fprintf(&b, "%s=%s ", l.GetName(), l.GetValue())
			}
			if h := m.GetHistogram(); h != nil {
				for _, bucket := range h.GetBucket() {
					fmt.Fprintf(&b, "%g:%d ", bucket.GetUpperBound(), bucket.GetCumulativeCount())
				}
				fmt.Fprintf(&b, "count:%d sum:%.9f", h.GetSampleCount(), h.GetSampleSum())
			} else {
				fmt.Fprintf(&b, "%g", m.GetCounter().GetValue())
			}
			lines = append(lines, b.String())
		}
	}
	return lines
}

// TestStatementsAreCounted has sessions on all shards count at the same time.
func TestStatementsAreCounted(t *testing.T) {
	m, reg := newMetrics(), prometheus.NewRegistry()
	reg.MustRegister(statementCollector{m})
	m.configure([]cluster.Backend{{Name: "h1"}, {Name: "h2"}, {Name: "idle"}})
	const sessions, each = 8, 1000
	var wg sync.WaitGroup
	for i := range sessions {
		wg.Go(func() {
			shard := i % m.shards
			primary, standby := &m.of("h1")[shard], &m.of("h2")[shard]
			for range each {
				primary.completed(session.Primary, []byte("INSERT 0 1"))
				primary.completed(session.Primary, []byte("COMMIT"))
				primary.failed(false)
				standby.completed(session.Standby, []byte("SELECT 3"))
				m.of("added")[shard].failed(true)
				m.duration[routeStandby].observe(shard, time.Millisecond)
			}
		})
	}
	wg.Wait()
	want := []string{
		"backend=added route=primary 0", "backend=added route=standby 0",
		"backend=h1 route=primary 16000", "backend=h1 route=standby 0",
		"backend=h2 route=primary 0", "backend=h2 route=standby 8000",
		"backend=idle route=primary 0", "backend=idle route=standby 0",
	}
	if got := exposed(t, reg, "pgproxy_statements_total"); !slices.Equal(got, want) {
		t.Errorf("statements %q, want %q", got, want)
	}
	want = []string{
		"route=primary 0.0001:0 0.0004:0 0.0016:0 0.0064:0 0.0256:0 0.1024:0 0.4096:0 1.6384:0 6.5536:0 26.2144:0 count:0 sum:0.000000000",
		"route=standby 0.0001:0 0.0004:0 0.0016:8000 0.0064:8000 0.0256:8000 0.1024:8000 0.4096:8000 1.6384:8000 6.5536:8000 26.2144:8000 count:8000 sum:8.000000000",
	}
	if got := exposed(t, reg, "pgproxy_statement_duration_seconds"); !slices.Equal(got, want) {
		t.Errorf("durations %q, want %q", got, want)
	}
	sum := m.of("h1").sum()
	if sum.of(kindInsert) != 8000 || sum.of(kindOther) != 8000 || sum.errors != 8000 || sum.fatals != 0 {
		t.Errorf("h1: %+v", sum)
	}
	if sum := m.of("added").sum(); sum.fatals != 8000 || sum.errors != 0 {
		t.Errorf("added: %+v", sum)
	}
}

// TestHistogramIsPrometheuss: the same observations give the same metric as the
// library's own histogram, at the bounds and beyond them, too.
func TestHistogramIsPrometheuss(t *testing.T) {
	m, reg, theirs := newMetrics(), prometheus.NewRegistry(), prometheus.NewRegistry()
	reg.MustRegister(statementCollector{m})
	model := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "pgproxy_pool_wait_seconds", Buckets: prometheus.ExponentialBuckets(0.0001, 4, 10),
	})
	theirs.MustRegister(model)
	observe := func(d time.Duration) {
		m.poolWait.observe(int(d)%m.shards, d)
		model.Observe(d.Seconds())
	}
	for bound := 100 * time.Microsecond; bound < time.Minute; bound *= 2 {
		observe(bound - 1)
		observe(bound)
		observe(bound + 1)
	}
	observe(0)
	observe(time.Hour)
	got, want := exposed(t, reg, "pgproxy_pool_wait_seconds"), exposed(t, theirs, "pgproxy_pool_wait_seconds")
	if !slices.Equal(got, want) {
		t.Errorf("\n%q, the library\n%q", got, want)
	}
}

func TestKindOf(t *testing.T) {
	tags := map[string]kind{
		"SELECT 1": kindSelect, "INSERT 0 1": kindInsert, "UPDATE 3": kindUpdate, "DELETE 0": kindDelete,
		"CREATE TABLE": kindDDL, "REFRESH MATERIALIZED VIEW": kindDDL, "BEGIN": kindOther, "": kindOther, "SELECTED": kindOther,
	}
	for _, tag := range slices.Sorted(maps.Keys(tags)) {
		if got := kindOf([]byte(tag)); got != tags[tag] {
			t.Errorf("%q: %d, want %d", tag, got, tags[tag])
		}
	}
}

// BenchmarkCounting is what a transaction costs to be counted, with -cpu 1,2 beside another
// session's.
func BenchmarkCounting(b *testing.B) {
	m := newMetrics()
	m.configure([]cluster.Backend{{Name: "h1"}})
	var mu sync.Mutex
	sessions := 0
	tag := []byte("SELECT 1")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		mu.Lock()
		shard := sessions % m.shards
		sessions++
		mu.Unlock()
		counters := &m.of("h1")[shard]
		for d := time.Duration(0); pb.Next(); d = (d + 1000) % math.MaxInt32 {
			counters.completed(session.Standby, tag)
			m.duration[routeStandby].observe(shard, d)
		}
	})
}
