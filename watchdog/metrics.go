package watchdog

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the instruments of this package.
type metrics struct {
	leader, quorum prometheus.GaugeFunc
	rounds         *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, leads, quorum func() bool) (*metrics, error) {
	gauge := func(name, help string, is func() bool) prometheus.GaugeFunc {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "pgproxy", Name: name, Help: help}, func() float64 {
			if is() {
				return 1
			}
			return 0
		})
	}
	m := &metrics{
		leader: gauge("watchdog_leader", "1 when this member leads.", leads),
		quorum: gauge("watchdog_quorum", "1 when a majority of the members is connected.", quorum),
		rounds: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "pgproxy", Name: "watchdog_rounds_total",
			Help: "Quorum rounds of this member as the leader, by whether a majority answered.",
		}, []string{"result"}),
	}
	m.rounds.WithLabelValues(roundConfirmed) // shown as 0
	m.rounds.WithLabelValues(roundRefused)
	for _, c := range []prometheus.Collector{m.leader, m.quorum, m.rounds} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of watchdog: %w", err)
		}
	}
	return m, nil
}

// Labels of watchdog_rounds_total.
const (
	roundConfirmed = "confirmed"
	roundRefused   = "refused"
)
