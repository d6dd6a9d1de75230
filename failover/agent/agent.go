package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

const (
	lookEvery = time.Second
	// While an operation is under way the leader waits for what is seen, most of all
	// for the target of a switchover to receive the last of the log.
	lookInOperation = 200 * time.Millisecond
	lookAsTarget    = 50 * time.Millisecond
	// quietWait is for how long a standby with an empty primary_conninfo must have been
	// without a walreceiver to be detached: between two looks its startup process could
	// have asked for one by the setting of before.
	quietWait = 50 * time.Millisecond
	// upkeepEvery is how often slots and what is remembered are brought up to date.
	upkeepEvery = 5 * time.Second
	// idleLook is for how long a standby does not stream before its source is asked
	// whether it still has the log.
	idleLook = 5 * time.Second
)

// Agent controls the server of this host. Methods may be called by anybody at any
// time.
type Agent struct {
	cfg     Config
	deps    Deps
	log     *slog.Logger
	metrics *metrics
	files   files
	disk    disk

	known  atomic.Pointer[layout] // what the running server has told; never nil
	local  atomic.Pointer[reported]
	wanted chan chan struct{} // a fresh look, closed when Local has it
	extras sync.WaitGroup     // goroutines that outlive a step: checkpoints
	base   context.Context    // of Run, for them
	stuck  atomic.Bool        // a look has not come back from the data directory
	keptAs string             // signature of the configuration that was kept last; of upkeep
}

// reported is a Local and when it was true.
type reported struct {
	cluster.Local
	at   time.Time
	task *notes // of the step under way; nil none
}

// notes are what a step under way says about itself.
type notes struct {
	mu struct {
		sync.Mutex
		share  float64
		detail string
	}
}

func (n *notes) progress(share float64, detail string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.share, n.mu.detail = share, detail
}

func (n *notes) get() (float64, string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.share, n.mu.detail
}

// New returns an Agent. It opens nothing.
func New(cfg Config, deps Deps) (*Agent, error) {
	if os.Geteuid() == 0 {
		return nil, errors.New("an agent must run as the operating system's user of the PostgreSQL server, mostly postgres, and not as root: the server refuses root, and so do its programs")
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	m, err := newMetrics(deps.Registerer)
	if err != nil {
		return nil, err
	}
	a := &Agent{
		cfg: cfg, deps: deps, log: deps.Logger.With("backend", deps.Backend), metrics: m,
		files: files{dir: filepath.Join(deps.DataDir, "agent")}, wanted: make(chan chan struct{}),
	}
	a.disk.path = a.dataDir
	a.known.Store(&layout{})
	a.local.Store(&reported{Local: cluster.Local{Backend: deps.Backend}, at: time.Now()})
	return a, nil
}

// dataDir returns the data directory without links in its path: that is what its
// processes have as their own, and what can be renamed.
func (a *Agent) dataDir() string {
	dir := filepath.Clean(a.cfg.DataDirectory)
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		return real
	}
	if real, err := filepath.EvalSymlinks(filepath.Dir(dir)); err == nil {
		return filepath.Join(real, filepath.Base(dir))
	}
	return dir
}

// Local returns what the leader is to be told.
func (a *Agent) Local() *cluster.Local {
	r := a.local.Load()
	l := r.Local
	l.Age = time.Since(r.at)
	l.DiskHangs = a.disk.hangs()
	if r.task != nil {
		l.Progress, l.Detail = r.task.get()
	}
	return &l
}

// Look looks at the server anew and returns what is seen.
func (a *Agent) Look(ctx context.Context) *cluster.Local {
	done := make(chan struct{})
	select {
	case a.wanted <- done:
		select {
		case <-done:
		case <-ctx.Done():
		}
	case <-ctx.Done():
	}
	return a.Local()
}

// Run controls the server until ctx ends. It does not stop the server.
func (a *Agent) Run(ctx context.Context) error {
	if err := a.begin(); err != nil {
		return err
	}
	a.base = ctx
	defer a.extras.Wait()
	l := newLoop(a)
	return l.run(ctx)
}

// begin makes the agent's files and ends what a killed one has left.
func (a *Agent) begin() error {
	if err := a.files.prepare(a.cfg.Replication.User, a.deps.Password); err != nil {
		return err
	}
	known, err := a.files.layout()
	if err != nil {
		return err
	}
	a.known.Store(&known)
	return a.resume()
}

// askCheckpoint makes a checkpoint in the background.
func (a *Agent) askCheckpoint() {
	a.extras.Add(1)
	go func() {
		defer a.extras.Done()
		if err := a.checkpoint(a.base); err != nil && a.base.Err() == nil {
			a.log.Warn("checkpoint after the promotion", "err", err)
		}
	}()
}

// confirmSoon is confirm for what must not be lost because the leader changes just
// now.
func (a *Agent) confirmSoon(ctx context.Context, t *task) error {
	until := time.Now().Add(time.Minute)
	for {
		err := a.confirm(ctx, t)
		if err == nil || errors.Is(err, errMoved) || time.Now().After(until) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(lookEvery):
		}
	}
}

// upkeep brings the slots and what is remembered of the running server up to date,
// and asks the source of a standby that does not stream whether it still can.
func (a *Agent) upkeep(ctx context.Context, s seen, idle time.Time) (logGone bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*upkeepEvery)
	defer cancel()
	if s.State != cluster.ServerPrimary && s.State != cluster.ServerStandby {
		return false, nil
	}
	err = a.remember(s)
	if a.deps.Managed {
		err = errors.Join(err, a.keepSlots(ctx, s))
	}
	state := a.deps.State()
	source := state.Backend(state.Primary)
	if a.deps.Managed && source != nil && s.Follows == source.Name && !idle.IsZero() && time.Since(idle) >= idleLook {
		gone, askErr := a.logGone(ctx, source, s)
		return gone, errors.Join(err, askErr)
	}
	return false, err
}

// remember writes down what is needed when the server does not run.
func (a *Agent) remember(s seen) error {
	dir := a.dataDir()
	l := s.layout
	wal := filepath.Join(dir, "pg_wal")
	if target, err := filepath.EvalSymlinks(wal); err == nil && target != wal {
		l.WALDirectory = target
	}
	links, err := os.ReadDir(filepath.Join(dir, "pg_tblspc"))
	if err != nil {
		return fmt.Errorf("look at tablespaces: %w", err)
	}
	for _, e := range links {
		if target, err := os.Readlink(filepath.Join(dir, "pg_tblspc", e.Name())); err == nil {
			if l.Tablespaces == nil {
				l.Tablespaces = make(map[string]string)
			}
			l.Tablespaces[e.Name()] = target
		}
	}
	if exists(filepath.Join(dir, markerInData)) {
		return nil // its configuration may be its source's
	}
	if sig := signature(dir); sig != a.keptAs {
		if err := a.files.keep(dir); err != nil {
			return err
		}
		a.keptAs = sig
	}
	a.known.Store(&l)
	return a.files.setLayout(l)
}
