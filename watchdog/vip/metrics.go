package vip

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the instruments of this package, labelled with the address as the
// configuration writes it.
type metrics struct {
	held      *prometheus.GaugeVec
	conflicts *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, all []Config) (*metrics, error) {
	m := &metrics{
		held: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "pgproxy", Name: "vip_held",
			Help: "1 while this member holds the virtual address, else 0.",
		}, []string{"address"}),
		conflicts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "pgproxy", Name: "vip_conflicts_total",
			Help: "How often a host that is not a member answered for the virtual address.",
		}, []string{"address"}),
	}
	if err := errors.Join(reg.Register(m.held), reg.Register(m.conflicts)); err != nil {
		return nil, fmt.Errorf("register metrics of vip: %w", err)
	}
	for i := range all {
		m.held.WithLabelValues(all[i].Address).Set(0)
		m.conflicts.WithLabelValues(all[i].Address)
	}
	return m, nil
}
