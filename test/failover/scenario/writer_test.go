package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgproxy/pgproxy/internal/nettest/rig"
	"github.com/pgproxy/pgproxy/test/failover/installation"
)

// The writer against PostgreSQL itself: killed in the middle of a load it loses
// nothing that it has acknowledged, so the account must say so.
func TestWriterAccountsForACrash(t *testing.T) {
	built, err := installation.Build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "writer-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	c, err := rig.New(t.Context(), rig.Options{Servers: 1, Dir: dir, Binary: built.Proxy})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := c.StartServers(ctx); err != nil {
		t.Fatal(err)
	}
	h1 := c.Host("h1")
	r := &Run{Cluster: c, Log: t.Logf, Primary: h1, At: time.Now()}
	if _, err := h1.QueryApp(ctx, table+"; GRANT ALL ON rows TO app"); err != nil {
		t.Fatal(err)
	}
	r.Writer = NewWriter("crash", time.Millisecond, func() *pgx.ConnConfig {
		return c.ClientConfig(h1.IP, rig.ServerPort, connectTimeout)
	})
	writing, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan struct{})
	go func() { defer close(ended); r.Writer.Run(writing) }()
	for range 2 {
		steps := []func() error{
			func() error { return r.awaitAcked(ctx, time.Now(), 50) },
			h1.KillServer,
			func() error {
				return eventually(ctx, "the server is gone", func(context.Context) error {
					if len(h1.ServerProcesses()) > 0 {
						return errors.New("it is there")
					}
					return nil
				})
			},
			func() error { return h1.StartServer(ctx) },
			func() error { return r.awaitAcked(ctx, time.Now(), 1) },
		}
		for _, step := range steps {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
	}
	stop()
	<-ended
	a, err := r.account(ctx, r.Writer, h1)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(&a)
	if a.Acked < 100 || len(a.Lost) > 0 || len(a.Ghosts) > 0 || a.Sessions != 2 || a.Gap < 10*time.Millisecond {
		t.Errorf("account of two crashes: %s", &a)
	}

	// What is deleted behind the client's back is lost.
	if _, err := h1.QueryApp(ctx, "DELETE FROM rows WHERE id = 7"); err != nil {
		t.Fatal(err)
	}
	if a, err = r.account(ctx, r.Writer, h1); err != nil {
		t.Fatal(err)
	}
	if len(a.Lost) != 1 || a.Lost[0].ID != 7 || !strings.HasPrefix(a.Lost[0].Server, h1.IP+"/0000000") {
		t.Errorf("lost %v, want row 7, acknowledged by %s", a.Lost, h1.IP)
	}
}

func TestAccount(t *testing.T) {
	start := time.Now()
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	row := func(id int64, sent, done int, o Outcome) Row {
		return Row{ID: id, Sent: at(sent), Done: at(done), Outcome: o}
	}
	a := newAccount([]Row{
		row(1, 0, 900, Acked), // a gap before the time that counts
		row(2, 950, 960, Acked),
		row(3, 1000, 1500, Unknown), // under way when it broke
		row(4, 1500, 1510, Failed),
		row(5, 1550, 1560, Failed),
		row(6, 1600, 1660, Acked),
		row(7, 1700, 1760, Acked),
	}, at(1100), map[int64]bool{1: true, 2: true, 3: true, 5: true, 6: true})
	ids := func(rows []Row) string {
		var all []int64
		for _, r := range rows {
			all = append(all, r.ID)
		}
		return fmt.Sprint(all)
	}
	if got := a.Gap; got != 700*time.Millisecond || !a.GapFrom.Equal(at(960)) {
		t.Errorf("gap %s from %s, want 700ms from %s", got, a.GapFrom, at(960))
	}
	for what, got := range map[string][2]string{
		"rows":    {ids(a.Rows), "[3 4 5 6 7]"},
		"failed":  {ids(a.Failed), "[4 5]"},
		"unknown": {ids(a.Unknown), "[3]"},
		"lost":    {ids(a.Lost), "[7]"},
		"ghosts":  {ids(a.Ghosts), "[5]"},
	} {
		if got[0] != got[1] {
			t.Errorf("%s: %s, want %s", what, got[0], got[1])
		}
	}
}

func TestOutcome(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want Outcome
	}{
		"none":              {nil, Acked},
		"transaction lost":  {&pgconn.PgError{Code: "40001"}, Failed},
		"no primary":        {&pgconn.PgError{Code: "57P03"}, Failed},
		"nobody knows":      {&pgconn.PgError{Code: "08007"}, Unknown},
		"connection broken": {errors.New("unexpected EOF"), Unknown},
		"deadline":          {context.DeadlineExceeded, Unknown},
	} {
		if got := outcome(c.err); got != c.want {
			t.Errorf("%s: outcome %d, want %d", name, got, c.want)
		}
	}
}

func TestFindNamesTheOthers(t *testing.T) {
	names := map[string]bool{}
	for _, s := range All() {
		if names[s.Name] || s.Name == "" || s.What == "" || s.Break == nil {
			t.Errorf("scenario %q: no name of its own, or incomplete", s.Name)
		}
		names[s.Name] = true
		if _, err := Find(s.Name); err != nil {
			t.Error(err)
		}
	}
	if _, err := Find("nothing"); err == nil || !strings.Contains(err.Error(), "kill-primary") {
		t.Errorf("the error of a wrong name is %v", err)
	}
}
