package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// connect opens a connection that ends when it is closed: pgconn, when a query
// runs out of time, closes it in a goroutine of its own that first connects again
// to cancel the query and waits up to 15 s for the answers. Of a server that
// hangs that would leave one more each second.
func connect(ctx context.Context, conn ConnConfig, backend string) (*pgconn.PgConn, error) {
	cfg, err := conn(backend)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errSkipped, err)
	}
	dial := cfg.DialFunc
	var open atomic.Bool
	cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if open.Load() {
			return nil, errors.New("queries of probes are not cancelled")
		}
		return dial(ctx, network, addr)
	}
	c, err := pgconn.ConnectConfig(ctx, cfg)
	open.Store(true)
	return c, err
}

// disconnect says good-bye and closes c, at once when the server does not listen.
func disconnect(c *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	// Nothing is lost with the connection, whatever these return.
	_ = c.Close(ctx)
	_ = c.Conn().Close()
	<-c.CleanupDone()
}
