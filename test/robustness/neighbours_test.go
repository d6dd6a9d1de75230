package robustness

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgproxy/pgproxy/internal/pgtest"
	"github.com/pgproxy/pgproxy/internal/pgwire"
	"github.com/pgproxy/pgproxy/test/proxytest"
)

const (
	// greedy is the user whose clients misbehave.
	greedy = "greedy"
	// greedyConnections bounds the server connections of that user.
	greedyConnections = 12
)

// TestNeighbours has one user misbehave while others work, and a client of the same
// user, too, in so far as his connections are not all taken. Every one of their
// statements must be successful, and pgproxy's memory is bounded.
func TestNeighbours(t *testing.T) {
	c := neighbourhood(t)
	for _, mode := range []string{"session", "transaction"} {
		t.Run(mode, func(t *testing.T) {
			r := &rig{cluster: c, proxy: startProxy(t, c, proxytest.Options{Sections: fmt.Sprintf(
				"pool: {mode: %s, size: 40, wait: 2s}\nlimits: [{user: %s, max_connections: %d, max_clients: 105}]\n",
				mode, greedy, greedyConnections)})}
			everybody := []string{pgtest.AppUser, greedy}
			r.beside(t, "10000 prepared statements", everybody, testManyStatements)
			r.beside(t, "prepared statements of 90 MB", everybody, testLargeStatements)
			r.beside(t, "1000 settings", everybody, testManySettings)
			r.beside(t, "settings of 60 MB", everybody, testLargeSettings)
			r.beside(t, "100 open transactions", everybody[:1], testManyTransactions)
			r.beside(t, "a byte read now and then", everybody, testSlowReaders)
			r.beside(t, "a byte sent now and then", everybody, testSlowSenders)
			r.beside(t, "too many clients", everybody, testTooManyClients)
		})
	}
}

// TestNeighboursOfTheSameUser bounds the user's time, so that even his own clients that
// behave well lose nothing.
func TestNeighboursOfTheSameUser(t *testing.T) {
	c := neighbourhood(t)
	for _, mode := range []string{"session", "transaction"} {
		t.Run(mode, func(t *testing.T) {
			r := &rig{cluster: c, proxy: startProxy(t, c, proxytest.Options{Sections: fmt.Sprintf(
				"pool: {mode: %s, size: 40, wait: 30s}\n"+
					"limits: [{user: %s, max_connections: %d, transaction: 20s, idle_in_transaction: 2s, idle: 2s, stalled: 2s}]\n",
				mode, greedy, greedyConnections)})}
			everybody := []string{pgtest.AppUser, greedy}
			r.beside(t, "open transactions", everybody, testTransactionsEnded)
			r.beside(t, "a byte read now and then", everybody, testSlowReadersEnded)
			r.beside(t, "a byte sent now and then", everybody, testSlowSendersEnded)
		})
	}
}

func neighbourhood(t *testing.T) *pgtest.Cluster {
	t.Helper()
	c := startCluster(t, 0)
	must(t, c.Primary().Exec(t.Context(), pgtest.AppDatabase, fmt.Sprintf(`
		CREATE ROLE %[1]s LOGIN PASSWORD '%[2]s';
		CREATE TABLE work (id int PRIMARY KEY, n int NOT NULL);
		INSERT INTO work SELECT i, 0 FROM generate_series(1, 10) i;
		CREATE TABLE locked (id int);
		GRANT ALL ON work, locked TO app, %[1]s`, greedy, pgtest.Password(greedy))))
	return c
}

// beside runs a test of misbehaviour with neighbours of these users.
func (r *rig) beside(t *testing.T, name string, users []string, f func(*testing.T, *rig, *neighbours)) {
	t.Helper()
	r.run(t, name, func(t *testing.T) {
		n := r.neighbours(t, users)
		r.bounded(t, func() {
			f(t, r, n)
			n.work(t)
		})
		n.stop(t)
	})
}

