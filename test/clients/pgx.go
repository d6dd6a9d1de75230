package clients

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// pgxConnection uses pgx with its defaults: every statement is prepared once and
// run by its name from then on.
type pgxConnection struct{ conn *pgx.Conn }

func connectPgx(ctx context.Context, config *pgx.ConnConfig) (*pgxConnection, error) {
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, pgxError(err)
	}
	return &pgxConnection{conn}, nil
}

func (p *pgxConnection) exec(ctx context.Context, sql string, args ...any) error {
	tag, err := p.conn.Exec(ctx, sql, args...)
	if err == nil && sql == "COMMIT" && tag.String() != sql {
		err = fmt.Errorf("COMMIT was answered by %s", tag)
	}
	return pgxError(err)
}

func (p *pgxConnection) value(ctx context.Context, sql string, args ...any) (v int64, err error) {
	err = p.conn.QueryRow(ctx, sql, args...).Scan(&v)
	return v, pgxError(err)
}

func (p *pgxConnection) closed() bool { return p.conn.IsClosed() }

func (p *pgxConnection) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = p.conn.Close(ctx) // what it was told has been reported
}

func pgxError(err error) error {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return &sqlError{state: e.Code, text: e.Severity + ": " + e.Message}
	}
	return err
}

// listener is a client of pgx that listens. It connects again whenever its
// connection ends, as it has to, and reports what it receives.
type listener struct {
	client
	config *pgx.ConnConfig
}

// run ends with ctx.
func (l *listener) run(ctx context.Context) {
	for ctx.Err() == nil {
		started := time.Now()
		conn, err := connectPgx(ctx, l.config)
		if ctx.Err() != nil {
			return
		}
		l.tell(opConnect, 0, started, err)
		if err == nil {
			l.conn = conn
			l.listen(ctx, conn)
			conn.close()
			l.conn = nil
		}
		pause := time.NewTimer(reconnectPause)
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
	}
}

// listen receives until the connection ends.
func (l *listener) listen(ctx context.Context, conn *pgxConnection) {
	started := time.Now()
	err := conn.exec(ctx, "LISTEN clients")
	if err == nil {
		l.tell(opListen, 0, started, nil)
		err = l.receive(ctx, conn)
	}
	if ctx.Err() == nil {
		l.tell(opListen, 0, started, err)
	}
}

func (l *listener) receive(ctx context.Context, conn *pgxConnection) error {
	for {
		n, err := conn.conn.WaitForNotification(ctx)
		if err != nil {
			return pgxError(err)
		}
		id, err := strconv.ParseInt(n.Payload, 10, 64)
		if err != nil {
			return fmt.Errorf("read notification: %w", err)
		}
		l.tell(opNotified, id, time.Now(), nil)
	}
}
