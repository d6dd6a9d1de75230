package health

import "time"

// Config is the section `health` of the configuration.
type Config struct {
	Interval time.Duration `yaml:"interval"` // between two probes of a backend
	Timeout  time.Duration `yaml:"timeout"`  // of one probe, connect and login included
	Retries  int           `yaml:"retries"`  // probes that must fail after the first failed one before a backend is down
}

// Default returns the values that hold where the file is silent.
func Default() Config {
	return Config{Interval: time.Second, Timeout: time.Second, Retries: 1}
}
