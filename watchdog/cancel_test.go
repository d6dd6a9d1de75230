package watchdog

import (
	"context"
	"sync/atomic"
	"testing"
)

// keys is a member's sessions, of one key each.
type keys struct {
	pid    uint32
	secret string
	asked  atomic.Int32
	hangs  chan struct{} // not nil: a question is answered when it is closed
}

func (k *keys) cancel(ctx context.Context, pid uint32, secret []byte) bool {
	k.asked.Add(1)
	if k.hangs != nil {
		select {
		case <-k.hangs:
		case <-ctx.Done():
		}
	}
	return pid == k.pid && string(secret) == k.secret
}

// newCanceling makes four members, of which h4 is a witness.
func newCanceling(t *testing.T, change func(map[string]*keys)) (*group, map[string]*keys) {
	g := newGroup(t, "h1", "h2", "h3", "h4")
	all := map[string]*keys{
		"h1": {pid: 7, secret: "one"}, "h2": {pid: 7, secret: "\x00two\xff"}, "h3": {pid: 7, secret: "three"}, "h4": {},
	}
	if change != nil {
		change(all)
	}
	for name, k := range all {
		g.members[name].deps.Cancel = k.cancel
	}
	g.cfg.Members[3].Witness = true
	g.members["h4"].deps.Witness = true
	g.start()
	g.leader()
	for _, m := range g.running() {
		g.until(m.name+" knows the others", func() bool { return len(m.Voters()) == 4 })
	}
	return g, all
}

func TestCancelElsewhere(t *testing.T) {
	g, all := newCanceling(t, nil)
	ask := func(member string, pid uint32, secret string) bool {
		return g.members[member].CancelElsewhere(g.context(), pid, []byte(secret))
	}
	if !ask("h1", 7, "\x00two\xff") || !ask("h3", 7, "one") {
		t.Error("the key of another member is not found")
	}
	before := all["h1"].asked.Load()
	for _, key := range []string{"one", "", "two"} {
		if ask("h1", 7, key) {
			t.Errorf("key %q is known elsewhere", key)
		}
	}
	if ask("h1", 8, "three") {
		t.Error("a key with another process id is known elsewhere")
	}
	if n := all["h1"].asked.Load(); n != before {
		t.Errorf("the member asked itself %d times", n-before)
	}
	if n := all["h4"].asked.Load(); n != 0 {
		t.Errorf("the witness was asked %d times", n)
	}
	if !g.members["h4"].CancelElsewhere(g.context(), 7, []byte("one")) {
		t.Error("the key is not found from a witness")
	}
}

func TestCancelElsewhereDoesNotWaitForAMemberThatHangs(t *testing.T) {
	hangs := make(chan struct{})
	g, all := newCanceling(t, func(all map[string]*keys) { all["h2"].hangs = hangs })
	defer close(hangs)
	h1 := g.members["h1"]
	if !h1.CancelElsewhere(g.context(), 7, []byte("three")) {
		t.Fatal("the key is not found")
	}
	ctx, cancel := context.WithCancel(g.context())
	found := make(chan bool)
	before := all["h2"].asked.Load()
	for range maxCancels + 2 { // more than may be under way at h2
		go func() { found <- h1.CancelElsewhere(ctx, 7, []byte("nobody's")) }()
	}
	g.until("h2 has as many questions as it may", func() bool { return all["h2"].asked.Load() >= before+maxCancels })
	if !h1.CancelElsewhere(g.context(), 7, []byte("three")) {
		t.Error("the key is not found while others wait")
	}
	cancel()
	for range maxCancels + 2 {
		if <-found {
			t.Error("nobody's key is found")
		}
	}
}

func TestCancelElsewhereWhenOthersAreGone(t *testing.T) {
	g, _ := newCanceling(t, nil)
	if err := g.members["h2"].stop(); err != nil {
		t.Fatal(err)
	}
	if g.members["h1"].CancelElsewhere(g.context(), 7, []byte("\x00two\xff")) {
		t.Error("a member that is gone answers")
	}
	if !g.members["h1"].CancelElsewhere(g.context(), 7, []byte("three")) {
		t.Error("the key is not found")
	}
}
