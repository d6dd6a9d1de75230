package watchdog

import (
	"context"
	"sync"

	"github.com/hashicorp/raft"
)

// maxCancels bounds the questions to one member about a cancel key that have no answer
// yet: a member that is gone must not collect them.
const maxCancels = 16

// cancelRequest asks a member to cancel what runs for the session of that key.
type cancelRequest struct {
	PID    uint32 `json:"pid"`
	Secret []byte `json:"secret"` // never logged
}

type cancelAnswer struct {
	Known bool `json:"known"`
}

// CancelElsewhere asks all other members whether they have a session with that key.
// It returns true as soon as one of them has cancelled what ran for it, false when all
// have said no, or ctx ends.
func (w *Watchdog) CancelElsewhere(ctx context.Context, pid uint32, secret []byte) bool {
	n := w.node.Load()
	if n == nil {
		return false
	}
	ctx, cancel := context.WithCancel(ctx)
	var asked sync.WaitGroup
	defer asked.Wait()
	defer cancel()
	servers := n.servers()
	answers := make(chan bool, len(servers))
	open := 0
	for _, s := range servers {
		if m := w.cfg.member(nameOf(s.ID)); string(s.ID) == n.id || m != nil && m.Witness {
			continue
		}
		open++
		asked.Go(func() { answers <- w.cancelAt(ctx, s, cancelRequest{PID: pid, Secret: secret}) })
	}
	for ; open > 0; open-- {
		if <-answers { // comes when ctx ends at the latest
			return true
		}
	}
	return false
}

// cancelAt asks one member. One of an older program does not know the question, and
// one that is gone has no sessions any more: why there is no answer does not matter.
func (w *Watchdog) cancelAt(ctx context.Context, s raft.Server, q cancelRequest) bool {
	v, _ := w.cancels.LoadOrStore(nameOf(s.ID), make(chan struct{}, maxCancels))
	slots := v.(chan struct{})
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	case <-ctx.Done():
		return false
	}
	var a cancelAnswer
	return w.caller.call(ctx, s.Address, "cancel", q, &a) == nil && a.Known
}

// cancelHere answers another member.
func (w *Watchdog) cancelHere(ctx context.Context, q cancelRequest) cancelAnswer {
	return cancelAnswer{Known: w.deps.Cancel != nil && w.deps.Cancel(ctx, q.PID, q.Secret)}
}
