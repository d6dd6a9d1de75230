package nettest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	namespaces = "/run/netns" // where iproute2 looks for names
	prefix     = "pgproxy-"   // of the names of all our namespaces
)

// makeNamespace makes a named network namespace.
func makeNamespace(name string) error {
	// Not unlocked: the thread has left its namespace, and ends with this goroutine.
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		origin, err := netns.Get()
		if err != nil {
			done <- err
			return
		}
		defer origin.Close()
		ns, err := netns.NewNamed(name)
		if err == nil {
			ns.Close()
		}
		// The main thread never ends, whoever locks it: it must go home.
		if setErr := netns.Set(origin); setErr == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		return fmt.Errorf("make network namespace %s: %w", name, err)
	}
	return nil
}

// openNamespace opens a named one, or that of this process for "".
func openNamespace(name string) (netns.NsHandle, error) {
	path := "/proc/self/ns/net"
	if name != "" {
		path = filepath.Join(namespaces, name)
	}
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return ns, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	return ns, nil
}

// inNamespace calls f on a thread that is in the namespace. What f starts as
// goroutines is not.
func inNamespace(name string, f func() error) (err error) {
	ns, err := openNamespace(name)
	if err != nil {
		return err
	}
	defer ns.Close()
	runtime.LockOSThread()
	origin, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open this thread's network namespace: %w", err)
	}
	defer origin.Close()
	if err := netns.Set(ns); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace %s: %w", name, err)
	}
	defer func() {
		if setErr := netns.Set(origin); setErr != nil {
			// The thread stays locked and ends with its goroutine.
			err = errors.Join(err, fmt.Errorf("leave network namespace %s: %w", name, setErr))
			return
		}
		runtime.UnlockOSThread()
	}()
	return f()
}

// sweep removes what processes that are gone have left.
func sweep() error {
	entries, err := os.ReadDir(namespaces)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("look for old network namespaces: %w", err)
	}
	for _, e := range entries {
		owner, ok := strings.CutPrefix(e.Name(), prefix)
		if !ok {
			continue
		}
		owner, _, _ = strings.Cut(owner, "-")
		pid, err := strconv.Atoi(owner)
		if err != nil || syscall.Kill(pid, 0) != syscall.ESRCH {
			continue
		}
		if err := removeNamespaces(e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// removeNamespaces kills what runs in the namespaces that match, all of it before
// the first one goes, and removes them. Their interfaces go with them.
func removeNamespaces(pattern string) error {
	paths, err := filepath.Glob(filepath.Join(namespaces, pattern))
	if err != nil {
		return fmt.Errorf("look for network namespaces: %w", err)
	}
	var errs []error
	for _, path := range paths {
		errs = append(errs, killProcesses(path))
	}
	for _, path := range paths {
		// EINVAL: nothing is mounted there, its maker died or another sweep was faster.
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("remove network namespace: %w", err))
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove network namespace: %w", err))
		}
	}
	return errors.Join(errs...)
}

// writeSysctl sets a kernel setting of the current thread's namespace.
func writeSysctl(name, value string) error {
	if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0); err != nil {
		return fmt.Errorf("set %s: %w", name, err)
	}
	return nil
}
