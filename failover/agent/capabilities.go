package agent

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// withoutCapabilities calls run, which starts a program, so that the program does
// not inherit pgproxy's ambient capabilities (capabilities(7)): they are for the
// virtual addresses, and the server has no business with the network's settings.
func withoutCapabilities(run func() error) error {
	ended := make(chan error, 1)
	go func() {
		// The set is the thread's and run forks from it. Never unlocked: the thread ends
		// with the goroutine, and nobody else gets it.
		runtime.LockOSThread()
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
			ended <- fmt.Errorf("clear ambient capabilities: %w", err)
			return
		}
		ended <- run()
	}()
	return <-ended
}
