package proxy

import "testing"

// TestProbesAreBoundByTheirOwnTimeout: the time that an auth query may take is none for a
// probe, whose health.timeout may be longer.
func TestProbesAreBoundByTheirOwnTimeout(t *testing.T) {
	s := newTest(t, testConfig(t), newFakeCluster(testState("h:1")), Deps{})
	config, err := s.MonitorConfig("127.0.0.1:5432")
	if err != nil {
		t.Fatal(err)
	}
	if config.ConnectTimeout != 0 {
		t.Errorf("a connection may take %v", config.ConnectTimeout)
	}
}
