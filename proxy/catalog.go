package proxy

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgproxy/pgproxy/lb"
)

// catalogs holds what the databases in use say about their functions and
// relations, and has it read in the background.
type catalogs struct {
	// load reads a catalog; with the fingerprint of the last reading it may answer
	// nil: nothing has changed.
	load    func(ctx context.Context, database, fingerprint string) (*lb.Catalog, string, error)
	refresh atomic.Int64 // a Duration
	log     *slog.Logger
	wanted  chan *catalogOf // to run; full: the request is made again with the next statement

	mu struct {
		sync.Mutex
		byDatabase map[string]*catalogOf
	}
}

// catalogOf is the catalog of one database.
type catalogOf struct {
	all      *catalogs
	database string
	current  atomic.Pointer[lb.Catalog] // the last one read; nil: none yet
	changes  atomic.Uint64              // raised by DDL
	read     atomic.Uint64              // changes when the reading of current began
	tried    atomic.Int64               // monotonic time of the last attempt's end
	queued   atomic.Bool
	first    chan struct{} // closed after the first attempt

	fingerprint string // of current; used by the reader only, as is:
	failures    int    // attempts that have failed since the last one that did not
}

const (
	// maxCatalogLoads bounds the databases whose catalogs are read at once.
	maxCatalogLoads = 2
	// catalogTimeout bounds one reading.
	catalogTimeout = 30 * time.Second
	// catalogGap is the least time between two readings of one catalog; it doubles
	// with each failure, six times at most.
	catalogGap = 250 * time.Millisecond
	// catalogWait is how long the first sessions of a database wait for its catalog.
	catalogWait = 2 * time.Second
)

func newCatalogs(cfg lb.Config, load func(context.Context, string, string) (*lb.Catalog, string, error), log *slog.Logger) *catalogs {
	c := &catalogs{load: load, log: log, wanted: make(chan *catalogOf, 256)}
	c.refresh.Store(int64(cfg.CatalogRefresh))
	c.mu.byDatabase = make(map[string]*catalogOf)
	return c
}

// of returns the catalog of a database, which is read when somebody wants it.
func (c *catalogs) of(database string) *catalogOf {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.mu.byDatabase[database]
	if d == nil {
		d = &catalogOf{all: c, database: database, first: make(chan struct{})}
		c.mu.byDatabase[database] = d
	}
	return d
}

// await waits until the catalog was read, or could not be, for the first time.
func (d *catalogOf) await(ctx context.Context) {
	if d.current.Load() != nil {
		return
	}
	d.want()
	timer := time.NewTimer(catalogWait)
	defer timer.Stop()
	select {
	case <-d.first:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// get returns the catalog that was read last, nil when there is none; valid: no
// DDL is known to have come since. It asks for a new reading when the last one is
// old.
func (d *catalogOf) get(now int64) (cat *lb.Catalog, valid bool) {
	cat = d.current.Load()
	valid = d.read.Load() == d.changes.Load()
	if !valid || now-d.tried.Load() > d.all.refresh.Load() {
		d.want()
	}
	return cat, valid
}

// want asks for a reading in the background.
func (d *catalogOf) want() {
	if d.queued.Load() || d.queued.Swap(true) {
		return
	}
	select {
	case d.all.wanted <- d:
	default:
		d.queued.Store(false)
	}
}

// invalidate is called after DDL: until the catalog has been read again, nothing
// is taken for a read.
func (d *catalogOf) invalidate() {
	d.changes.Add(1)
	d.want()
}

// run reads catalogs until ctx ends.
func (c *catalogs) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for range maxCatalogLoads {
		wg.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case d := <-c.wanted:
					c.update(ctx, d)
				}
			}
		})
	}
}

// update reads one catalog, catalogGap after its last reading at the earliest.
func (c *catalogs) update(ctx context.Context, d *catalogOf) {
	if tried := d.tried.Load(); tried > 0 {
		gap := time.NewTimer(catalogGap<<min(d.failures, 6) - time.Duration(monotonic()-tried))
		defer gap.Stop()
		select {
		case <-gap.C:
		case <-ctx.Done():
			return
		}
	}
	changes := d.changes.Load() // what comes while it is read is not in it for sure
	ctx, done := context.WithTimeout(ctx, catalogTimeout)
	defer done()
	cat, fingerprint, err := c.load(ctx, d.database, d.fingerprint)
	switch {
	case err == nil:
		if cat != nil {
			d.current.Store(cat)
		}
		d.fingerprint, d.failures = fingerprint, 0
		d.read.Store(changes)
	case ctx.Err() == nil:
		d.failures++
		if d.failures&(d.failures-1) == 0 { // 1, 2, 4, ...
			c.log.Warn("catalog not read; reads of this database go to the primary",
				"database", d.database, "failures", d.failures, "error", err)
		}
	}
	if d.tried.Swap(monotonic()) == 0 {
		close(d.first)
	}
	d.queued.Store(false)
}
