package watchdog

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// maxSnapshot bounds a snapshot, in bytes. A State is some kilobytes.
const maxSnapshot = 16 << 20

// fsm is raft's view of the State. raft calls it from one goroutine.
type fsm struct {
	publish func(cluster.State)
	state   func() *cluster.State
	fail    func(error) // ends Run
	stuck   atomic.Bool // an entry or snapshot was met that this program does not know
}

// applied is what became of one entry.
type applied struct {
	state cluster.State
	err   error
}

// Apply applies an entry. One that this program does not know ends it: to skip an
// entry would fork the truth. Every entry after it is left alone too.
func (f *fsm) Apply(entry *raft.Log) any {
	if f.stuck.Load() {
		return applied{err: errors.New("the log was left at an entry that this program does not know")}
	}
	c, err := cluster.DecodeCommand(entry.Data)
	if err != nil {
		return f.stop(fmt.Errorf("entry %d of the log: %w", entry.Index, err))
	}
	next, err := cluster.Apply(*f.state(), c)
	if errors.Is(err, cluster.ErrUnknown) {
		return f.stop(fmt.Errorf("entry %d of the log: %w", entry.Index, err))
	}
	if err == nil && next.Epoch != f.state().Epoch {
		f.publish(next)
	}
	return applied{state: next, err: err}
}

func (f *fsm) stop(err error) applied {
	f.stuck.Store(true)
	f.fail(fmt.Errorf("written by a newer pgproxy or damaged: %w", err))
	return applied{err: err}
}

// Snapshot implements raft.FSM.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	if f.stuck.Load() {
		return nil, errors.New("there is an entry that this program does not know")
	}
	return snapshot{*f.state()}, nil
}

// Restore implements raft.FSM.
func (f *fsm) Restore(from io.ReadCloser) error {
	data, err := io.ReadAll(io.LimitReader(from, maxSnapshot+1))
	if err == nil && len(data) > maxSnapshot {
		err = fmt.Errorf("it is longer than %d bytes", maxSnapshot)
	}
	if err != nil {
		return fmt.Errorf("read snapshot: %w", err)
	}
	s, err := cluster.DecodeState(data)
	if err != nil {
		return f.stop(fmt.Errorf("snapshot: %w", err)).err
	}
	f.publish(s)
	return nil
}

// snapshot is a State, which never changes.
type snapshot struct{ state cluster.State }

// Persist implements raft.FSMSnapshot.
func (s snapshot) Persist(sink raft.SnapshotSink) error {
	data, err := cluster.EncodeState(s.state)
	if err == nil {
		_, err = sink.Write(data)
	}
	if err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (snapshot) Release() {}
