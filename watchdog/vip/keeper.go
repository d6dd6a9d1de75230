package vip

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

const (
	// probeWait is how long the owner of an address may take to answer (S8).
	probeWait = 100 * time.Millisecond
	// retryEvery is the pause after something could not be done.
	retryEvery = 200 * time.Millisecond
	// foreignRetry is the pause after a foreign host answered.
	foreignRetry = time.Second
	// foreignStays is how long its answer is reported.
	foreignStays = 10 * time.Second
	// refreshEvery repeats the announcement for who missed all of them.
	refreshEvery = 5 * time.Second
	// defendEvery bounds the answers to others who claim the address.
	defendEvery = time.Second
)

// announcements are sent that long after an address was taken: the first ones in
// case some are lost, the others because the kernel of a frozen holder answers
// requests for it up to 2.5 s more.
var announcements = []time.Duration{
	0, 50 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 1500 * time.Millisecond, 2 * time.Second, 2500 * time.Millisecond, 3 * time.Second, 5 * time.Second,
}

// keeper holds one address while it is wanted. Its goroutine owns all fields.
type keeper struct {
	holder  *Holder
	index   int // in Holder.cfgs
	cfg     *Config
	addr    netip.Addr
	kernel  kernel
	hooks   *hooks
	log     *slog.Logger
	trouble trouble // with taking and keeping it
	unheard trouble // with announcing it

	held      bool
	port      port // on which it is held
	line      *line
	renewed   time.Time // before the last call that set the kernel's lifetime
	taken     time.Time
	announced int       // of announcements
	announce  time.Time // when the next one is due
	defended  time.Time
	retry     time.Time // not taken before
	foreign   time.Time // when a foreign host answered last; zero: none did
	unremoved *port     // where the address could not be removed
}

func newKeeper(h *Holder, i int, kern kernel) *keeper {
	cfg := &h.cfgs[i]
	log := h.log.With("address", cfg.Address, "interface", cfg.Interface)
	k := &keeper{
		holder: h, index: i, cfg: cfg, addr: cfg.prefix().Addr(), kernel: kern,
		log: log, trouble: trouble{log: log}, unheard: trouble{log: log},
	}
	k.hooks = newHooks(cfg, log, func(up bool) {
		if cfg.Mode == ModeHooks {
			k.note(func(l *cluster.Link) { l.Held = up })
		}
	})
	return k
}

// run holds the address while it is wanted, until ctx ends.
func (k *keeper) run(ctx context.Context) {
	defer close(k.hooks.ended)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		changed := k.holder.deps.Changed()
		p, portChanged := k.holder.ports.get(k.cfg.Interface)
		if ctx.Err() != nil {
			break
		}
		k.holder.learn()
		next := k.step(ctx, p)
		timer.Reset(time.Until(next))
		select {
		case <-ctx.Done():
		case <-changed:
		case <-portChanged:
		case <-timer.C:
		}
	}
	k.leave("pgproxy stops")
}

// step does what is due and returns when the next thing is.
func (k *keeper) step(ctx context.Context, p port) time.Time {
	now := time.Now()
	until := k.holder.deps.Wanted(k.cfg.Address)
	wanted := now.Before(until)
	next := now.Add(time.Minute)
	if k.unremoved != nil {
		k.remove(*k.unremoved)
		next = now.Add(retryEvery)
	}
	if k.held && k.port.index != p.index {
		k.release("the interface is another one")
	}
	if k.held && k.cfg.Mode != ModeHooks && now.Sub(k.renewed) >= stale {
		k.release("it was not renewed in time: this process was paused, or the kernel did not answer")
	}
	if !k.foreign.IsZero() && now.Sub(k.foreign) >= foreignStays {
		k.alone()
	}
	switch {
	case !wanted && k.held:
		k.leave("it is not this member's any more")
	case !p.carrier && k.held:
		k.release("the interface has no carrier")
	case !wanted || !p.carrier:
	case !k.held && now.Before(k.retry):
		next = k.retry
	case !k.held:
		k.take(ctx, p)
		return time.Now()
	default:
		if k.port != p && k.cfg.Mode != ModeHooks {
			k.move(p)
		}
		next = k.keep(ctx, now, until)
	}
	if !k.foreign.IsZero() {
		next = earlier(next, k.foreign.Add(foreignStays))
	}
	return next
}

// take takes the address, unless somebody foreign has it.
func (k *keeper) take(ctx context.Context, p port) {
	k.retry = time.Now().Add(retryEvery)
	if k.cfg.Mode == ModeHooks {
		k.hold(p)
		return
	}
	if k.speaks(p) {
		free, err := k.probe(ctx, p)
		if err != nil {
			k.trouble.is(time.Now(), "probe for the address", err)
		}
		if err != nil || !free {
			k.hangUp()
			return
		}
	}
	if !k.set(p) {
		k.hangUp()
		return
	}
	k.hold(p)
	k.say()
}

// speaks tells whether the neighbours are asked and told.
func (k *keeper) speaks(p port) bool {
	return !p.silent && k.cfg.Mode != ModeLayer3 && k.cfg.Mode != ModeHooks
}

// probe asks whether somebody has the address. It opens the line, which stays open.
func (k *keeper) probe(ctx context.Context, p port) (free bool, err error) {
	k.hangUp()
	if k.line, err = dial(k.addr, p); err != nil {
		return false, err
	}
	if err := k.line.ask(netip.Addr{}, nil); err != nil {
		return false, err
	}
	for deadline := time.Now().Add(probeWait); ; {
		owner, err := k.line.hear(ctx, deadline)
		switch {
		case err != nil || ctx.Err() != nil:
			return false, err
		case owner == nil:
			k.alone()
			return true, nil
		case k.holder.member(owner):
			continue
		}
		k.conflict(owner.String())
		k.retry = time.Now().Add(foreignRetry)
		return false, nil
	}
}

