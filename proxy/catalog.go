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
	load    func(ctx context.Context, database string) (*lb.Catalog, error)
	refresh time.Duration
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
	current  atomic.Pointer[lb.Catalog] // nil: not known
	queued   atomic.Bool
	changes  atomic.Uint64 // raised by DDL; what was read before is not valid
	loaded   atomic.Int64  // monotonic; of the last attempt
}

const (
	// maxCatalogLoads bounds the databases whose catalogs are read at once.
	maxCatalogLoads = 2
	// catalogTimeout bounds one reading.
	catalogTimeout = 30 * time.Second
	// catalogPause is how long after a failed reading the next one may start.
	catalogPause = time.Second
)

func newCatalogs(cfg lb.Config, load func(context.Context, string) (*lb.Catalog, error), log *slog.Logger) *catalogs {
	c := &catalogs{load: load, refresh: cfg.CatalogRefresh, log: log, wanted: make(chan *catalogOf, 256)}
	c.mu.byDatabase = make(map[string]*catalogOf)
	return c
}

// of returns the catalog of a database, which is read when somebody wants it.
func (c *catalogs) of(database string) *catalogOf {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.mu.byDatabase[database]
	if d == nil {
		d = &catalogOf{all: c, database: database}
		c.mu.byDatabase[database] = d
	}
	return d
}

// load returns the catalog, nil when it is not known. It asks for a new reading
// when the last one is old.
func (d *catalogOf) load() *lb.Catalog {
	cat := d.current.Load()
	if cat != nil && monotonic()-d.loaded.Load() > int64(d.all.refresh) {
		d.want()
	}
	return cat
}

// want asks for a reading in the background.
func (d *catalogOf) want() {
	if d.queued.Swap(true) {
		return
	}
	select {
	case d.all.wanted <- d:
	default:
		d.queued.Store(false)
	}
}

// invalidate is called after DDL: until the catalog has been read again, nothing
// is known.
func (d *catalogOf) invalidate() {
	d.changes.Add(1)
	d.current.Store(nil)
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
					c.read(ctx, d)
				}
			}
		})
	}
}

// read reads one catalog. A reading during which DDL ended is not used.
func (c *catalogs) read(ctx context.Context, d *catalogOf) {
	changes := d.changes.Load()
	lctx, done := context.WithTimeout(ctx, catalogTimeout)
	cat, err := c.load(lctx, d.database)
	done()
	if err != nil && ctx.Err() == nil {
		c.log.Warn("catalog not read; reads of this database go to the primary", "database", d.database, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(catalogPause):
		}
	}
	d.loaded.Store(monotonic())
	d.queued.Store(false)
	switch {
	case err != nil:
		d.current.Store(nil)
	case d.changes.Load() != changes:
		d.want()
	default:
		d.current.Store(cat)
		if d.changes.Load() != changes {
			d.current.Store(nil)
			d.want()
		}
	}
}
