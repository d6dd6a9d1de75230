package failover

import (
	"testing"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// A member reports four times in a lease: with a long one it is silent for longer, and
// still there.
func TestSilenceIsMeasuredInLeases(t *testing.T) {
	for _, tt := range []struct {
		lease, silent time.Duration
		want          bool
	}{
		{time.Second, 600 * time.Millisecond, true},
		{time.Second, 800 * time.Millisecond, false},
		{10 * time.Second, 2500 * time.Millisecond, true},
		{10 * time.Second, 8 * time.Second, false},
		{200 * time.Millisecond, 600 * time.Millisecond, true},
	} {
		in := Input{
			Now: testStart, Since: testStart.Add(-time.Minute), Lease: tt.lease,
			Reports: map[string]cluster.Reported{"m2": {At: testStart.Add(-tt.silent)}},
		}
		if got := in.present("m2"); got != tt.want {
			t.Errorf("lease %v, silent for %v: there is %v", tt.lease, tt.silent, got)
		}
	}
}