// set gives the address its lifetime in the kernel, if it is still wanted, and
// tells whether it has it now.
func (k *keeper) set(p port) bool {
	now := time.Now()
	if !now.Before(k.holder.deps.Wanted(k.cfg.Address)) {
		return false
	}
	if err := k.kernel.set(k.addr, p.index); err != nil {
		k.trouble.is(now, "set the address", err)
		return false
	}
	k.renewed = now
	k.trouble.over()
	// The process may have been paused, or the kernel busy, between the look at the
	// lease and the call.
	if !time.Now().Before(k.holder.deps.Wanted(k.cfg.Address)) {
		k.remove(p)
		return false
	}
	return true
}

// hold notes that the address is held.
func (k *keeper) hold(p port) {
	k.held, k.port, k.taken = true, p, time.Now()
	k.announced, k.announce = 0, k.taken
	k.log.Info("virtual address taken")
	k.holder.metrics.held.WithLabelValues(k.cfg.Address).Set(1)
	k.hooks.want(true)
	if k.cfg.Mode != ModeHooks {
		k.note(func(l *cluster.Link) { l.Held = true })
	}
}

// move follows a change of the interface under a held address: neighbours must
// learn the new hardware address, connections go on.
func (k *keeper) move(p port) {
	k.port = p
	k.hangUp()
	if !k.speaks(p) {
		return
	}
	line, err := dial(k.addr, p)
	if err != nil {
		k.unheard.is(time.Now(), "announce the address", err)
		k.port.hardware = "" // not done: again at the next step
		return
	}
	k.line, k.announced, k.taken = line, 0, time.Now()
	k.announce = k.taken
}

// keep renews and announces, and returns when it has to be called again.
func (k *keeper) keep(ctx context.Context, now, until time.Time) time.Time {
	if k.cfg.Mode == ModeHooks {
		return until
	}
	renew := k.renewed.Add(renewEvery)
	if !now.Before(renew) {
		k.defend(ctx, now)
		if k.set(k.port) {
			renew = k.renewed.Add(renewEvery)
		} else {
			renew = now.Add(retryEvery)
		}
	}
	k.say()
	next := earlier(renew, until)
	if k.line != nil {
		next = earlier(next, k.announce)
	}
	return next
}

// say announces the address if that is due.
func (k *keeper) say() {
	now := time.Now()
	if k.line == nil || now.Before(k.announce) {
		return
	}
	if err := k.line.claim(); err != nil {
		k.unheard.is(now, "announce the address", err)
	} else {
		k.unheard.over()
	}
	if k.announced++; k.announced < len(announcements) {
		k.announce = k.taken.Add(announcements[k.announced])
	} else {
		k.announce = now.Add(refreshEvery)
	}
}

// defend announces the address when somebody else has said since that it is his
// (RFC 5227 section 2.4 c): the kernel of a frozen member for a while, or a
// foreign host.
func (k *keeper) defend(ctx context.Context, now time.Time) {
	if k.line == nil {
		return
	}
	owner, err := k.line.hear(ctx, now.Add(time.Millisecond))
	if owner == nil || err != nil || now.Sub(k.defended) < defendEvery {
		return
	}
	k.defended, k.announce = now, earlier(k.announce, now)
	if !k.holder.member(owner) {
		k.conflict(owner.String())
	}
}

// conflict notes that a foreign host has the address.
func (k *keeper) conflict(owner string) {
	now := time.Now()
	if k.foreign.IsZero() {
		k.log.Error("a host that is not a member answers for the virtual address", "hardware", owner, "held", k.held)
	}
	k.foreign = now
	k.holder.metrics.conflicts.WithLabelValues(k.cfg.Address).Inc()
	k.note(func(l *cluster.Link) { l.Foreign = owner })
}

// alone notes that no foreign host is known to have the address.
func (k *keeper) alone() {
	if !k.foreign.IsZero() {
		k.log.Info("no foreign host answers for the virtual address any more")
	}
	k.foreign = time.Time{}
	k.note(func(l *cluster.Link) { l.Foreign = "" })
}

// leave gives the address up in order.
func (k *keeper) leave(why string) {
	if k.held && k.holder.deps.Leaving != nil {
		k.holder.deps.Leaving(k.cfg.Address)
	}
	k.release(why)
}

// release gives the address up.
func (k *keeper) release(why string) {
	if k.held {
		if k.cfg.Mode != ModeHooks {
			k.remove(k.port)
		}
		k.log.Info("virtual address given up", "why", why)
	}
	k.held = false
	k.holder.metrics.held.WithLabelValues(k.cfg.Address).Set(0)
	k.hooks.want(false)
	k.hangUp()
	if k.cfg.Mode != ModeHooks {
		k.note(func(l *cluster.Link) { l.Held = false })
	}
}

// remove takes the address from the interface, later if it cannot be done now.
func (k *keeper) remove(p port) {
	k.unremoved = nil
	if err := k.kernel.remove(k.addr, p.index); err != nil {
		k.trouble.is(time.Now(), "remove the address", err)
		if time.Since(k.renewed) < lifetime+time.Second { // else the kernel has
			k.unremoved = &p
		}
	}
}

func (k *keeper) hangUp() {
	k.line.close()
	k.line = nil
}

func (k *keeper) note(change func(*cluster.Link)) {
	k.holder.note(func(i int) bool { return i == k.index }, change)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
