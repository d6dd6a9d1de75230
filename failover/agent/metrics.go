package agent

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the instruments of this package.
type metrics struct {
	steps *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{steps: prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "pgproxy", Name: "agent_steps_total",
		Help: "Steps that the agent has carried out on its server, by their outcome.",
	}, []string{"step", "outcome"})}
	if err := reg.Register(m.steps); err != nil {
		return nil, fmt.Errorf("register metrics of failover/agent: %w", err)
	}
	return m, nil
}

func (m *metrics) count(a Action, err error) {
	outcome := "done"
	if err != nil {
		outcome = "failed"
	}
	m.steps.WithLabelValues(a.String(), outcome).Inc()
}
