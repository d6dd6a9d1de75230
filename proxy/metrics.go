package proxy

import (
	"fmt"
	"maps"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/proxy/session"
)

// metrics are the instruments of the data path, and the counters of SHOW.
type metrics struct {
	shards   int               // of each counter and histogram
	duration [routes]histogram // of statements
	poolWait histogram
	limits   *prometheus.CounterVec // by limit

	// byBackend has all backends that there ever were: who holds counters need not ask
	// whether they still count.
	byBackend atomic.Pointer[map[string]backendCounters]
	adding    sync.Mutex // held by who makes the next byBackend
}

func newMetrics() *metrics {
	m := &metrics{
		shards: runtime.GOMAXPROCS(0),
		limits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pgproxy_limits_exceeded_total",
			Help: "Clients refused, statements cancelled and sessions ended for a limit, by its key in the configuration.",
		}, []string{"limit"}),
	}
	m.poolWait = make(histogram, m.shards)
	for r := range m.duration {
		m.duration[r] = make(histogram, m.shards)
	}
	m.byBackend.Store(&map[string]backendCounters{})
	return m
}

// register has them and what is counted in sh exposed.
func (m *metrics) register(reg prometheus.Registerer, sh *sessions) error {
	held := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "pgproxy_held_clients",
		Help: "Sessions that wait for a primary.",
	}, func() float64 { return float64(sh.pools.heldClients()) })
	for _, c := range []prometheus.Collector{statementCollector{m}, held, m.limits, connectionCollector{sh}} {
		if err := reg.Register(c); err != nil {
			return fmt.Errorf("register metrics of proxy: %w", err)
		}
	}
	return nil
}

// configure makes the counters of the backends.
func (m *metrics) configure(backends []cluster.Backend) {
	for i := range backends {
		m.of(backends[i].Name)
	}
}

// of returns the counters of a backend.
func (m *metrics) of(backend string) backendCounters {
	if c := (*m.byBackend.Load())[backend]; c != nil {
		return c
	}
	m.adding.Lock()
	defer m.adding.Unlock()
	all := maps.Clone(*m.byBackend.Load())
	if all[backend] == nil {
		all[backend] = make(backendCounters, m.shards)
		m.byBackend.Store(&all)
	}
	return all[backend]
}

func (m *metrics) limited(limit limitKey) { m.limits.WithLabelValues(string(limit)).Inc() }

// statementCollector adds up the shards when it is asked.
type statementCollector struct {
	metrics *metrics
}

var (
	statementsTotal = prometheus.NewDesc("pgproxy_statements_total",
		"Statements completed, by backend and by the route taken (primary or standby).", []string{"backend", "route"}, nil)
	statementDuration = prometheus.NewDesc("pgproxy_statement_duration_seconds",
		"Time from sending a simple query or a pipeline up to Sync to a server until its ReadyForQuery.", []string{"route"}, nil)
	poolWaits = prometheus.NewDesc("pgproxy_pool_wait_seconds",
		"Time that a session waited for the right to use or open a server connection, where it did not find one idle at once.", nil, nil)
)

// Describe implements prometheus.Collector.
func (c statementCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- statementsTotal
	ch <- statementDuration
	ch <- poolWaits
}

// Collect implements prometheus.Collector.
func (c statementCollector) Collect(ch chan<- prometheus.Metric) {
	for backend, counters := range *c.metrics.byBackend.Load() {
		sum := counters.sum()
		for r := range routes {
			ch <- prometheus.MustNewConstMetric(statementsTotal, prometheus.CounterValue, float64(sum.by(r)), backend, r.String())
		}
	}
	for r := range routes {
		ch <- c.metrics.duration[r].metric(statementDuration, r.String())
	}
	ch <- c.metrics.poolWait.metric(poolWaits)
}

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
