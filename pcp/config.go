package pcp

// Config is the section `pcp` of the configuration.
type Config struct {
	Listen     string `yaml:"listen"`      // host:port; empty: none. Needs watchdog.secret_file or TokenFile
	UnixSocket string `yaml:"unix_socket"` // empty: none
	TokenFile  string `yaml:"token_file"`  // a secret for operators who have not got the members' one; empty: none
}

// DefaultSocket is where the server listens and the client looks.
const DefaultSocket = "/run/pgproxy/pcp.sock"

// DefaultPort is pgpool's port of the same purpose.
const DefaultPort = 9898

// Default returns the values that hold where the file is silent.
func Default() Config {
	return Config{Listen: "127.0.0.1:9898", UnixSocket: DefaultSocket}
}
