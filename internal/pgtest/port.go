package pgtest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// Ports are taken from below Linux's range for outgoing connections (32768 and
// up), so that no client's socket takes one while its server restarts.
const (
	firstPort = 20000
	lastPort  = 31999
)

// Port is a TCP port on 127.0.0.1 that no other user of this package on this
// machine gets until it is released.
type Port struct {
	Number int
	lock   *os.File
}

// ReservePort finds a port that is free, and reserves it by a locked file.
func ReservePort() (*Port, error) {
	root, err := rootDir()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(root, "ports")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("reserve port: %w", err)
	}
	n := lastPort - firstPort + 1
	start := rand.IntN(n)
	for i := range n {
		number := firstPort + (start+i)%n
		lock, err := tryLockFile(filepath.Join(dir, strconv.Itoa(number)))
		if errors.Is(err, syscall.EWOULDBLOCK) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reserve port: %w", err)
		}
		if free(number) {
			return &Port{Number: number, lock: lock}, nil
		}
		lock.Close()
	}
	return nil, fmt.Errorf("reserve port: all of %d to %d are taken", firstPort, lastPort)
}

// Address returns 127.0.0.1:number.
func (p *Port) Address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(p.Number)) }

// Release gives the port back. The lock file stays: removing it would let two
// others lock different files of the same name.
func (p *Port) Release() { p.lock.Close() }

func free(port int) bool {
	l, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return false
	}
	l.Close()
	return true
}

// tryLockFile opens path and locks it for this process; EWOULDBLOCK if another
// has it. Closing the file, or the end of the process, unlocks it.
func tryLockFile(path string) (*os.File, error) {
	return lockFile(path, syscall.LOCK_EX|syscall.LOCK_NB)
}

func lockFile(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock file: %w", err)
	}
	for {
		err := syscall.Flock(int(f.Fd()), how)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		return f, nil
	}
}
