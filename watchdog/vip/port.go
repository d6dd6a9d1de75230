package vip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// port is what is known of one interface. The zero value is an interface that
// does not exist.
type port struct {
	index    int
	carrier  bool   // administratively up, and the layer below it too
	silent   bool   // without neighbours to ask: loopback, tunnels
	hardware string // as net.HardwareAddr writes it
}

// ports are the interfaces that the configuration names. The watcher writes them,
// keepers and askers read them.
type ports struct {
	mu struct {
		sync.Mutex
		byName  map[string]port
		changed chan struct{} // closed and replaced when byName is written
	}
}

func newPorts(all []Config) *ports {
	p := new(ports)
	p.mu.byName = make(map[string]port)
	p.mu.changed = make(chan struct{})
	for i := range all {
		p.mu.byName[all[i].Interface] = port{}
	}
	return p
}

// get returns the interface and a channel that is closed when any has changed.
func (p *ports) get(name string) (port, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.byName[name], p.mu.changed
}

// put notes what was seen and tells whether that is new.
func (p *ports) put(name string, seen port) (was port, changed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	was = p.mu.byName[name]
	if was == seen {
		return was, false
	}
	p.mu.byName[name] = seen
	close(p.mu.changed)
	p.mu.changed = make(chan struct{})
	return was, true
}

func (p *ports) names() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var names []string
	for name := range p.mu.byName {
		names = append(names, name)
	}
	return names
}

// look reads an interface.
func look(k kernel, name string) (port, error) {
	link, err := k.LinkByName(name)
	if err != nil {
		var missing netlink.LinkNotFoundError
		if errors.As(err, &missing) {
			return port{}, fmt.Errorf("find interface %s: there is none of that name", name)
		}
		return port{}, fmt.Errorf("find interface %s: %w", name, err)
	}
	a := link.Attrs()
	const up = unix.IFF_UP | unix.IFF_LOWER_UP
	return port{
		index:    a.Index,
		carrier:  a.RawFlags&up == up,
		silent:   a.RawFlags&(unix.IFF_NOARP|unix.IFF_LOOPBACK) != 0,
		hardware: a.HardwareAddr.String(),
	}, nil
}

// watch keeps the ports up to date until ctx ends. A message of the kernel only
// says that something has changed; what is read anew, so a lost one is no loss.
func (h *Holder) watch(ctx context.Context, k kernel) {
	t := &trouble{log: h.log}
	for ctx.Err() == nil {
		if err := h.follow(ctx, k); err != nil && ctx.Err() == nil {
			t.is(time.Now(), "watch the interfaces", err)
			sleep(ctx, time.Second)
		}
	}
}

// follow reads the kernel's messages until one cannot be read.
func (h *Holder) follow(ctx context.Context, k kernel) error {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
	if err != nil {
		return fmt.Errorf("subscribe to changes: %w", err)
	}
	defer s.Close()
	defer context.AfterFunc(ctx, s.Close)()
	if err := s.SetReceiveTimeout(&unix.Timeval{Sec: int64(troubleEvery / time.Second)}); err != nil {
		return fmt.Errorf("set timeout: %w", err)
	}
	missing := make(map[string]*trouble)
	for {
		h.lookAround(k, missing)
		_, _, err := s.Receive()
		var errno syscall.Errno
		if err != nil && (!errors.As(err, &errno) || errno != unix.EAGAIN && errno != unix.ENOBUFS) {
			return fmt.Errorf("read changes: %w", err)
		}
	}
}

// lookAround reads all interfaces and tells whom it concerns.
func (h *Holder) lookAround(k kernel, missing map[string]*trouble) {
	for _, name := range h.ports.names() {
		t := missing[name]
		if t == nil {
			t = &trouble{log: h.log}
			missing[name] = t
		}
		seen, err := look(k, name)
		if err != nil {
			t.is(time.Now(), "use interface", err)
		} else {
			t.over()
		}
		was, changed := h.ports.put(name, seen)
		if !changed {
			continue
		}
		if was.index != 0 && was.carrier != seen.carrier {
			h.log.Warn("interface of a virtual address changed", "interface", name, "carrier", seen.carrier)
		}
		h.carrier(name, seen)
	}
}

// sleep waits, but not longer than ctx.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// hardwareAddr reads what a port or a report says; nil when it says nothing.
func hardwareAddr(text string) net.HardwareAddr {
	hw, err := net.ParseMAC(text)
	if err != nil {
		return nil
	}
	return hw
}
