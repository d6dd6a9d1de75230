package pcp

import "time"

// Pool is the connections of this member to one backend for one database and user.
type Pool struct {
	Backend  string `json:"backend"`
	Database string `json:"database"`
	User     string `json:"user"`
	Idle     int    `json:"idle"`
	Used     int    `json:"used"`    // by a session
	Waiting  int    `json:"waiting"` // clients that wait for one
	Size     int    `json:"size"`    // how many there may be; 0: as many as are asked for
}

// Session is one client of this member.
type Session struct {
	ID          uint64    `json:"id"`
	User        string    `json:"user"`
	Database    string    `json:"database"`
	Client      string    `json:"client"` // its address
	Application string    `json:"application_name"`
	State       string    `json:"state"`   // idle, active, idle in transaction, held
	Backend     string    `json:"backend"` // of the server connections that it has now; "" none
	Began       time.Time `json:"began"`
	Pinned      []Pin     `json:"pinned"` // why it keeps its connection to the primary between transactions
}

// Pin is one reason why a session keeps its connection.
type Pin struct {
	Reason string `json:"reason"`
	End    string `json:"end"` // what the client can do to end it
}
