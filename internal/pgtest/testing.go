package pgtest

import "context"

// TB is what StartCluster needs of a testing.TB. (Importing package testing
// would put it into pgproxy, which uses this package for its demo.)
type TB interface {
	Helper()
	Context() context.Context
	Cleanup(func())
	Failed() bool
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// logTail is how many lines of each server's log a failed test shows.
const logTail = 40

// StartCluster makes a cluster that lives as long as the test. When the test
// fails, the ends of the servers' logs are shown.
func StartCluster(t TB, o Options) *Cluster {
	t.Helper()
	c, err := New(t.Context(), o)
	if err != nil {
		t.Fatalf("start PostgreSQL cluster: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, s := range c.Servers {
				t.Logf("log of server %s:\n%s", s.Name, s.LogTail(logTail))
			}
		}
		if err := c.Close(context.Background()); err != nil {
			t.Errorf("close PostgreSQL cluster: %v", err)
		}
	})
	return c
}
