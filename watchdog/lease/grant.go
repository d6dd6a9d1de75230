package lease

import "time"

// Grant is the leader's answer to a request for a lease, as it crosses the network.
// Without a Primary it is still a lease: the right to hold virtual addresses.
type Grant struct {
	Term     uint64        `json:"term"`
	Epoch    uint64        `json:"epoch"` // of the State that names Primary
	Primary  string        `json:"primary,omitempty"`
	Timeline uint32        `json:"timeline,omitempty"` // of Primary
	Length   time.Duration `json:"length"`             // from the instant at which the member sent its request
}

// Stretched returns what the leader waits for a length of d on another host's
// clock: 1.01 d.
func Stretched(d time.Duration) time.Duration { return d + d/100 }

// shrunk returns what a member counts for a length of d: 0.99 d.
func shrunk(d time.Duration) time.Duration { return d - d/100 }
