package agent

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// control is what pg_controldata prints about a server that does not run.
type control struct {
	state       string
	systemID    uint64
	checkpoint  cluster.LSN // of the latest checkpoint record
	timeline    uint32      // of it
	minRecovery cluster.LSN // a standby has replayed at least this far
	minTimeline uint32
	segment     uint64 // bytes of a log file
	rewindable  bool
}

// readControl runs pg_controldata.
func (a *Agent) readControl(ctx context.Context) (control, error) {
	out, err := a.command(ctx, "pg_controldata", "-D", a.cfg.DataDirectory).Output()
	if err != nil {
		return control{}, fmt.Errorf("run pg_controldata: %w", commandError(err))
	}
	return parseControl(string(out))
}

// parseControl reads the untranslated output of PostgreSQL 13 to 18.
func parseControl(text string) (control, error) {
	var c control
	fields := make(map[string]string)
	for s := bufio.NewScanner(strings.NewReader(text)); s.Scan(); {
		if key, value, ok := strings.Cut(s.Text(), ":"); ok {
			fields[key] = strings.TrimSpace(value)
		}
	}
	var firstErr error
	get := func(key string) string {
		value, ok := fields[key]
		if !ok && firstErr == nil {
			firstErr = fmt.Errorf("read pg_controldata: no line %q", key)
		}
		return value
	}
	number := func(key string, bits int) uint64 {
		n, err := strconv.ParseUint(get(key), 10, bits)
		if err != nil && firstErr == nil {
			firstErr = fmt.Errorf("read pg_controldata: %s: %w", key, err)
		}
		return n
	}
	lsn := func(key string) cluster.LSN {
		l, err := cluster.ParseLSN(get(key))
		if err != nil && firstErr == nil {
			firstErr = fmt.Errorf("read pg_controldata: %s: %w", key, err)
		}
		return l
	}
	c.state = get("Database cluster state")
	c.systemID = number("Database system identifier", 64)
	c.checkpoint = lsn("Latest checkpoint location")
	c.timeline = uint32(number("Latest checkpoint's TimeLineID", 32))
	c.minRecovery = lsn("Minimum recovery ending location")
	c.minTimeline = uint32(number("Min recovery ending loc's timeline", 32))
	c.segment = number("Bytes per WAL segment", 64)
	c.rewindable = get("wal_log_hints setting") == "on" || get("Data page checksum version") != "0"
	return c, firstErr
}

// clean: the server was shut down, as a primary or in recovery.
func (c control) clean() bool { return c.state == "shut down" || c.state == "shut down in recovery" }

// produced: it was a primary when it ended.
func (c control) produced() bool {
	return c.state != "shut down in recovery" && c.state != "in archive recovery"
}

// end returns where the log ends as far as the control file tells, and the
// timeline of that. Behind the shutdown checkpoint of a primary there is nothing.
func (c control) end(dataDir string) (cluster.LSN, uint32, error) {
	if c.state == "shut down" {
		length, err := recordLength(dataDir, c)
		if err != nil {
			return 0, 0, err
		}
		return recordEnd(c.checkpoint, length, c.segment), c.timeline, nil
	}
	if c.minRecovery > c.checkpoint {
		return c.minRecovery, c.minTimeline, nil
	}
	return c.checkpoint, c.timeline, nil
}

// recordLength reads the length of the latest checkpoint's record from the log: the
// first field of its header, which is never split between two pages (XLogRecord in
// access/xlogrecord.h).
func recordLength(dataDir string, c control) (uint32, error) {
	name := filepath.Join(dataDir, "pg_wal", walFileName(c.timeline, uint64(c.checkpoint)/c.segment, c.segment))
	f, err := os.Open(name)
	if err != nil {
		return 0, fmt.Errorf("read shutdown checkpoint: %w", err)
	}
	defer f.Close()
	var raw [4]byte
	if _, err := f.ReadAt(raw[:], int64(uint64(c.checkpoint)%c.segment)); err != nil {
		return 0, fmt.Errorf("read shutdown checkpoint: %w", err)
	}
	n := binary.LittleEndian.Uint32(raw[:])
	if n < 24 || n > 1<<20 {
		return 0, fmt.Errorf("read shutdown checkpoint at %v: its record has %d bytes", c.checkpoint, n)
	}
	return n, nil
}

// The pages of the log (access/xlog_internal.h), for wal_block_size 8192, which no
// package changes.
const (
	walPage        = 8192
	pageHeader     = 24
	longPageHeader = 40 // of the first page of a file
)

// recordEnd returns the position behind a record, as PostgreSQL counts it: aligned
// to 8 bytes, the headers of the pages that it goes on to skipped.
func recordEnd(start cluster.LSN, length uint32, segment uint64) cluster.LSN {
	left, at := (uint64(length)+7)&^7, uint64(start)
	for {
		room := walPage - at%walPage
		if left <= room {
			return cluster.LSN(at + left)
		}
		left -= room
		at += room
		if at%segment == 0 {
			at += longPageHeader
		} else {
			at += pageHeader
		}
	}
}

// walFileName names a file of the log (access/xlog_internal.h, XLogFileName).
func walFileName(timeline uint32, number, segment uint64) string {
	perID := (uint64(1) << 32) / segment
	return fmt.Sprintf("%08X%08X%08X", timeline, number/perID, number%perID)
}

// timelineAt returns the timeline on which the log of dataDir reaches end: of the
// files that hold that position the one of the newest timeline. 0 when there is
// none. (The control file's timeline is that of the last restart point.)
func timelineAt(dataDir string, end cluster.LSN, segment uint64) uint32 {
	if end == 0 || segment == 0 {
		return 0
	}
	suffix := walFileName(0, uint64(end-1)/segment, segment)[8:]
	names, err := filepath.Glob(filepath.Join(dataDir, "pg_wal", "????????"+suffix))
	if err != nil {
		panic("BUG: bad glob pattern: " + err.Error())
	}
	var newest uint32
	for _, n := range names {
		if tli, err := strconv.ParseUint(filepath.Base(n)[:8], 16, 32); err == nil {
			newest = max(newest, uint32(tli))
		}
	}
	return newest
}

// readHistory reads the history file of a timeline; nil where there is none, as
// for timeline 1 (PostgreSQL manual, "Timelines").
func readHistory(dataDir string, timeline uint32) []cluster.Fork {
	content, err := os.ReadFile(filepath.Join(dataDir, "pg_wal", fmt.Sprintf("%08X.history", timeline)))
	if err != nil {
		return nil
	}
	return parseHistory(string(content))
}

func parseHistory(text string) []cluster.Fork {
	var all []cluster.Fork
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 || strings.HasPrefix(words[0], "#") {
			continue
		}
		tli, err := strconv.ParseUint(words[0], 10, 32)
		if err != nil {
			return nil
		}
		end, err := cluster.ParseLSN(words[1])
		if err != nil {
			return nil
		}
		all = append(all, cluster.Fork{Timeline: uint32(tli), End: end})
	}
	return all
}
