package pcp

import (
	"fmt"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the instruments of this package.
type metrics struct {
	requests *prometheus.CounterVec // by verb and HTTP status
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{requests: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "pgproxy_pcp_requests_total",
		Help: "Requests of operators, by verb and HTTP status; a stream counts when it ends.",
	}, []string{"verb", "status"})}
	if err := reg.Register(m.requests); err != nil {
		return nil, fmt.Errorf("register metrics of pcp: %w", err)
	}
	return m, nil
}

// count counts a request. The verb is one of the server's own, "" another.
func (m *metrics) count(verb string, status int) {
	m.requests.WithLabelValues(verb, strconv.Itoa(status)).Inc()
}