// neighbours are clients that behave well, one of each user, and work without a pause.
type neighbours struct {
	wg      sync.WaitGroup
	stopped atomic.Bool
	clients []*neighbour
}

type neighbour struct {
	user   string
	rounds atomic.Int64
	failed chan error
}

func (r *rig) neighbours(t *testing.T, users []string) *neighbours {
	t.Helper()
	n := &neighbours{}
	for i, user := range users {
		nb := &neighbour{user: user, failed: make(chan error, 1)}
		n.clients = append(n.clients, nb)
		dsn, id := r.proxy.DSN(pgtest.AppDatabase, user), i+1
		conn, err := pgx.Connect(t.Context(), dsn)
		must(t, err)
		n.wg.Go(func() {
			defer func() { _ = conn.Close(context.Background()) }()
			for !n.stopped.Load() {
				if err := nb.round(t.Context(), conn, id); err != nil {
					nb.failed <- err
					return
				}
				nb.rounds.Add(1)
			}
		})
	}
	t.Cleanup(func() { n.stopped.Store(true); n.wg.Wait() })
	n.work(t)
	return n
}

// round is what a client does of each kind: prepared statements, a transaction, a look
// at its settings.
func (nb *neighbour) round(ctx context.Context, conn *pgx.Conn, id int) error {
	ctx, done := context.WithTimeout(ctx, hangTimeout)
	defer done()
	var before, after int
	if err := conn.QueryRow(ctx, "SELECT n FROM work WHERE id = $1", id).Scan(&before); err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "UPDATE work SET n = n + 1 WHERE id = $1", id)
		return err
	}); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if err := conn.QueryRow(ctx, "SELECT n FROM work WHERE id = $1", id).Scan(&after); err != nil {
		return fmt.Errorf("read again: %w", err)
	}
	if after != before+1 {
		return fmt.Errorf("read %d after %d and one more", after, before)
	}
	var settings string
	if err := conn.QueryRow(ctx, `SELECT current_setting('work_mem')
		|| coalesce(current_setting('greedy.setting1', true), '')`).Scan(&settings); err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	if settings != "4MB" {
		return fmt.Errorf("somebody else's settings: %q", settings)
	}
	return nil
}

// work waits until every neighbour has done some more.
func (n *neighbours) work(t *testing.T) {
	t.Helper()
	for _, nb := range n.clients {
		want := nb.rounds.Load() + 20
		await(t, func() error {
			select {
			case err := <-nb.failed:
				nb.failed <- err
				t.Fatalf("a client of %s that behaves well: %v", nb.user, err)
			default:
			}
			if done := nb.rounds.Load(); done < want {
				return fmt.Errorf("a client of %s has done %d rounds, want %d", nb.user, done, want)
			}
			return nil
		})
	}
}

func (n *neighbours) stop(t *testing.T) {
	t.Helper()
	n.stopped.Store(true)
	n.wg.Wait()
	for _, nb := range n.clients {
		select {
		case err := <-nb.failed:
			t.Errorf("a client of %s that behaves well: %v", nb.user, err)
		default:
		}
	}
}

func (r *rig) greedyWire(t *testing.T) *wire {
	t.Helper()
	return openWire(t, r.proxy.DSN(pgtest.AppDatabase, greedy))
}

// answered reads up to ReadyForQuery. What pgproxy refuses for a limit is false; no
// other error may come.
func (w *wire) answered() bool {
	w.t.Helper()
	within := true
	for {
		m, err := w.read()
		must(w.t, err)
		switch m.typ {
		case pgwire.ReadyForQuery:
			return within
		case pgwire.ErrorResponse:
			if m.code() != "54000" || !strings.HasPrefix(m.text(), "pgproxy: ") {
				w.t.Fatalf("got %s %s", m.code(), m.text())
			}
			within = false
		}
	}
}

