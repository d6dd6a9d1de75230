package loop

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// busyGap is the mean time between two events of a loop below which it is busy, in
// nanoseconds.
const busyGap = 200_000

// policy is how the kernel schedules the thread of a loop (sched(7)). Where all processors
// are taken, a thread that wakes up for each event takes one from the very process that is
// about to cause the next event, serves one connection, sleeps, and finds cold caches when
// it is back. So the thread of a busy loop is SCHED_BATCH: it waits until somebody else
// makes room, and then has more to do at once. On a free processor that changes nothing,
// and a loop with little to do is not kept waiting.
type policy struct {
	attr *unix.SchedAttr // nil: it is somebody else's business
}

// takeThread keeps the goroutine on one thread, whose policy it may change, until
// releaseThread.
func (p *policy) takeThread() {
	runtime.LockOSThread()
	// Another policy than the usual one was chosen by whoever runs the process.
	if attr, err := unix.SchedGetAttr(0, 0); err == nil && attr.Policy == unix.SCHED_NORMAL {
		p.attr = attr
	}
}

func (p *policy) releaseThread() {
	p.set(false)
	runtime.UnlockOSThread()
}

// set makes the thread one of a busy loop, or not.
func (p *policy) set(busy bool) {
	want := uint32(unix.SCHED_NORMAL)
	if busy {
		want = unix.SCHED_BATCH
	}
	if p.attr == nil || p.attr.Policy == want {
		return
	}
	p.attr.Policy = want
	if err := unix.SchedSetAttr(0, p.attr, 0); err != nil { // not permitted: it stays as it is
		p.attr = nil
	}
}
