package proxy

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/proxy/session"
)

// metrics are the instruments of the data path, and the counters of SHOW.
type metrics struct {
	statements *prometheus.CounterVec   // by backend and route
	duration   *prometheus.HistogramVec // by route
	poolWait   prometheus.Histogram
	limits     *prometheus.CounterVec // by limit

	primary, standby prometheus.Observer // of duration
	byBackend        atomic.Pointer[map[string]*backendCounters]
}

// backendCounters count what one backend has done for clients since the start.
type backendCounters struct {
	primary, standby prometheus.Counter // statements, by the slot they ran in

	selects, inserts, updates, deletes, ddl, other atomic.Uint64
	panics, fatals, errors                         atomic.Uint64
}

func newMetrics(reg prometheus.Registerer, sh *sessions) (*metrics, error) {
	m := &metrics{
		statements: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pgproxy_statements_total",
			Help: "Statements completed, by backend and by the route taken (primary or standby).",
		}, []string{"backend", "route"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "pgproxy_statement_duration_seconds",
			Help:    "Time from sending a simple query or a pipeline up to Sync to a server until its ReadyForQuery.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 10),
		}, []string{"route"}),
		poolWait: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "pgproxy_pool_wait_seconds",
			Help:    "Time that a session waited for the right to use or open a server connection, where it did not find one idle at once.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 10),
		}),
		limits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pgproxy_limits_exceeded_total",
			Help: "Clients refused, statements cancelled and sessions ended for a limit, by its key in the configuration.",
		}, []string{"limit"}),
	}
	m.primary = m.duration.WithLabelValues("primary")
	m.standby = m.duration.WithLabelValues("standby")
	held := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "pgproxy_held_clients",
		Help: "Sessions that wait for a primary.",
	}, func() float64 { return float64(sh.pools.heldClients()) })
	m.byBackend.Store(&map[string]*backendCounters{})
	for _, c := range []prometheus.Collector{m.statements, m.duration, m.poolWait, held, m.limits, connectionCollector{sh}} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of proxy: %w", err)
		}
	}
	return m, nil
}

// configure makes the counters of the backends. Sessions know no other backend.
func (m *metrics) configure(backends []cluster.Backend) {
	old := *m.byBackend.Load()
	all := make(map[string]*backendCounters, len(backends))
	same := len(old) == len(backends)
	for _, b := range backends {
		if all[b.Name] = old[b.Name]; all[b.Name] == nil {
			all[b.Name] = m.countersOf(b.Name)
			same = false
		}
	}
	if !same {
		m.byBackend.Store(&all)
	}
}

func (m *metrics) countersOf(backend string) *backendCounters {
	return &backendCounters{
		primary: m.statements.WithLabelValues(backend, "primary"),
		standby: m.statements.WithLabelValues(backend, "standby"),
	}
}

// of returns the counters of a backend, never nil.
func (m *metrics) of(backend string) *backendCounters {
	if b := (*m.byBackend.Load())[backend]; b != nil {
		return b
	}
	return m.countersOf(backend) // removed a moment ago
}

// completed counts a statement by the first word of its command tag.
func (m *metrics) completed(backend string, slot session.Slot, tag []byte) {
	b := m.of(backend)
	if slot == session.Standby {
		b.standby.Inc()
	} else {
		b.primary.Inc()
	}
	b.kind(tag).Add(1)
}

func (b *backendCounters) kind(tag []byte) *atomic.Uint64 {
	n := 0
	for n < len(tag) && tag[n] != ' ' {
		n++
	}
	switch string(tag[:n]) {
	case "SELECT":
		return &b.selects
	case "INSERT":
		return &b.inserts
	case "UPDATE":
		return &b.updates
	case "DELETE":
		return &b.deletes
	case "CREATE", "ALTER", "DROP", "TRUNCATE", "COMMENT", "GRANT", "REVOKE", "REINDEX", "REFRESH":
		return &b.ddl
	}
	return &b.other
}

func (m *metrics) failed(backend string, fatal bool) {
	if fatal {
		m.of(backend).fatals.Add(1)
		return
	}
	m.of(backend).errors.Add(1)
}

func (m *metrics) answered(slot session.Slot, d time.Duration) {
	if slot == session.Standby {
		m.standby.Observe(d.Seconds())
		return
	}
	m.primary.Observe(d.Seconds())
}

func (m *metrics) limited(limit limitKey) { m.limits.WithLabelValues(string(limit)).Inc() }

// connectionCollector counts connections when it is asked, so that nothing is
// counted on the way of a statement.
type connectionCollector struct {
	sessions *sessions
}

var (
	clientConnections = prometheus.NewDesc("pgproxy_client_connections",
		"Client connections, by state (active: a server works for it; idle in transaction; idle; starting: not authenticated yet).",
		[]string{"state"}, nil)
	serverConnections = prometheus.NewDesc("pgproxy_server_connections",
		"Server connections, by backend and state (used: lent to a session; idle: in the pool; cleaning: being made fit for the next session; opening: logging in).",
		[]string{"backend", "state"}, nil)
	pinnedSessions = prometheus.NewDesc("pgproxy_pinned_sessions",
		"Sessions that keep their connection to the primary between transactions although the pool's mode is transaction, by reason; one may have several.",
		[]string{"reason"}, nil)
)

// Describe implements prometheus.Collector.
func (c connectionCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- clientConnections
	ch <- serverConnections
	ch <- pinnedSessions
}

// Collect implements prometheus.Collector.
func (c connectionCollector) Collect(ch chan<- prometheus.Metric) {
	sh := c.sessions
	states := map[string]int{"starting": sh.starting()}
	for state := stateIdle; state <= stateInTransaction; state++ {
		states[state.String()] = 0
	}
	pinned := make(map[string]int)
	for _, s := range sh.all() {
		states[s.state.Load().String()]++
		_, pins := s.bound()
		for _, p := range pins {
			pinned[p.Reason]++
		}
	}
	for _, p := range session.AllPins {
		ch <- prometheus.MustNewConstMetric(pinnedSessions, prometheus.GaugeValue, float64(pinned[p.Reason]), p.Reason)
	}
	for state, n := range states {
		ch <- prometheus.MustNewConstMetric(clientConnections, prometheus.GaugeValue, float64(n), state)
	}
	counted := sh.pools.count()
	for _, b := range sh.cluster.State().Backends {
		for i, n := range counted[b.Name] {
			ch <- prometheus.MustNewConstMetric(serverConnections, prometheus.GaugeValue, float64(n), b.Name, poolStates[i])
		}
	}
}
