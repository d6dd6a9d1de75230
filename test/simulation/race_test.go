//go:build race

package simulation

// schedules is how many are played: there is one goroutine in each, and the race
// detector makes them slow.
const schedules = 1000
