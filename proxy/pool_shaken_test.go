package proxy

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// shakenPool is a pool of user u with three idle connections beside one that is lent, a
// minute after their logins. Looks at the server are answered by looks.
func shakenPool(t *testing.T) (pp *pipePools, looks chan bool, lent *serverConn, idle []uint64) {
	t.Helper()
	cfg := transactionPool()
	cfg.Size = 5
	pp = newPipePools(cfg, nil, oneBackend(0))
	t.Cleanup(func() {
		pp.shutdown()
		for l := range pp.pools.mu.byName["h1"].links { // what the test has not given back
			_ = l.raw.Close()
		}
	})
	looks = make(chan bool)
	pp.goesOn = func(ctx context.Context, _ string, _ uint64) bool {
		select {
		case goesOn := <-looks:
			return goesOn
		case <-ctx.Done():
			return false
		}
	}
	var loans []*serverConn
	for range 4 {
		loans = append(loans, pp.wantOn(0, testClient("u")).sc)
	}
	for _, sc := range loans[1:] {
		pp.release(sc, true)
		idle = append(idle, sc.id)
	}
	advance(time.Minute)
	return pp, looks, loans[0], idle
}

// ended is what a session does with a connection that its server has ended.
func ended(sc *serverConn) {
	sc.broke()
	sc.Close()
}

func TestPoolLooksBeforeItLendsBesideAnEndedConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pp, looks, lent, idle := shakenPool(t)
		c, b := testClient("u"), pp.backend(0)
		ended(lent)
		if pp.try(b, c) != nil {
			t.Fatal("lent without a look")
		}
		w := pp.wantOn(0, c)
		if w.done.Load() {
			t.Fatal("lent during the look")
		}
		looks <- true
		synctest.Wait()
		if !w.done.Load() || w.err != nil || w.sc.id != idle[2] {
			t.Fatalf("done %v, %v; want connection %d", w.done.Load(), w.err, idle[2])
		}
		pp.release(w.sc, true)
		if sc := pp.try(b, c); sc == nil || sc.id != idle[2] {
			t.Error("in doubt after the look")
		}
	})
}

func TestPoolClosesWhatIsIdleWhenTheServerDoesNotGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pp, looks, lent, idle := shakenPool(t)
		ended(lent)
		w := pp.wantOn(0, testClient("u"))
		exact := pp.ask(testClient("u"), func(ctx context.Context) (*serverConn, error) {
			return pp.acquireExact(ctx, pp.backend(0), testClient("u"), idle[0], 1), nil
		})
		looks <- false
		synctest.Wait()
		if !w.done.Load() || w.err != nil || w.sc.id <= idle[2] {
			t.Errorf("done %v, %v; want a new connection", w.done.Load(), w.err)
		}
		if !exact.done.Load() || exact.sc != nil {
			t.Error("lent after the look")
		}
		if n := pp.count()["h1"]; n != [4]int{0, 1, 0, 0} {
			t.Errorf("connections by state %v, want one that is used", n)
		}
	})
}

// While servers are dying one may give an answer and end.
func TestPoolDoubtsWhatIsGivenBackBesideAnEndedConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pp, looks, lent, idle := shakenPool(t)
		c, b := testClient("u"), pp.backend(0)
		early, late := pp.try(b, c), pp.try(b, c)
		ended(lent)
		pp.release(early, true)
		if pp.try(b, c) != nil {
			t.Error("given back at that moment and lent without a look")
		}
		advance(dying)
		pp.release(late, true)
		if sc := pp.try(b, c); sc == nil || sc.id != idle[1] {
			t.Error("what has answered later is in no doubt")
		}
		looks <- true
	})
}

// A client that has its own server process ended all the time.
func TestPoolOfAClientThatEndsItsServersIsUsable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pp, looks, lent, idle := shakenPool(t)
		c, b := testClient("u"), pp.backend(0)
		other := pp.try(b, c)
		ended(lent)
		looks <- true
		synctest.Wait()
		pp.release(other, true)
		for step := 10 * time.Millisecond; step < shakenGap; step += 10 * time.Millisecond {
			advance(10 * time.Millisecond)
			if other = pp.try(b, c); other == nil || other.id != idle[2] {
				t.Fatalf("%v after the first one", step)
			}
			victim := pp.try(b, c)
			if victim == nil {
				victim = pp.wantOn(0, c).sc
			}
			pp.release(other, true)
			ended(victim)
		}
		advance(shakenGap)
		victim := pp.wantOn(0, c).sc
		ended(victim)
		looks <- true // once a second
	})
}
