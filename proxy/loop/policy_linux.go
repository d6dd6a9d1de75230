package loop

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A loop is busy when the mean time between two of its events has been less than busyGap
// for policyTime, in nanoseconds.
const (
	busyGap    = 200_000
	policyTime = 100_000_000
)

// policy is how the kernel schedules the thread of a loop (sched(7)). Where all processors
// are taken, a thread that wakes up for each event takes one from the very process that is
// about to cause the next event, serves one connection, sleeps, and finds cold caches when
// it is back. So the thread of a busy loop is SCHED_BATCH: it waits until somebody else
// makes room, and then has more to do at once. On a free processor that changes nothing,
// and a loop with little to do is not kept waiting.
type policy struct {
	own    bool // it may be changed
	busy   bool // it is SCHED_BATCH
	since  int64
	events int64 // since then
}

// note takes a turn with that many events.
func (p *policy) note(now int64, events int) {
	p.events += int64(events)
	if gone := now - p.since; gone > policyTime {
		p.set(gone < p.events*busyGap)
		p.since, p.events = now, 0
	}
}

// takeThread keeps the goroutine on one thread, whose policy it may change, until
// releaseThread.
func (p *policy) takeThread() {
	runtime.LockOSThread()
	// Another policy than the usual one was chosen by whoever runs the process.
	now, _, e := unix.RawSyscall(unix.SYS_SCHED_GETSCHEDULER, 0, 0, 0)
	p.own = e == 0 && now == unix.SCHED_NORMAL
}

func (p *policy) releaseThread() {
	p.set(false)
	runtime.UnlockOSThread()
}

// set makes the thread one of a busy loop, or not. Where that is not permitted it stays as
// it is. sched_setattr would do it, too, but a filter cannot look at its arguments
// (systemd.exec(5), RestrictRealtime).
func (p *policy) set(busy bool) {
	if !p.own || p.busy == busy {
		return
	}
	want := unix.SCHED_NORMAL
	if busy {
		want = unix.SCHED_BATCH
	}
	var priority int32 // struct sched_param; these policies have none
	_, _, e := unix.RawSyscall(unix.SYS_SCHED_SETSCHEDULER, 0, uintptr(want), uintptr(unsafe.Pointer(&priority)))
	p.own, p.busy = e == 0, busy
}
