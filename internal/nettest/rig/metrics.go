package rig

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Metric returns the value of a metric of the host's member, without labels or with
// them as they are printed: `pgproxy_backend_up{backend="h1"}`. It asks from the
// host itself, so that a cut does not matter.
func (h *Host) Metric(ctx context.Context, name string) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	transport := &http.Transport{DialContext: h.Net.DialContext, DisableKeepAlives: true}
	url := "http://" + net.JoinHostPort(h.IP, strconv.Itoa(metricsPort)) + "/metrics"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, fmt.Errorf("read metrics of %s: %w", h.Name, err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return 0, fmt.Errorf("read metrics of %s: %w", h.Name, err)
	}
	defer resp.Body.Close()
	for s := bufio.NewScanner(resp.Body); s.Scan(); {
		if value, ok := strings.CutPrefix(s.Text(), name+" "); ok {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, fmt.Errorf("read metrics of %s: no %s", h.Name, name)
}
