//go:build race

package proxytest

// raceEnabled: tests under the race detector run a pgproxy under it, too. One that
// has found a race ends with status 66.
const raceEnabled = true