func testManyStatements(t *testing.T, r *rig, n *neighbours) {
	prepareMany(t, r.greedyWire(t), 10_000, 0, n)
}

func testLargeStatements(t *testing.T, r *rig, n *neighbours) {
	prepareMany(t, r.greedyWire(t), 1500, 60_000, n)
}

// prepareMany prepares statements with so much padding, and uses some of those that it
// was granted.
func prepareMany(t *testing.T, w *wire, count, padding int, n *neighbours) {
	t.Helper()
	const batch = 100
	granted := 0
	for i := 0; i < count; i += batch {
		var b []byte
		for k := i; k < i+batch; k++ {
			sql := fmt.Sprintf("SELECT %d /* %*d */", k, padding, k)
			b = pgwire.AppendSync(pgwire.AppendParse(b, fmt.Sprint("s", k), sql, nil))
		}
		sent := make(chan error, 1)
		go func() { _, err := w.Write(b); sent <- err }()
		for range batch {
			if w.answered() {
				granted++
			}
		}
		must(t, <-sent)
	}
	n.work(t)
	t.Logf("%d of %d statements were granted", granted, count)
	if granted < 500 {
		t.Errorf("%d statements were granted", granted)
	}
	for k := 0; k < granted; k += granted / 50 {
		name := fmt.Sprint("s", k)
		b := pgwire.AppendMessage(nil, pgwire.Bind, append(append([]byte{0}, name...), make([]byte, 7)...))
		b = pgwire.AppendMessage(b, pgwire.Execute, make([]byte, 5))
		w.send(pgwire.AppendSync(b))
		row := w.expect(pgwire.DataRow)
		w.expect(pgwire.ReadyForQuery)
		if got := string(row.head[6:]); got != fmt.Sprint(k) {
			t.Errorf("statement %s answers %q", name, got)
		}
	}
	must(t, w.Close())
}

// testManySettings makes settings with and without a transaction.
func testManySettings(t *testing.T, r *rig, n *neighbours) {
	const count = 1000
	w := r.greedyWire(t)
	granted := make([]bool, count)
	for i := range count {
		if i == count/2 {
			w.exec("BEGIN")
		}
		w.query(fmt.Sprintf("SET greedy.setting%d = '%0200d'", i, i))
		granted[i] = w.answered()
	}
	w.exec("COMMIT")
	n.work(t)
	for i := 0; i < count; i += 50 {
		if !granted[i] {
			continue
		}
		if got := w.value(fmt.Sprintf("SELECT current_setting('greedy.setting%d')", i)); got != fmt.Sprintf("%0200d", i) {
			t.Errorf("setting %d is %q", i, got)
		}
	}
	for i := range count { // the same one again and again
		w.query(fmt.Sprintf("SET work_mem = '%dkB'", 1000+i))
		if !w.answered() {
			t.Fatal("a setting of which there is one was refused")
		}
	}
	n.work(t)
	if got := w.value("SELECT current_setting('work_mem')"); got != fmt.Sprintf("%dkB", 1000+count-1) {
		t.Errorf("work_mem is %q", got)
	}
	must(t, w.Close())
}

// testLargeSettings makes more settings in one transaction than anybody wants to know.
func testLargeSettings(t *testing.T, r *rig, n *neighbours) {
	const count = 1000
	w := r.greedyWire(t)
	w.exec("BEGIN")
	for i := range count {
		w.query(fmt.Sprintf("SET greedy.large%d = '%060000d'", i%10, i))
		if !w.answered() {
			t.Fatal("a setting of which there are ten was refused")
		}
	}
	w.exec("COMMIT")
	n.work(t)
	for i := range 10 {
		if got := w.value(fmt.Sprintf("SELECT ltrim(current_setting('greedy.large%d'), '0')", i)); got != fmt.Sprint(count-10+i) {
			t.Errorf("setting %d is %q", i, got)
		}
	}
	must(t, w.Close())
}

