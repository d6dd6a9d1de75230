package lb

import "time"

// Mode says how often the server of a session's reads is chosen.
type Mode string

// The balancing modes.
const (
	ModeStatement Mode = "statement" // anew for each statement
	ModeSession   Mode = "session"   // once, when the session starts
	ModeOff       Mode = "off"       // every read goes to the primary
)

// Consistency says what a session's reads on standbys may miss.
type Consistency string

// The consistency levels.
const (
	ConsistencySession  Consistency = "session"  // read your writes, never back in time
	ConsistencyEventual Consistency = "eventual" // whatever the standby has replayed
	ConsistencyPrimary  Consistency = "primary"  // reads go to the primary
)

// Transactions says where the reads of an explicit read-write transaction go.
type Transactions string

// The values of balance.transactions.
const (
	TransactionsPrimary    Transactions = "primary"
	TransactionsUntilWrite Transactions = "until_write"
)

// Config is the section `balance` of the configuration.
type Config struct {
	Mode         Mode          `yaml:"mode"`
	Consistency  Consistency   `yaml:"consistency"`
	MaxLag       time.Duration `yaml:"max_lag"` // a standby further behind gets no reads; 0: no limit
	Transactions Transactions  `yaml:"transactions"`

	// ReadFunctions are functions that the operator vouches for although the catalog
	// calls them volatile; WriteFunctions write although the catalog says otherwise.
	// Names as in the catalog (lower case unless quoted when created), without schema.
	ReadFunctions  []string `yaml:"read_functions"`
	WriteFunctions []string `yaml:"write_functions"`
	// SessionFunctions are names of functions and procedures that leave the session as
	// it was although their source, or that it cannot be read, says otherwise.
	SessionFunctions []string `yaml:"session_functions"`
	// PrimaryPatterns are regular expressions (RE2); a statement that one of them
	// matches goes to the primary.
	PrimaryPatterns []string `yaml:"primary_patterns"`
	// Redirects apply at session start; the first that matches wins.
	Redirects []Redirect `yaml:"redirects"`
	// CatalogRefresh is how often the functions and relations of a database that is
	// in use are read again; DDL that passes through here does it at once.
	CatalogRefresh time.Duration `yaml:"catalog_refresh"`
	// CacheSize bounds the shape cache, in bytes.
	CacheSize int `yaml:"cache_size"`
}

// Redirect sends the reads of some sessions elsewhere than the weights would.
// Empty fields match everything; the others are regular expressions (RE2) that
// must match the whole value.
type Redirect struct {
	User        string `yaml:"user"`
	Database    string `yaml:"database"`
	Application string `yaml:"application"` // application_name of the startup packet
	To          string `yaml:"to"`          // "primary", "standby" or the name of a backend
}

// Default returns the values that hold where the file is silent.
func Default() Config {
	return Config{
		Mode:           ModeStatement,
		Consistency:    ConsistencySession,
		MaxLag:         10 * time.Second,
		Transactions:   TransactionsPrimary,
		CatalogRefresh: time.Minute,
		CacheSize:      16 << 20,
	}
}
