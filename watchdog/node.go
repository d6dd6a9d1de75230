package watchdog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
)

// Keys of this program beside raft's own in raft.db.
var (
	keyID      = []byte("pgproxy/id")
	keyCluster = []byte("pgproxy/cluster")
)

const (
	// openTimeout is how long another process may hold raft.db.
	openTimeout = 3 * time.Second
	// commitTimeout is how often the leader repeats what is committed. Nobody waits
	// for it: an entry that matters is followed by a barrier.
	commitTimeout = 250 * time.Millisecond
	// closeTimeout bounds the wait for raft at the end: a disk that hangs must not
	// hold the process.
	closeTimeout = time.Second
)

// node is raft and its files.
type node struct {
	id       string
	raft     *raft.Raft
	store    *raftboltdb.BoltStore
	network  *raft.NetworkTransport // nil: alone
	notify   chan bool              // raft waits until it is read
	observed chan raft.Observation  // of leaders; filled without waiting
	address  raft.ServerAddress
	started  chan struct{} // closed when raft is there
}

// open opens the files and starts raft.
func (w *Watchdog) open(in *listener) (n *node, err error) {
	defer func() {
		// bbolt panics on pages that make no sense.
		if r := recover(); r != nil {
			err = damaged(w.deps.DataDir, fmt.Errorf("%v", r))
		}
		if err != nil && n != nil {
			n.silence()
		}
	}()
	if err := os.MkdirAll(w.deps.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("make data_dir: %w", err)
	}
	store, err := raftboltdb.New(raftboltdb.Options{
		Path:        filepath.Join(w.deps.DataDir, "raft.db"),
		BoltOptions: &bbolt.Options{Timeout: openTimeout},
	})
	switch {
	case errors.Is(err, bbolterrors.ErrTimeout):
		return nil, fmt.Errorf("open data_dir %s: another process uses it", w.deps.DataDir)
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("open data_dir: %w", err)
	case err != nil:
		return nil, damaged(w.deps.DataDir, err)
	}
	n = &node{store: store, notify: make(chan bool, 1), observed: make(chan raft.Observation, 16), started: make(chan struct{})}
	if err := w.start(n, in); err != nil {
		return n, errors.Join(err, store.Close())
	}
	return n, nil
}

// damaged says what an operator can do: nothing is lost while the others have it.
func damaged(dir string, err error) error {
	return fmt.Errorf("data_dir %s is damaged: %w (remove raft.db and snapshots in it, and this member joins the others anew)", dir, err)
}

func (w *Watchdog) start(n *node, in *listener) error {
	logger := newRaftLogger(w.log)
	snapshots, err := raft.NewFileSnapshotStoreWithLogger(w.deps.DataDir, 2, logger)
	if err != nil {
		return fmt.Errorf("open snapshots in data_dir: %w", err)
	}
	if err := w.identify(n, snapshots); err != nil {
		return err
	}
	var transport raft.Transport
	if in == nil {
		n.address = serverAddress(n.id, "")
		_, transport = raft.NewInmemTransport(n.address)
	} else {
		n.address = serverAddress(n.id, w.cfg.member(w.deps.Name).Address)
		network := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			Stream:  &streams{in: in.raft, address: n.address, dial: w.raftDial, cluster: n.cluster, greeted: n.greeted},
			MaxPool: 3, Timeout: raftTimeout, Logger: logger,
		})
		transport, n.network = network, network
	}
	f := &fsm{publish: w.publish, state: w.State, fail: w.fail}
	cfg := w.raftConfig(n)
	cfg.Logger = logger
	if n.raft, err = raft.NewRaft(cfg, f, w.logStore(n.store), n.store, snapshots, transport); err != nil || f.stuck.Load() {
		if n.raft != nil {
			err = errors.Join(err, n.raft.Shutdown().Error())
		}
		select {
		case stuck := <-w.failed:
			return fmt.Errorf("open data_dir %s: %w", w.deps.DataDir, stuck)
		default:
			return damaged(w.deps.DataDir, err)
		}
	}
	close(n.started)
	n.raft.RegisterObserver(raft.NewObserver(n.observed, false, func(o *raft.Observation) bool {
		_, leader := o.Data.(raft.LeaderObservation)
		return leader
	}))
	if in == nil {
		return w.startAlone(n)
	}
	return nil
}

// raftConfig returns raft's settings. Entries are few and small: what is kept of
// them after a snapshot is enough for a member that was away for an hour.
func (w *Watchdog) raftConfig(n *node) *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(n.id)
	c.HeartbeatTimeout, c.ElectionTimeout = w.cfg.Heartbeat, w.cfg.Heartbeat
	c.LeaderLeaseTimeout = w.cfg.LeaderLease
	c.NotifyCh = n.notify
	c.CommitTimeout = commitTimeout
	c.ShutdownOnRemove = false // a leader that was removed is a member without a vote, as others are
	c.SnapshotThreshold, c.TrailingLogs = 2048, 1024
	c.NoLegacyTelemetry = true
	return c
}