// openTransactions opens so many at the same time, and returns the sessions that are in
// one and why the others are not.
func openTransactions(t *testing.T, r *rig, count int) (open []*pgx.Conn, refused []error) {
	t.Helper()
	var wg sync.WaitGroup
	var mu sync.Mutex
	for range count {
		wg.Go(func() {
			ctx, done := context.WithTimeout(t.Context(), 2*hangTimeout)
			defer done()
			conn, err := pgx.Connect(ctx, r.proxy.DSN(pgtest.AppDatabase, greedy))
			if err == nil {
				t.Cleanup(func() { _ = conn.Close(context.Background()) })
				if _, err = conn.Exec(ctx, "BEGIN"); err == nil {
					_, err = conn.Exec(ctx, "INSERT INTO locked VALUES (1)")
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				open = append(open, conn)
			} else {
				refused = append(refused, err)
			}
		})
	}
	wg.Wait()
	return open, refused
}

// testManyTransactions: as many are open as the user may have connections.
func testManyTransactions(t *testing.T, r *rig, n *neighbours) {
	open, refused := openTransactions(t, r, 100)
	if len(open) != greedyConnections {
		t.Errorf("%d transactions are open, want %d", len(open), greedyConnections)
	}
	for _, err := range refused {
		e := pgError(err)
		if e == nil || e.Code != "53300" || !strings.HasPrefix(e.Message, "pgproxy: no server connection to ") ||
			!strings.Contains(e.Message, fmt.Sprintf(`user "greedy" within 2s: limits.max_connections %d for user "greedy"`, greedyConnections)) {
			t.Errorf("refused with %v", err)
			break
		}
	}
	n.work(t)
	r.onPrimary(t, "SELECT count(*) = %d FROM pg_stat_activity WHERE usename = 'greedy' AND state = 'idle in transaction'", greedyConnections)
	for _, conn := range open {
		must(t, conn.Close(t.Context()))
	}
	r.onPrimary(t, "SELECT count(*) = 0 FROM locked")
}

// testTransactionsEnded: each of them is ended, and the next one comes.
func testTransactionsEnded(t *testing.T, r *rig, n *neighbours) {
	open, refused := openTransactions(t, r, 4*greedyConnections)
	for _, err := range refused {
		t.Errorf("refused with %v", err)
		break
	}
	n.work(t)
	for _, conn := range open {
		ctx, done := context.WithTimeout(t.Context(), hangTimeout)
		e := pgError(conn.PgConn().WaitForNotification(ctx))
		done()
		if e == nil || e.Code != "25P03" || e.Message != "pgproxy: terminating connection: idle in a transaction for longer than 2s" {
			t.Errorf("ended with %v", e)
			break
		}
	}
	r.onPrimary(t, "SELECT count(*) = 0 FROM pg_locks WHERE relation = 'locked'::regclass")
}

// slow is how many clients are slow at the same time: fewer than the user may have
// connections.
const slow = greedyConnections - 4

func slowReaders(t *testing.T, r *rig) (all []*wire) {
	t.Helper()
	for range slow {
		w := r.greedyWire(t)
		w.query(endless)
		w.expect(pgwire.DataRow)
		all = append(all, w)
	}
	return all
}

// testSlowReaders: between two bytes the neighbours do their work.
func testSlowReaders(t *testing.T, r *rig, n *neighbours) {
	all := slowReaders(t, r)
	for range 5 {
		for _, w := range all {
			_, err := w.Read(make([]byte, 1))
			must(t, err)
		}
		n.work(t)
	}
	for _, w := range all {
		must(t, w.Close())
	}
}

// testSlowReadersEnded: who reads nothing is ended, who reads little is not. The latter
// has a small buffer, so that what he takes takes long to be all of one write.
func testSlowReadersEnded(t *testing.T, r *rig, n *neighbours) {
	w := r.greedyWire(t)
	must(t, w.Conn.(*net.TCPConn).SetReadBuffer(8<<10))
	w.query(endless)
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		tick := time.NewTicker(30 * time.Millisecond)
		defer tick.Stop()
		for buf := make([]byte, 1<<10); ; {
			select {
			case <-stop:
				stopped <- nil
				return
			case <-tick.C:
				if _, err := w.Read(buf); err != nil {
					stopped <- err
					return
				}
			}
		}
	}()
	for range 2 {
		all := slowReaders(t, r)
		n.work(t)
		r.onPrimary(t, "SELECT count(*) <= 1 FROM pg_stat_activity WHERE usename = 'greedy' AND state = 'active' AND query LIKE '%%1000000000%%'")
		for _, w := range all {
			w.endsRaw()
		}
	}
	close(stop)
	if err := <-stopped; err != nil {
		t.Errorf("a client that reads slowly: %v", err)
	}
	must(t, w.Close())
}

