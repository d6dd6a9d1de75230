package health

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// metrics are the instruments of this package, labelled with the backend's name.
type metrics struct {
	up, primary, lagBytes, lagSeconds *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "pgproxy", Name: name, Help: help}, []string{"backend"})
	}
	m := &metrics{
		up:         gauge("backend_up", "1 when the last probe of the backend was answered in full, else 0."),
		primary:    gauge("backend_primary", "1 when the backend said at its last probe that it is a primary, else 0."),
		lagBytes:   gauge("replication_lag_bytes", "Write-ahead log that the standby has not replayed, in bytes."),
		lagSeconds: gauge("replication_lag_seconds", "Upper bound of the age of the standby's data, in seconds."),
	}
	var faults []error
	for _, c := range []prometheus.Collector{m.up, m.primary, m.lagBytes, m.lagSeconds} {
		faults = append(faults, reg.Register(c))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, fmt.Errorf("register metrics of health: %w", err)
	}
	return m, nil
}

// observe shows the observations. The lag of a server that is not a standby, or
// does not say, is left out rather than shown as none.
func (m *metrics) observe(all map[string]cluster.Observation) {
	for name, o := range all {
		m.up.WithLabelValues(name).Set(flag(o.Ready))
		m.primary.WithLabelValues(name).Set(flag(o.Role == cluster.RolePrimary))
		if o.Ready && o.Role == cluster.RoleStandby {
			m.lagBytes.WithLabelValues(name).Set(float64(o.LagBytes))
			m.lagSeconds.WithLabelValues(name).Set(o.LagSeconds)
		} else {
			m.lagBytes.DeleteLabelValues(name)
			m.lagSeconds.DeleteLabelValues(name)
		}
	}
}

// forget leaves out a backend that is not watched any more.
func (m *metrics) forget(name string) {
	for _, g := range []*prometheus.GaugeVec{m.up, m.primary, m.lagBytes, m.lagSeconds} {
		g.DeleteLabelValues(name)
	}
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
