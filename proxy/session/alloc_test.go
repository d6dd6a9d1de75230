//go:build !race

package session

import "testing"

// TestTransactionsAllocateNothing holds that in the steady state. The race detector has
// sync.Pool forget at random.
func TestTransactionsAllocateNothing(t *testing.T) {
	for _, mode := range benchModes {
		for name, transaction := range benchTransactions(t) {
			s := mode.session(t)
			if allocs := testing.AllocsPerRun(100, func() { s.all(t, transaction) }); allocs > 0 {
				t.Errorf("%s in %s: %v allocations", name, mode.name, allocs)
			}
		}
	}
}
