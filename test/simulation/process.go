package simulation

import "time"

// epoch0 is what a member's clock without skew shows at the beginning.
var epoch0 = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// process is the process of a member: what it is about to do is lost when it
// crashes and waits while it is stopped. Its clock goes on.
type process struct {
	sim     *sim
	host    int
	up      bool
	paused  bool
	run     int // counts starts
	pending []func()

	rate   int64         // of its clock, per mille of real time
	offset time.Duration // of its clock
}

// clock is a fresh reading.
func (p *process) clock() time.Time {
	return epoch0.Add(p.offset + p.sim.now*time.Duration(p.rate)/1000)
}

// guard returns f to be called for the process that runs now: never in a later
// one, and not while it is stopped.
func (p *process) guard(f func()) func() {
	run := p.run
	return func() {
		if !p.up || p.run != run || p.sim.violation != nil {
			return
		}
		if p.paused {
			p.pending = append(p.pending, p.guard(f))
			return
		}
		f()
	}
}

// in has f called after d of its own clock.
func (p *process) in(d time.Duration, f func()) {
	p.sim.after(d*1000/time.Duration(p.rate), p.guard(f))
}

// every has f called again and again.
func (p *process) every(d time.Duration, f func()) {
	p.in(d, func() {
		f()
		p.every(d, f)
	})
}

// soon has f called after a moment in which the process may be stopped: between
// two instructions that look like one.
func (p *process) soon(f func()) {
	s := p.sim
	if s.now < s.healed && s.chance(s.shape.pauses) && !p.paused {
		p.pause(s.between(100*time.Millisecond, 4*time.Second))
	}
	s.after(s.between(time.Microsecond, 200*time.Microsecond), p.guard(f))
}

// pause stops the process for a while (SIGSTOP).
func (p *process) pause(d time.Duration) {
	if !p.up || p.paused {
		return
	}
	p.paused = true
	p.sim.trace("h%d: pgproxy stopped for %v", p.host+1, d)
	run := p.run
	p.sim.after(d, func() {
		if p.run == run {
			p.resume()
		}
	})
}

// resume lets it do what came meanwhile, in order but not at once.
func (p *process) resume() {
	if !p.paused {
		return
	}
	p.paused = false
	p.sim.trace("h%d: pgproxy continued", p.host+1)
	at := time.Duration(0)
	for _, f := range p.pending {
		at += p.sim.between(0, 50*time.Microsecond)
		p.sim.after(at, f)
	}
	p.pending = nil
}
