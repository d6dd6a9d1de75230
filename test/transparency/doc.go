// Package transparency holds the tests that nobody can tell pgproxy from
// PostgreSQL: each script of proxy/testdata/wire runs against PostgreSQL itself
// and through a pgproxy in front of the same cluster, and every byte of the
// answers must be equal but for what wirescript.Compare declares.
//
// TestWireDirect shows that the scripts themselves are deterministic;
// TestTransparency is the test of pgproxy, built and run as its users run it. In
// transaction mode a disturber, two other clients of the same small pool, does between
// any two messages what would be seen if a server connection kept it.
//
// TestPins shows that what cannot follow a session keeps its connection, TestPinBreakage
// what would happen otherwise.
//
//	go test ./test/transparency -run TestWireDirect
//	go test ./test/transparency -run 'TestTransparency/balanced/copy-in'
//	go test ./test/transparency -run TestWireDirect/copy-in -v    # shows the transcript
package transparency
