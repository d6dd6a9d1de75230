package health

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// TestConfigure: another backend is probed and asked, one that is not there any more is
// not, and what was known of the others stays.
func TestConfigure(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var h1, h2, moved fakeServer
		h1.be(answer(primaryRows()...))
		h2.be(answer(primaryRows()...))
		moved.be(refuse("57P03"))
		var atH1 atomic.Pointer[fakeServer] // where h1 is
		atH1.Store(&h1)
		conn := func(name string) (*pgconn.Config, error) {
			if name == "h2" {
				return h2.config(name)
			}
			return atH1.Load().config(name)
		}
		reg := prometheus.NewRegistry()
		long := Config{Interval: time.Hour, Timeout: time.Second}
		m, err := New(long, []Target{{"h1", "h:1"}}, conn, func() (string, uint32) { return "h1", 2 }, slog.New(slog.DiscardHandler), reg)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error)
		ctx, stop := context.WithCancel(t.Context())
		go func() { ended <- m.Run(ctx) }()
		synctest.Wait()
		first := m.Observations()["h1"]
		if !first.Ready {
			t.Fatalf("%+v", first)
		}
		configure := func(cfg Config, want string, targets ...Target) {
			t.Helper()
			if err := m.Configure(cfg, targets); err != nil {
				t.Fatal(err)
			}
			pass(2 * pokeGap)
			var got []string
			for _, s := range m.Sights() {
				got = append(got, fmt.Sprintf("%s at %s ready %t", s.Backend, s.Address, s.Ready))
			}
			if g := strings.Join(got, ", "); g != want {
				t.Errorf("seen %q, want %q", g, want)
			}
			m.Sampler().Request()
		}
		configure(long, "h2 at h:2 ready true, h1 at h:1 ready true", Target{"h2", "h:2"}, Target{"h1", "h:1"})
		if !labels(t, reg)["h2"] {
			t.Error("no metrics of h2")
		}
		atH1.Store(&moved)
		configure(long, "h1 at h:9 ready false", Target{"h1", "h:9"})
		if l := labels(t, reg); l["h2"] || !l["h1"] {
			t.Errorf("metrics of %v", l)
		}
		if _, err := m.Probe(t.Context(), "h2"); err == nil {
			t.Error("a backend was probed that is not there any more")
		}
		dials := h2.dials.Load()
		pass(3 * time.Hour)
		if n := h2.dials.Load(); n != dials {
			t.Errorf("%d connections to a backend that is not there any more", n-dials)
		}
		dials = moved.dials.Load()
		short := long
		short.Interval = time.Second
		configure(short, "h1 at h:9 ready false", Target{"h1", "h:9"})
		pass(10 * time.Second)
		if n := moved.dials.Load() - dials; n < 10 {
			t.Errorf("%d probes in ten of the new intervals", n)
		}
		if err := m.Configure(long, []Target{{"h1", "a"}, {"h1", "b"}}); err == nil {
			t.Error("two backends of one name")
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// labels returns the backends that the metrics are about.
func labels(t *testing.T, reg *prometheus.Registry) map[string]bool {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]bool)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			i := slices.IndexFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetName() == "backend" })
			all[m.GetLabel()[i].GetValue()] = true
		}
	}
	return all
}