// identify reads the id of this incarnation, or begins one in an empty directory.
// What is there must fit together: a log that begins behind the last snapshot has
// lost what was between.
func (w *Watchdog) identify(n *node, snapshots raft.SnapshotStore) error {
	list, err := snapshots.List()
	if err != nil {
		return damaged(w.deps.DataDir, err)
	}
	first, err := n.store.FirstIndex()
	if err != nil {
		return damaged(w.deps.DataDir, err)
	}
	id, err := n.store.Get(keyID)
	switch {
	case errors.Is(err, raftboltdb.ErrKeyNotFound):
		if len(list) > 0 || first > 0 {
			return damaged(w.deps.DataDir, errors.New("there are snapshots or a log, and raft.db does not say whose"))
		}
		n.id = newID(w.deps.Name)
		if err := n.store.Set(keyID, []byte(n.id)); err != nil {
			return fmt.Errorf("write data_dir: %w", err)
		}
		return nil
	case err != nil:
		return damaged(w.deps.DataDir, err)
	}
	if first > 1 && (len(list) == 0 || list[0].Index+1 < first) {
		return damaged(w.deps.DataDir, fmt.Errorf("the log begins at entry %d, and no snapshot holds what was before", first))
	}
	n.id = string(id)
	if name := nameOf(n.id); name != w.deps.Name && !w.cfg.alone() {
		return fmt.Errorf("data_dir %s belongs to member %s, this is %s", w.deps.DataDir, name, w.deps.Name)
	}
	return nil
}

// startAlone makes a member without others lead itself.
func (w *Watchdog) startAlone(n *node) error {
	servers := n.servers()
	if len(servers) > 1 {
		return errors.Join(
			fmt.Errorf("data_dir %s is that of a watchdog of %d members, and the file has no section watchdog", w.deps.DataDir, len(servers)),
			n.raft.Shutdown().Error())
	}
	if len(servers) == 1 {
		return nil
	}
	return n.bootstrap(raft.Configuration{Servers: []raft.Server{{ID: raft.ServerID(n.id), Address: n.address}}})
}

// bootstrap begins a cluster of those servers.
func (n *node) bootstrap(c raft.Configuration) error {
	if err := n.store.Set(keyCluster, []byte(newNonce())); err != nil {
		return fmt.Errorf("write data_dir: %w", err)
	}
	if err := n.raft.BootstrapCluster(c).Error(); err != nil {
		return fmt.Errorf("begin cluster: %w", err)
	}
	return nil
}

// cluster returns what tells the cluster of this data_dir from all others; "" none.
func (n *node) cluster() string {
	id, err := n.store.Get(keyCluster)
	if err != nil {
		return ""
	}
	return string(id)
}

// greeted decides about an incoming connection of raft. An empty member belongs to
// the cluster that addresses it first.
func (n *node) greeted(g greeting) error {
	select {
	case <-n.started:
	case <-time.After(handshakeTimeout):
		return errors.New("this member is not up yet")
	}
	if g.To != n.id {
		return fmt.Errorf("the connection is for %s, this is %s", g.To, n.id)
	}
	switch ours := n.cluster(); {
	case g.Cluster == "":
		return errors.New("the connection is from no cluster")
	case ours == g.Cluster:
		return nil
	case !n.empty():
		return fmt.Errorf("the connection is from cluster %s, this is one of %s", g.Cluster, ours)
	}
	return n.store.Set(keyCluster, []byte(g.Cluster))
}

// servers returns raft's latest configuration, which is this member's view of it.
func (n *node) servers() []raft.Server { return n.raft.GetConfiguration().Configuration().Servers }

// server returns the entry of that id, or nil.
func (n *node) server(id string) *raft.Server {
	servers := n.servers()
	i := slices.IndexFunc(servers, func(s raft.Server) bool { return string(s.ID) == id })
	if i < 0 {
		return nil
	}
	return &servers[i]
}

// voter tells whether this server has a vote, as far as it knows.
func (n *node) voter() bool {
	s := n.server(n.id)
	return s != nil && s.Suffrage == raft.Voter
}

// empty tells whether this incarnation has promised nothing to any cluster.
func (n *node) empty() bool {
	return n.raft.CurrentTerm() == 0 && n.raft.LastIndex() == 0 && len(n.servers()) == 0
}

// leads tells whether raft leads in that term now.
func (n *node) leads(term uint64) bool {
	return n.raft.State() == raft.Leader && n.raft.CurrentTerm() == term
}

// silence ends all of raft's connections and lets it make no new ones. A leader whose
// disk hangs would go on to send heartbeats otherwise.
func (n *node) silence() {
	if n.network == nil {
		return
	}
	n.network.Close() // never fails
}

// errHung is returned by close when the disk does not answer.
var errHung = errors.New("close data_dir: the disk does not answer")

// close stops raft and closes the files, unless the disk hangs.
func (n *node) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	done := make(chan error, 1)
	drain := make(chan struct{})
	go func() { // raft's last word about its leadership may come before it sees the end
		for {
			select {
			case <-n.notify:
			case <-drain:
				return
			}
		}
	}()
	go func() {
		defer close(drain)
		err := n.raft.Shutdown().Error()
		n.silence()
		done <- errors.Join(err, n.store.Close())
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return errHung
	}
}
