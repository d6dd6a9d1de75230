package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Names beside a directory that a rebuild replaces. Whatever ends in newSuffix was
// never a server's; what ends in oldSuffix was one until its replacement was put in
// its place, and is removed when that streams.
const (
	newSuffix = ".pgproxy-new"
	oldSuffix = ".pgproxy-old"
)

// swap is a rebuild under way, written down before each of its phases.
type swap struct {
	Recovery uint64    `json:"recovery,omitempty"` // that it is for; 0 none
	Phase    swapPhase `json:"phase"`
	InPlace  bool      `json:"in_place,omitempty"`
	// Dirs are the directories that are replaced: tablespaces and pg_wal where they
	// lie elsewhere, then the data directory. Only the last names it.
	Dirs []string `json:"dirs"`
}

type swapPhase string

const (
	swapCopying swapPhase = "copying" // the new directories are not whole
	swapMoving  swapPhase = "moving"  // they are, and take the old ones' places
	swapDone    swapPhase = "done"    // they have; the old ones wait for the server to stream
)

func (f files) swap() (*swap, error) { return readJSON[swap](f.path("rebuild.json")) }

func (f files) setSwap(s *swap) error {
	if s == nil {
		return remove(f.path("rebuild.json"))
	}
	return writeJSON(f.path("rebuild.json"), s)
}

// resume ends or takes back what a killed pgproxy has left of a rebuild, before
// anything else is looked at.
func (a *Agent) resume() error {
	s, err := a.files.swap()
	if err != nil {
		return err
	}
	dir := a.dataDir()
	for _, d := range []string{dir, dir + newSuffix} {
		if err := killCopies(d); err != nil {
			return err
		}
	}
	switch {
	case s == nil:
		// Nothing is known; the name tells enough.
		return removeAll(dir + newSuffix)
	case s.Phase == swapMoving && exists(dir+newSuffix) && len(processesIn(dir)) > 0:
		// Somebody has started the old server meanwhile. Its directory is the first to go,
		// so nothing was moved yet.
		a.log.Warn("rebuild: the old server runs again, what was copied is removed", "after", "an interruption")
		return a.dropCopy(s)
	case s.Phase == swapMoving:
		a.log.Info("rebuild: new directories take the places of the old", "after", "an interruption")
		return a.move(s)
	case s.Phase == swapCopying && !s.InPlace:
		a.log.Info("rebuild: what was copied is removed", "after", "an interruption")
		return a.dropCopy(s)
	}
	return nil // done, or a copy in place, whose marker has it made again
}

// dropCopy removes new directories that are not whole.
func (a *Agent) dropCopy(s *swap) error {
	for _, d := range s.Dirs {
		if err := removeAll(d + newSuffix); err != nil {
			return err
		}
	}
	return a.files.setSwap(a.leftOf(s))
}

// leftOf returns what is to be remembered of a rebuild whose copy is gone: the old
// directories of one before it that never streamed.
func (a *Agent) leftOf(s *swap) *swap {
	for _, d := range s.Dirs {
		if exists(d + oldSuffix) {
			return &swap{Phase: swapDone, Dirs: s.Dirs}
		}
	}
	return nil
}

// move puts the new directories into their places. It may be interrupted anywhere
// and be begun again: the data directory goes out of the way first and comes last,
// so that nothing can be started meanwhile. What is in the place of an old directory
// that is still there never streamed, and is removed.
func (a *Agent) move(s *swap) error {
	data := s.Dirs[len(s.Dirs)-1]
	if exists(data + newSuffix) {
		if err := putAside(data); err != nil {
			return err
		}
	}
	for _, d := range s.Dirs {
		if !exists(d + newSuffix) {
			continue
		}
		if err := putAside(d); err != nil {
			return err
		}
		if err := rename(d+newSuffix, d); err != nil {
			return err
		}
	}
	if s.Recovery != 0 {
		if err := a.files.setRebuilt(s.Recovery); err != nil {
			return err
		}
	}
	// The marks of the old directory; the new one has none.
	if err := errors.Join(a.files.unmark(data), a.files.setFenced(false)); err != nil {
		return err
	}
	s.Phase = swapDone
	return a.files.setSwap(s)
}

func putAside(dir string) error {
	switch {
	case !exists(dir):
		return nil
	case exists(dir + oldSuffix):
		return removeAll(dir)
	}
	return rename(dir, dir+oldSuffix)
}

// removeLeft removes the old directories of a rebuild that has come to its end.
func (a *Agent) removeLeft() error {
	s, err := a.files.swap()
	switch {
	case err != nil || s == nil || s.Phase == swapMoving:
		return err
	case s.Phase == swapCopying && !s.InPlace:
		if err := a.dropCopy(s); err != nil { // of an attempt that nobody wants any more
			return err
		}
	}
	for _, d := range s.Dirs {
		if err := removeAll(d + oldSuffix); err != nil {
			return err
		}
	}
	return a.files.setSwap(nil)
}

// removeAll removes a directory and all below it. It guards against removing
// anything but what a rebuild has made or put aside.
func removeAll(dir string) error {
	if !filepath.IsAbs(dir) || strings.Count(filepath.Clean(dir), "/") < 2 {
		panic("BUG: remove " + dir)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove directory: %w", err)
	}
	return nil
}

// empty removes all that is in a directory, but not itself: it may be a mount point.
func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("empty directory: %w", err)
	}
	for _, e := range entries {
		if e.Name() != "lost+found" {
			if err := removeAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// besides tells why no copy can be made beside a directory; nil when one can.
func besides(dir string) error {
	parent := filepath.Dir(dir)
	if err := unix.Access(parent, unix.W_OK|unix.X_OK); err != nil {
		return fmt.Errorf("no copy can be made beside %s: %w", dir, err)
	}
	on, err := device(parent)
	if err != nil {
		return err
	}
	own, err := device(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if on != own {
		return fmt.Errorf("no copy can be made beside %s: it is a mount point", dir)
	}
	return nil
}

func device(path string) (uint64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, fmt.Errorf("look at directory: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, fmt.Errorf("look at directory %s: no device", path)
	}
	return uint64(st.Dev), nil
}

// free returns the bytes that a directory's file system has for us.
func free(dir string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("look at the space of %s: %w", dir, err)
	}
	return st.Bavail * uint64(st.Bsize), nil
}
