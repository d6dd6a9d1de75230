package vip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// Deps is what a Holder needs of the others. The functions must not block and are
// called by several goroutines at once.
type Deps struct {
	// Wanted returns until when this member holds the address, which is written as in
	// its Config; zero or past: it does not. It is compared with time.Now, so it
	// must have a reading of the monotonic clock.
	Wanted func(address string) time.Time
	// Changed returns a channel that is closed when an address may have become wanted
	// or unwanted; an extension need not close it.
	Changed func() <-chan struct{}
	// Leaving is called before an address is removed that is not wanted any more, or when
	// Run ends: what is sent from it must be sent now. It delays the removal. nil: nobody
	// wants to know.
	Leaving func(address string)
	// Hardware returns the hardware addresses of the members, as their Links say. Each
	// that it ever returned counts as a member's from then on: also one that has
	// died, or is frozen and not yet known to a new leader.
	Hardware func() []string

	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Holder holds the virtual addresses of this member.
type Holder struct {
	cfgs    []Config
	ours    []netip.Addr // of cfgs, but those of mode hooks
	deps    Deps
	log     *slog.Logger
	metrics *metrics
	ports   *ports

	mu struct {
		sync.Mutex
		links   []cluster.Link   // one for each of cfgs
		answers map[gateway]bool // that answer
		members map[string]bool  // hardware addresses that Hardware ever returned
		changed chan struct{}    // closed and replaced when links is written
	}
}

// New returns a Holder that does nothing before Run.
func New(cfgs []Config, deps Deps) (*Holder, error) {
	if err := validate(cfgs); err != nil {
		return nil, fmt.Errorf("configure virtual addresses: %w", err)
	}
	m, err := newMetrics(deps.Registerer, cfgs)
	if err != nil {
		return nil, err
	}
	h := &Holder{cfgs: cfgs, deps: deps, log: deps.Logger, metrics: m, ports: newPorts(cfgs)}
	h.mu.members = make(map[string]bool)
	h.mu.answers = make(map[gateway]bool)
	h.mu.changed = make(chan struct{})
	for i := range cfgs {
		h.mu.links = append(h.mu.links, cluster.Link{Address: cfgs[i].Address, Gateway: len(cfgs[i].Check) == 0})
		if cfgs[i].Mode != ModeHooks {
			h.ours = append(h.ours, cfgs[i].prefix().Addr())
		}
	}
	return h, nil
}

// Run removes what an earlier run left, holds what is wanted until ctx ends, and
// returns when nothing is held any more. It fails when one of the addresses is
// configured permanently on this host.
func (h *Holder) Run(ctx context.Context) error {
	if len(h.cfgs) == 0 {
		<-ctx.Done()
		return nil
	}
	k, err := openKernel()
	if err != nil {
		return err
	}
	defer k.Close()
	if err := h.prepare(k); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	start := func(run func(context.Context)) {
		g.Go(func() error {
			run(ctx)
			return nil
		})
	}
	start(func(ctx context.Context) { h.watch(ctx, k) })
	for i := range h.cfgs {
		keep := newKeeper(h, i, k)
		start(keep.run)
		start(keep.hooks.run)
	}
	for _, gw := range h.gateways() {
		start(func(ctx context.Context) { h.interrogate(ctx, k, gw) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := k.clean(h.ours); err != nil && len(h.ours) > 0 {
		h.log.Error("virtual address: cannot remove at the end", "error", err)
	}
	return nil
}

// prepare brings the host into the state of one that holds nothing.
func (h *Holder) prepare(k kernel) error {
	if len(h.ours) == 0 {
		return nil
	}
	if err := privileges(); err != nil {
		h.log.Error("virtual addresses cannot be held", "error", err)
	}
	var permanent *permanentError
	if err := k.clean(h.ours); errors.As(err, &permanent) {
		return err
	} else if err != nil {
		h.log.Error("virtual address: cannot remove what an earlier run left; the kernel does so within 2.5 s", "error", err)
	}
	for i := range h.cfgs {
		if c := &h.cfgs[i]; c.Mode != ModeHooks && c.prefix().Addr().Is4() && deaf(c.Interface) {
			h.log.Warn("the kernel will not answer ARP requests for the virtual address: sysctl arp_ignore must be 0 or 1",
				"address", c.Address, "interface", c.Interface)
		}
	}
	return nil
}

// Links returns the member's fitness to hold each address, in the order of the
// configuration.
func (h *Holder) Links() []cluster.Link {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.mu.links)
}

// LinkChanged returns a channel that is closed when newer Links are there. Who
// takes the channel first and the Links afterwards misses none.
func (h *Holder) LinkChanged() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mu.changed
}

// note changes links of the addresses that match.
func (h *Holder) note(match func(i int) bool, change func(*cluster.Link)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	any := false
	for i := range h.mu.links {
		if was := h.mu.links[i]; match(i) {
			change(&h.mu.links[i])
			any = any || h.mu.links[i] != was
		}
	}
	if any {
		close(h.mu.changed)
		h.mu.changed = make(chan struct{})
	}
}

// carrier notes what was seen of an interface.
func (h *Holder) carrier(name string, p port) {
	h.note(func(i int) bool { return h.cfgs[i].Interface == name }, func(l *cluster.Link) {
		l.Carrier, l.Hardware = p.carrier, p.hardware
	})
}

// learn notes the hardware addresses of the members.
func (h *Holder) learn() {
	told := h.deps.Hardware()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, text := range told {
		if m := hardwareAddr(text); m != nil {
			h.mu.members[m.String()] = true
		}
	}
}

// member tells whether a hardware address is one of this cluster's hosts.
func (h *Holder) member(hw net.HardwareAddr) bool {
	h.learn()
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mu.members[hw.String()]
}
