package health

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

const (
	sampleGap  = 10 * time.Millisecond  // between the starts of two questions to a backend
	samplePoll = 2 * time.Second        // after the last Request a standby that lags is still asked
	sampleWait = 500 * time.Millisecond // after a connection could not be opened
)

// Sampler reads log positions on demand, shared by all sessions.
//
// A session that wrote takes Mark after it read the answer and calls Request. A
// sample whose Round is greater than the mark was asked for after that answer, so
// its LSN covers the write; a standby that has replayed it, on that timeline,
// shows the write. Guaranteed: what stands in Samples about a standby was true
// after that standby last accepted connections anew, as far as the end of the
// old ones or a probe can tell.
type Sampler struct {
	timeout atomic.Int64 // of one question, a Duration
	conn    ConnConfig
	primary PrimaryFunc
	poke    func(backend string)
	asked   atomic.Pointer[asked]

	begin     time.Time
	requested atomic.Int64  // time of the last Request since begin, ns
	round     atomic.Uint64 // number of the last round, raised before its query is sent
	samples   atomic.Pointer[cluster.Samples]

	mu struct {
		sync.Mutex               // orders the writers of samples and of asker.life
		changed    chan struct{} // nil: nobody waits
	}
}

// asked is the backends that are asked. It is immutable.
type asked struct {
	all      []*asker
	replaced chan struct{} // closed when other ones are
}

func newSampler(timeout time.Duration, backends []Target, conn ConnConfig, primary PrimaryFunc, poke func(string)) *Sampler {
	s := &Sampler{conn: conn, primary: primary, poke: poke, begin: time.Now()}
	s.samples.Store(&cluster.Samples{})
	s.requested.Store(int64(-samplePoll)) // nobody has asked
	s.asked.Store(&asked{replaced: make(chan struct{})})
	s.configure(timeout, backends)
	return s
}

// configure has other backends asked.
func (s *Sampler) configure(timeout time.Duration, backends []Target) {
	s.timeout.Store(int64(timeout))
	old, next := s.asked.Load(), &asked{replaced: make(chan struct{})}
	for _, t := range backends {
		i := slices.IndexFunc(old.all, func(a *asker) bool { return a.target == t })
		if i >= 0 {
			next.all = append(next.all, old.all[i])
		} else {
			next.all = append(next.all, &asker{s: s, target: t, name: t.Name, wake: make(chan struct{}, 1)})
		}
	}
	s.asked.Store(next)
	for _, a := range old.all {
		if !slices.Contains(next.all, a) {
			s.drop(a)
		}
	}
	close(old.replaced)
}

// Mark returns the number of rounds that have started.
func (s *Sampler) Mark() uint64 { return s.round.Load() }

// Samples returns the newest positions. They are of the primary's timeline only
// as far as their fields say so. The value is shared: nobody may write to it.
func (s *Sampler) Samples() *cluster.Samples { return s.samples.Load() }

// Changed returns a channel that is closed when Samples is about to return newer
// positions than before the call.
func (s *Sampler) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.changed == nil {
		s.mu.changed = make(chan struct{})
	}
	return s.mu.changed
}

// Request has a round started that no earlier Mark has counted, soon, in the
// background. It never blocks; requests made meanwhile share that round.
func (s *Sampler) Request() {
	s.requested.Store(int64(time.Since(s.begin)))
	for _, a := range s.asked.Load().all {
		a.notify()
	}
}

// run serves requests until ctx ends.
func (s *Sampler) run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	running := make(map[*asker]context.CancelFunc)
	for {
		now := s.asked.Load()
		for a, stop := range running {
			if !slices.Contains(now.all, a) {
				stop()
				delete(running, a)
			}
		}
		for _, a := range now.all {
			if running[a] == nil {
				ctx, stop := context.WithCancel(ctx)
				running[a] = stop
				all.Go(func() { a.run(ctx) })
			}
		}
		select {
		case <-ctx.Done():
			for _, stop := range running {
				stop()
			}
			return
		case <-now.replaced:
		}
	}
}

// wanted tells whether somebody asked a short time ago.
func (s *Sampler) wanted() bool {
	return time.Since(s.begin)-time.Duration(s.requested.Load()) < samplePoll
}

// forget drops what was said by a backend that may have started anew since: it
// can come up with less replayed than it had.
func (s *Sampler) forget(backend string) {
	for _, a := range s.asked.Load().all {
		if a.name == backend {
			s.drop(a)
			a.notify() // so that it closes its connection
		}
	}
}

// drop is forget for a itself.
func (s *Sampler) drop(a *asker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a.life++
	s.edit(func(n *cluster.Samples) { n.Replayed = without(n.Replayed, a.name) })
}

// edit publishes the samples after change; s.mu is held.
func (s *Sampler) edit(change func(*cluster.Samples)) {
	next := *s.samples.Load()
	change(&next)
	s.samples.Store(&next)
	if s.mu.changed != nil {
		close(s.mu.changed)
		s.mu.changed = nil
	}
}

// lifeOf returns the count of what a was told to forget; see asker.life.
func (s *Sampler) lifeOf(a *asker) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return a.life
}

// publishPrimary takes the answer of a round, unless a newer one is there, and
// has the standbys asked that may not have replayed it.
func (s *Sampler) publishPrimary(name string, round uint64, timeline uint32, lsn cluster.LSN) {
	s.mu.Lock()
	if s.samples.Load().Round < round {
		s.edit(func(n *cluster.Samples) {
			n.Round, n.Primary, n.Timeline, n.LSN = round, name, timeline, lsn
			n.Replayed = without(n.Replayed, name) // from when it was a standby
		})
	}
	now := s.samples.Load()
	s.mu.Unlock()
	for _, a := range s.asked.Load().all {
		if a.name != name && behind(now, a.name) {
			a.notify()
		}
	}
}

// publishReplayed takes a standby's answer, unless it was told to forget it since
// it asked.
func (s *Sampler) publishReplayed(a *asker, life uint64, r cluster.Replayed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.life != life {
		return
	}
	s.edit(func(n *cluster.Samples) { n.Replayed = append(without(n.Replayed, r.Backend), r) })
}

// without returns all without that backend, in another array if it was there.
func without(all []cluster.Replayed, backend string) []cluster.Replayed {
	if !slices.ContainsFunc(all, func(r cluster.Replayed) bool { return r.Backend == backend }) {
		return all[:len(all):len(all)]
	}
	return slices.DeleteFunc(slices.Clone(all), func(r cluster.Replayed) bool { return r.Backend == backend })
}

// behind tells whether that standby is not known to have replayed the newest
// sample of the primary.
func behind(s *cluster.Samples, backend string) bool {
	if s.Primary == "" {
		return false
	}
	for _, r := range s.Replayed {
		if r.Backend == backend {
			return r.Timeline != s.Timeline || r.LSN < s.LSN
		}
	}
	return true
}
