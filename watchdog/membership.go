package watchdog

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"
)

const (
	membershipInterval = 5 * time.Second // how often the leader looks when nothing asked for it
	helloTimeout       = time.Second
	lookAround         = 250 * time.Millisecond // how often an empty member asks the others
	patientFor         = 3 * time.Second        // for this long it does not say why it waits
	complainAfter      = 30 * time.Second       // how often it says so then
)

// hello is how members introduce themselves, the empty ones too.
type hello struct {
	ID      string             `json:"id"`
	Cluster string             `json:"cluster,omitempty"` // that it belongs to
	Empty   bool               `json:"empty,omitempty"`   // it has never been part of one
	Members string             `json:"members"`           // of its file, in one line
	Leader  raft.ServerAddress `json:"leader,omitempty"`
}

// joinRequest asks the leader to take an incarnation as a member.
type joinRequest struct {
	ID      string `json:"id"`
	Address string `json:"address"` // host:port
}

func (w *Watchdog) hello() (hello, error) {
	n := w.node.Load()
	h := hello{ID: n.id, Empty: n.empty(), Members: w.cfg.list(), Leader: w.leaderAddress()}
	if !h.Empty {
		h.Cluster = n.cluster()
	}
	return h, nil
}

// list returns the members in one line, sorted, to compare two files by.
func (c *Config) list() string {
	var all []string
	for _, m := range c.Members {
		all = append(all, m.Name+"="+m.Address)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// greet says hello to all other members of the file, and returns the answers.
func (w *Watchdog) greet(ctx context.Context) map[string]hello {
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	type answer struct {
		name string
		hello
		err error
	}
	answers := make(chan answer, len(w.cfg.Members))
	for _, m := range w.cfg.Members {
		if m.Name == w.deps.Name {
			answers <- answer{err: errors.New("itself")}
			continue
		}
		go func() { // ends with ctx
			a := answer{name: m.Name}
			a.err = w.caller.call(ctx, serverAddress(m.Name, m.Address), "hello", struct{}{}, &a.hello)
			answers <- a
		}()
	}
	out := map[string]hello{}
	for range w.cfg.Members {
		if a := <-answers; a.err == nil && nameOf(a.ID) == a.name {
			out[a.name] = a.hello
		}
	}
	return out
}

// watchMembers brings an empty member into a cluster, and later compares the file with
// what raft has.
func (w *Watchdog) watchMembers(ctx context.Context) {
	if w.cfg.alone() {
		return
	}
	n := w.node.Load()
	var said string
	var since, saidAt time.Time // of the text
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		waiting := len(n.servers()) == 0
		var text string
		if waiting {
			text = w.enter(ctx, n)
		} else {
			text = w.compare(ctx, n)
		}
		now := time.Now()
		if text != said {
			said, since, saidAt = text, now, time.Time{}
		}
		if text != "" && now.Sub(since) >= patientFor && (saidAt.IsZero() || waiting && now.Sub(saidAt) > complainAfter) {
			w.log.Warn("watchdog: " + text)
			saidAt = now
		}
		if waiting {
			t.Reset(lookAround)
		} else {
			t.Reset(membershipInterval)
		}
	}
}

// enter makes one attempt to get an empty member into a cluster: into the one that is
// there by its leader's leave, or, when all members of the file are empty, into a new
// one. It returns why the member still waits.
func (w *Watchdog) enter(ctx context.Context, n *node) string {
	others := w.greet(ctx)
	for _, name := range slices.Sorted(maps.Keys(others)) {
		if h := others[name]; h.Leader != "" {
			q := joinRequest{ID: n.id, Address: w.cfg.member(w.deps.Name).Address}
			joining, cancel := context.WithTimeout(ctx, helloTimeout)
			err := w.caller.call(joining, h.Leader, "join", q, &struct{}{})
			cancel()
			if err != nil && !errors.Is(err, ErrNotLeader) {
				return fmt.Sprintf("waits to be taken in by %s: %v", nameOf(h.Leader), err)
			}
			return ""
		}
	}
	servers := []raft.Server{{ID: raft.ServerID(n.id), Address: n.address}}
	for _, m := range w.cfg.Members {
		h, answered := others[m.Name]
		switch {
		case m.Name == w.deps.Name:
			continue
		case !answered:
			return fmt.Sprintf("waits without a vote: %s does not answer, and only when all members are empty a new cluster begins", m.Name)
		case !h.Empty:
			return fmt.Sprintf("waits without a vote: %s has a cluster that nobody leads", m.Name)
		case h.Members != w.cfg.list():
			return fmt.Sprintf("waits without a vote: the file of %s lists other members: %s", m.Name, h.Members)
		}
		servers = append(servers, raft.Server{ID: raft.ServerID(h.ID), Address: serverAddress(h.ID, m.Address)})
	}
	first := slices.MinFunc(w.cfg.Members, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	if first.Name != w.deps.Name {
		return ""
	}
	if !n.empty() {
		return "" // another has just begun one
	}
	w.log.Info("watchdog: a new cluster begins", "members", len(servers))
	if err := n.bootstrap(raft.Configuration{Servers: servers}); err != nil {
		w.fail(err)
	}
	return ""
}

// compare returns how the file and raft's configuration differ. A member of the file
// that belongs to another cluster ends this one: both would lead the same backends.
func (w *Watchdog) compare(ctx context.Context, n *node) string {
	if w.leaderAddress() == "" {
		for name, h := range w.greet(ctx) {
			if h.Leader != "" && h.Cluster == n.cluster() && !strings.HasPrefix(string(h.Leader), n.id+"@") {
				return fmt.Sprintf("%s has a leader and this member has none: it was removed, or %s does not reach it", name, nameOf(h.Leader))
			}
		}
	}
	known := map[string]bool{}
	for _, s := range n.servers() {
		known[nameOf(s.ID)] = true
	}
	var missing, added []string
	for _, m := range w.cfg.Members {
		if !known[m.Name] {
			missing = append(missing, m.Name)
		}
		delete(known, m.Name)
	}
	for name := range known {
		added = append(added, name)
	}
	slices.Sort(added)
	var parts []string
	if len(missing) > 0 {
		parts = append(parts, w.refuseStrangers(ctx, n, missing)...)
		parts = append(parts, fmt.Sprintf("%s of the file is no member (pgproxy-pcp watchdog add)", strings.Join(missing, ", ")))
	}
	if len(added) > 0 {
		parts = append(parts, fmt.Sprintf("%s is a member and not in the file (pgproxy-pcp watchdog remove)", strings.Join(added, ", ")))
	}
	return strings.Join(parts, "; ")
}

// refuseStrangers ends this member when the file joins it with one whose data is of
// another cluster: two that each lead themselves would both act on the same servers. A
// group that has a leader goes on, and the one who comes to it ends.
func (w *Watchdog) refuseStrangers(ctx context.Context, n *node, missing []string) (said []string) {
	others := w.greet(ctx)
	for _, name := range missing {
		if h := others[name]; h.Cluster != "" && h.Cluster != n.cluster() {
			if len(n.servers()) > 1 && w.leaderAddress() != "" {
				said = append(said, fmt.Sprintf("%s of the file belongs to another cluster: remove its data_dir and add it", name))
				continue
			}
			w.fail(fmt.Errorf("member %s of the file belongs to another cluster: stop all, keep data_dir of one member, remove it on the others, start them and add them", name))
		}
	}
	return said
}

// runMembership does what members asked for, and keeps addresses right, until ctx ends.
func (l *leadership) runMembership(ctx context.Context) {
	t := time.NewTicker(membershipInterval)
	defer t.Stop()
	for {
		if err := l.settleMembers(); err != nil && ctx.Err() == nil {
			l.w.log.Warn("watchdog: change members", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-l.work:
		}
	}
}

// settleMembers changes raft's configuration where members asked for it.
func (l *leadership) settleMembers() error {
	l.mu.Lock()
	joining := maps.Clone(l.mu.joining)
	clear(l.mu.joining)
	addresses := map[string]string{}
	for _, h := range l.mu.members {
		if h.address != "" { // else it has answered a probe and asked for no lease yet
			addresses[h.id] = h.address
		}
	}
	l.mu.Unlock()
	for _, q := range joining {
		if err := l.replace(q); err != nil {
			return err
		}
	}
	addresses[l.n.id] = ""
	if m := l.w.cfg.member(l.w.deps.Name); m != nil {
		addresses[l.n.id] = m.Address
	}
	for _, s := range l.n.servers() {
		_, now := splitAddress(s.Address)
		at, known := addresses[string(s.ID)]
		if known && s.Suffrage != raft.Voter { // an earlier leader began to take it in
			if err := l.replace(joinRequest{ID: string(s.ID), Address: at}); err != nil {
				return err
			}
			continue
		}
		if !known || at == now {
			continue
		}
		l.w.log.Info("watchdog: address of a member changed", "member", nameOf(s.ID), "address", at)
		if err := l.n.raft.AddVoter(s.ID, serverAddress(string(s.ID), at), 0, writeTimeout).Error(); err != nil {
			return fmt.Errorf("change address of %s: %w", nameOf(s.ID), err)
		}
	}
	return nil
}

// join takes the request of an empty member whose old self is known here. Anybody
// else is added by an operator.
func (l *leadership) join(member string, q joinRequest) error {
	if nameOf(q.ID) != member {
		return fmt.Errorf("%s asks for %s", member, q.ID)
	}
	if err := checkMember(member, q.Address); err != nil {
		return err
	}
	if !slices.ContainsFunc(l.n.servers(), func(s raft.Server) bool { return nameOf(s.ID) == member }) {
		return fmt.Errorf("%s: %w: pgproxy-pcp watchdog add", member, ErrNotMember)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	// Two hosts with one name: the one that works stays.
	h := l.mu.members[member]
	if member == l.w.deps.Name || h != nil && h.id != q.ID && time.Since(h.connected) < 2*l.w.cfg.Lease {
		return fmt.Errorf("%s: a member of that name is alive", member)
	}
	l.mu.joining[member] = q
	poke(l.work)
	return nil
}

// replace makes an incarnation a voter in the place of all others of its name. It is
// known without a vote before they go, so that a leader that comes between finds it.
func (l *leadership) replace(q joinRequest) error {
	id, address := raft.ServerID(q.ID), serverAddress(q.ID, q.Address)
	if s := l.n.server(q.ID); s != nil && s.Suffrage == raft.Voter && s.Address == address {
		return nil
	}
	member := nameOf(id)
	if err := l.n.raft.AddNonvoter(id, address, 0, writeTimeout).Error(); err != nil {
		return fmt.Errorf("take in %s: %w", id, err)
	}
	for _, s := range l.n.servers() {
		if nameOf(s.ID) == member && s.ID != id {
			if err := l.n.raft.RemoveServer(s.ID, 0, writeTimeout).Error(); err != nil {
				return fmt.Errorf("remove %s: %w", s.ID, err)
			}
		}
	}
	if err := l.n.raft.AddVoter(id, address, 0, writeTimeout).Error(); err != nil {
		return fmt.Errorf("give %s a vote: %w", id, err)
	}
	l.w.log.Info("watchdog: member taken in", "member", member, "id", q.ID, "address", q.Address)
	return nil
}

// Add makes the empty member that listens at that address one of the watchdog.
func (w *Watchdog) Add(ctx context.Context, name, address string, witness bool) error {
	if err := checkMember(name, address); err != nil {
		return err
	}
	q := Member{Name: name, Address: address, Witness: witness}
	_, err := askPatiently(ctx, w, "add", q, func(ctx context.Context, l *leadership) (struct{}, error) {
		return struct{}{}, l.add(ctx, q)
	})
	return err
}

func (l *leadership) add(ctx context.Context, m Member) error {
	if err := checkMember(m.Name, m.Address); err != nil {
		return err
	}
	if l.w.cfg.alone() {
		return errors.New("this member is alone: its file has no section watchdog")
	}
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	var h hello
	if err := l.w.caller.call(ctx, serverAddress(m.Name, m.Address), "hello", struct{}{}, &h); err != nil {
		return fmt.Errorf("add %s: %w", m.Name, err)
	}
	switch {
	case nameOf(h.ID) != m.Name:
		return fmt.Errorf("add %s: at %s is member %s", m.Name, m.Address, nameOf(h.ID))
	case l.n.server(h.ID) != nil && l.n.server(h.ID).Suffrage == raft.Voter:
		return fmt.Errorf("add %s: it is a member already", m.Name)
	case !h.Empty && (h.Cluster != l.n.cluster() || l.n.server(h.ID) == nil):
		return fmt.Errorf("add %s: it has a data_dir of its own; stop it, remove that, start it and add it again", m.Name)
	}
	return l.replace(joinRequest{ID: h.ID, Address: m.Address})
}

// Remove takes a member out, whether it answers or not.
func (w *Watchdog) Remove(ctx context.Context, name string) error {
	q := Member{Name: name}
	_, err := askPatiently(ctx, w, "remove", q, func(ctx context.Context, l *leadership) (struct{}, error) {
		return struct{}{}, l.remove(ctx, name)
	})
	return err
}

func (l *leadership) remove(_ context.Context, name string) error {
	var ids []raft.ServerID
	servers := l.n.servers()
	for _, s := range servers {
		if nameOf(s.ID) == name {
			ids = append(ids, s.ID)
		}
	}
	switch {
	case len(ids) == 0:
		return fmt.Errorf("remove %s: %w", name, ErrNotMember)
	case len(ids) == len(servers):
		return fmt.Errorf("remove %s: it is the only member", name)
	}
	for _, id := range ids {
		if err := l.n.raft.RemoveServer(id, 0, writeTimeout).Error(); err != nil {
			return fmt.Errorf("remove %s: %w", id, err)
		}
	}
	l.mu.Lock()
	delete(l.mu.members, name)
	l.mu.Unlock()
	l.w.log.Info("watchdog: member removed", "member", name)
	l.w.reportsChanged.fire()
	return nil
}
