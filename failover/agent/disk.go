package agent

import (
	"os"
	"path/filepath"
	"sync"
	"time"
)

// disk tries again and again whether a small write to the data directory reaches
// the disk. A write that never ends cannot be given up: its goroutine ends with it,
// if need be after the agent.
type disk struct {
	path func() string // of the data directory

	mu struct {
		sync.Mutex
		began time.Time // of the write under way; zero: none
		took  time.Duration
	}
}

// probeFile has a name that base backups and pg_rewind leave out (PostgreSQL
// source, PG_TEMP_FILE_PREFIX).
const probeFile = "pgsql_tmp_pgproxy_probe"

// slow begins a write when none is under way, and tells whether the last or present
// one took longer than bound.
func (d *disk) slow(bound time.Duration) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.mu.began.IsZero() {
		return time.Since(d.mu.began) > bound
	}
	d.mu.began = time.Now()
	go d.write(d.path())
	return d.mu.took > bound
}

// hangs returns for how long the write under way has not ended; 0: none is.
func (d *disk) hangs() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mu.began.IsZero() {
		return 0
	}
	return time.Since(d.mu.began)
}

func (d *disk) write(dir string) {
	if exists(filepath.Join(dir, "PG_VERSION")) {
		// An error shows elsewhere: a disk that is full or gone fails the server.
		if f, err := os.OpenFile(filepath.Join(dir, probeFile), os.O_WRONLY|os.O_CREATE, 0o600); err == nil {
			if _, err := f.WriteString(time.Now().UTC().Format(time.RFC3339Nano)); err == nil {
				_ = f.Sync()
			}
			f.Close()
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.took, d.mu.began = time.Since(d.mu.began), time.Time{}
}
