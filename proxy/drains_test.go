package proxy

import "testing"

// TestDrainsOfAnEndedSession: one that has ended keeps no switchover waiting, although what
// was seen of it before its end is told after it.
func TestDrainsOfAnEndedSession(t *testing.T) {
	d := newDrains(func() {})
	ended, running := &clientSession{}, &clientSession{}
	d.gone(ended)
	d.note(1, ended, true)
	d.note(1, running, true)
	d.visited(1)
	if d.done.Load() != 0 {
		t.Error("done while a session has something running")
	}
	d.note(1, ended, true)
	d.gone(running)
	if d.done.Load() != 1 {
		t.Error("not done after the end of all sessions")
	}
}
