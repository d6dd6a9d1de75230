//go:build race

package robustness

// memoryFactor is how much more memory pgproxy takes under the race detector
// (its manual says five to ten times as much).
const memoryFactor = 5
