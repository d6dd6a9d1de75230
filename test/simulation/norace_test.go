//go:build !race

package simulation

// schedules is how many are played.
const schedules = 2000
