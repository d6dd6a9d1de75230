// Package scenario breaks an installation of package rig in every way that pgproxy
// promises to survive, while a client writes through the virtual address, and
// compares afterwards what the client was told with what is there.
//
// Scenarios are run once each by the tests of test/failover, which assert on what
// must be, and many times by test/failover/measure, which reports how long it took.
// Both check the same: that the service comes back; that there is one primary and
// one holder of the address; that who was broken comes back as a standby by itself;
// that nothing which the new primary has acknowledged is lost, and nothing is there
// that a client was told had failed.
//
// Goroutines: the writers of a run, which end with it.
package scenario
