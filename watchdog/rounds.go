package watchdog

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// errRound is returned when no majority confirmed the leadership in time.
var errRound = errors.New("no majority confirms that this member leads")

// maxAsked bounds the questions to one member that have no answer yet. One that is
// gone answers none.
const maxAsked = 4

// rounds are the quorum rounds of S1. A round serves all who came before it began;
// who comes while it runs waits for the next one.
type rounds struct {
	wake chan struct{} // of one place

	mu struct {
		sync.Mutex
		waiting []chan<- round
	}
	asked sync.Map // server id -> *atomic.Int32
}

// round is what came of one.
type round struct {
	sent time.Time // of its nonce
	err  error
}

// nonceRequest asks a voter whether it knows of a newer leader.
type nonceRequest struct {
	To    string `json:"to"` // id of the server that is asked
	Term  uint64 `json:"term"`
	Nonce string `json:"nonce"`
}

// nonceAnswer is the echo.
type nonceAnswer struct {
	Nonce string `json:"nonce"`
}

// confirm waits for a round that begins after this call.
func (l *leadership) confirm(ctx context.Context) (round, error) {
	done := make(chan round, 1)
	l.round.mu.Lock()
	l.round.mu.waiting = append(l.round.mu.waiting, done)
	l.round.mu.Unlock()
	poke(l.round.wake)
	select {
	case r := <-done:
		return r, r.err
	case <-l.over:
		return round{}, ErrNotLeader
	case <-ctx.Done():
		return round{}, fmt.Errorf("confirm the leadership: %w", ctx.Err())
	}
}

func (l *leadership) runRounds(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.round.wake:
		}
		l.round.mu.Lock()
		waiting := l.round.mu.waiting
		l.round.mu.waiting = nil
		l.round.mu.Unlock()
		r := l.ask(ctx)
		if r.err == nil {
			l.w.metrics.rounds.WithLabelValues(roundConfirmed).Inc()
		} else {
			l.w.metrics.rounds.WithLabelValues(roundRefused).Inc()
		}
		for _, done := range waiting {
			done <- r
		}
	}
}

// ask makes one round: a fresh nonce goes to every voter, and a majority, this
// server counted directly, must echo it. It does not wait for the others.
func (l *leadership) ask(ctx context.Context) round {
	r := round{sent: time.Now()}
	ctx, cancel := context.WithTimeout(ctx, l.w.cfg.Lease/2)
	nonce := newNonce()
	voters, votes, open := 0, 0, 0
	var refusals []error
	servers := l.n.servers()
	echoes := make(chan error, len(servers))
	var asked sync.WaitGroup
	for _, s := range servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		voters++
		if string(s.ID) == l.n.id {
			votes++
			continue
		}
		open++
		asked.Go(func() { echoes <- l.askOne(ctx, s, nonce) })
	}
	l.wg.Go(func() { // the slow ones
		asked.Wait()
		cancel()
	})
	for need := voters/2 + 1; votes < need; open-- {
		if votes+open < need {
			r.err = fmt.Errorf("%w: %w", errRound, errors.Join(refusals...))
			return r
		}
		// Comes when ctx ends at the latest.
		if err := <-echoes; err == nil {
			votes++
		} else {
			refusals = append(refusals, err)
		}
	}
	if !l.n.leads(l.term) {
		r.err = ErrNotLeader
	}
	return r
}

// askOne asks one voter. Its echo must be of this round's nonce.
func (l *leadership) askOne(ctx context.Context, s raft.Server, nonce string) error {
	v, _ := l.round.asked.LoadOrStore(string(s.ID), new(atomic.Int32))
	count := v.(*atomic.Int32)
	defer count.Add(-1)
	if count.Add(1) > maxAsked {
		return errRound
	}
	var a nonceAnswer
	if err := l.w.caller.call(ctx, s.Address, "nonce", nonceRequest{To: string(s.ID), Term: l.term, Nonce: nonce}, &a); err != nil {
		return err
	}
	if a.Nonce != nonce {
		return errRound
	}
	return nil
}

// echo answers a leader's nonce: only while no term higher than the leader's is
// known here, read after the question arrived. A voter raises its term, on disk too,
// before it votes; so the echo says that it had not voted for a newer leader.
func (w *Watchdog) echo(q nonceRequest) (nonceAnswer, error) {
	n := w.node.Load()
	if q.To != n.id {
		return nonceAnswer{}, fmt.Errorf("the nonce is for %s, this is %s", q.To, n.id)
	}
	if !n.voter() {
		return nonceAnswer{}, fmt.Errorf("%s has no vote", n.id)
	}
	if term := n.raft.CurrentTerm(); term > q.Term {
		return nonceAnswer{}, fmt.Errorf("term is %d, the nonce has %d: %w", term, q.Term, ErrNotLeader)
	}
	return nonceAnswer{Nonce: q.Nonce}, nil
}
