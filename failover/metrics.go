package failover

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// kindExternal labels a primary that was promoted by others and followed.
const kindExternal = "external"

// metrics are the instruments of this package.
type metrics struct {
	failovers *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{failovers: prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "pgproxy", Name: "failovers_total",
		Help: "Changes from one primary to another, by who made them.",
	}, []string{"kind"})}
	if err := reg.Register(m.failovers); err != nil {
		return nil, fmt.Errorf("register metrics of failover: %w", err)
	}
	for _, kind := range []string{kindExternal, cluster.Failover.String(), cluster.Switchover.String()} {
		m.failovers.WithLabelValues(kind) // shown as 0
	}
	return m, nil
}

// count counts an accepted command that made another backend the primary.
func (m *metrics) count(before *cluster.State, c cluster.Command) {
	was := before.Primary + before.Former // never both
	if c.Kind != cluster.KindAdoptPrimary || was == "" || was == c.Backend {
		return
	}
	kind := kindExternal
	if before.Operation != nil {
		kind = before.Operation.Kind.String()
	}
	m.failovers.WithLabelValues(kind).Inc()
}
