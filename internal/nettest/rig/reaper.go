package rig

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// reaper is what init is on a real host: who is orphaned becomes a child of this
// process, which waits for its end. Elsewhere process 1 may take seconds for that,
// and meanwhile a server that was killed looks alive to the next one in its data
// directory (postmaster.pid, CreateLockFile).
type reaper struct {
	signals chan os.Signal
	stop    chan struct{}
	ended   chan struct{}

	mu struct {
		sync.Mutex
		own map[int]bool // sessions that we have started: somebody waits for them
	}
}

func startReaper() (*reaper, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become the parent of orphans: %w", err)
	}
	r := &reaper{signals: make(chan os.Signal, 1), stop: make(chan struct{}), ended: make(chan struct{})}
	r.mu.own = map[int]bool{}
	signal.Notify(r.signals, syscall.SIGCHLD)
	go r.run()
	return r, nil
}

// run looks after each SIGCHLD, and now and then for one that came meanwhile.
func (r *reaper) run() {
	defer close(r.ended)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		r.reap()
		select {
		case <-r.signals:
		case <-tick.C:
		case <-r.stop:
			return
		}
	}
}

// close looks a last time. Orphans go to process 1 again.
func (r *reaper) close() {
	signal.Stop(r.signals)
	close(r.stop)
	<-r.ended
	r.reap()
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) // it worked the other way round
}

// except keeps the reaper, where there is one, from a process that leads a session
// of its own.
func (r *reaper) except(start func() (pid int, err error)) error {
	if r == nil {
		_, err := start()
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := start()
	if err == nil {
		r.mu.own[pid] = true
	}
	return err
}

// reap waits for the dead children that we have not started. Those are of other
// sessions than ours: the servers' processes lead one each, what pgproxy starts is
// of its session.
func (r *reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	self := os.Getpid()
	ours, err := unix.Getsid(0)
	if err != nil {
		return
	}
	entries, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		panic("BUG: bad glob pattern: " + err.Error())
	}
	for _, e := range entries {
		b, err := os.ReadFile(e)
		if err != nil {
			continue // gone
		}
		// "pid (comm) state ppid pgrp session ...": comm may have parentheses (proc(5)).
		fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		if len(fields) < 4 || fields[0] != "Z" || fields[1] != strconv.Itoa(self) || fields[3] == strconv.Itoa(ours) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(e)))
		if err == nil && !r.mu.own[pid] {
			_, _ = syscall.Wait4(pid, nil, syscall.WNOHANG, nil) // nobody asks how it ended
		}
	}
}
