//go:build !race

package robustness

// memoryFactor is one without the race detector.
const memoryFactor = 1
