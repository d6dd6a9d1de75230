package scenario

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgproxy/pgproxy/internal/nettest/rig"
)

// Reader reads on one connection as long as it lasts, as often as a Writer writes,
// and notes what fails.
type Reader struct {
	errs  []error // the first ones
	count int
	reads int
}

// maxErrors is how many errors a reader keeps.
const maxErrors = 5

// read starts a reader that runs until the run's writers are stopped.
func (r *Run) read(ctx context.Context) {
	reader := &Reader{}
	r.readers = append(r.readers, reader)
	r.wait.Go(func() { reader.run(ctx, r.Cluster, r.Writer.name) })
}

func (d *Reader) fail(what string, err error) {
	if d.count++; len(d.errs) < maxErrors {
		d.errs = append(d.errs, fmt.Errorf("%s at %s: %w", what, time.Now().Format(stamp), err))
	}
}

func (d *Reader) run(ctx context.Context, c *rig.Cluster, writer string) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	var conn *pgx.Conn
	defer func() { hangUp(conn) }()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if conn == nil || conn.IsClosed() {
			var err error
			if conn, err = pgx.ConnectConfig(ctx, c.ClientConfig(c.VIP, rig.ProxyPort, connectTimeout)); err != nil {
				if ctx.Err() == nil {
					d.fail("connect", err)
				}
				conn = nil
				continue
			}
		}
		asking, cancel := context.WithTimeout(context.Background(), statementTimeout)
		var n int
		err := conn.QueryRow(asking, "SELECT count(*) FROM rows WHERE writer = $1", writer).Scan(&n)
		cancel()
		d.reads++
		if err != nil {
			d.fail("read", err)
		}
	}
}

// judge says what a reader must not have met where clients notice nothing.
func (d *Reader) judge() error {
	if d.count == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d reads failed: %w", d.count, d.reads, errors.Join(d.errs...))
}