// testSlowSenders sends the bytes of a statement one by one, and of a pipeline.
func testSlowSenders(t *testing.T, r *rig, n *neighbours) {
	message := append(pgwire.AppendParse(nil, "", "SELECT 4711", nil), pgwire.AppendMessage(nil, pgwire.Bind, make([]byte, 8))...)
	message = pgwire.AppendSync(pgwire.AppendMessage(message, pgwire.Execute, make([]byte, 5)))
	var all []*wire
	for range slow {
		all = append(all, r.greedyWire(t))
	}
	for i := range message {
		for _, w := range all {
			w.send(message[i : i+1])
		}
		if i%16 == 0 {
			n.work(t)
		}
	}
	for _, w := range all {
		if row := w.expect(pgwire.DataRow); string(row.head[6:]) != "4711" {
			t.Errorf("got %q", row.head)
		}
		w.expect(pgwire.ReadyForQuery)
		must(t, w.Close())
	}
}

// testSlowSendersEnded sends on until it is ended.
func testSlowSendersEnded(t *testing.T, r *rig, n *neighbours) {
	query := pgwire.AppendQuery(nil, strings.Repeat(" ", 1<<20))
	var all []*wire
	for range slow {
		all = append(all, r.greedyWire(t))
	}
	for _, w := range all {
		ended := make(chan message, 1)
		go func() {
			m, err := w.read()
			if err != nil {
				m.head = []byte(err.Error())
			}
			ended <- m
		}()
		m := message{}
		for i := 0; m.typ == 0 && len(m.head) == 0; i++ {
			n.work(t)
			select {
			case m = <-ended:
			default:
				if _, err := w.Write(query[i : i+1]); err != nil {
					m = <-ended
				}
			}
		}
		if m.code() != "57P05" || m.text() != "pgproxy: terminating connection: idle for longer than 2s" {
			t.Errorf("ended with %q: %s %s", m.head, m.code(), m.text())
		}
	}
}

// testTooManyClients connects more than the user may.
func testTooManyClients(t *testing.T, r *rig, n *neighbours) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	codes := map[string]int{}
	in := make(chan struct{})
	for range 115 {
		wg.Go(func() {
			conn, err := pgconn.Connect(t.Context(), r.proxy.DSN(pgtest.AppDatabase, greedy))
			what := "in"
			if e, ok := errors.AsType[*pgconn.PgError](err); ok {
				what = e.Code + " " + e.Message
			} else if err != nil {
				what = err.Error()
			}
			mu.Lock()
			codes[what]++
			mu.Unlock()
			if err == nil {
				<-in
				_ = conn.Close(context.Background())
			}
		})
	}
	n.work(t)
	await(t, func() error {
		mu.Lock()
		defer mu.Unlock()
		if got := codes[`53300 pgproxy: too many clients for user "greedy": at most 105 at a time`]; got != 11 { // the neighbour is one of them
			return fmt.Errorf("%d are too many, want 11: %v", got, codes)
		}
		return nil
	})
	close(in)
	wg.Wait()
}
