package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// spare is what a copy may need beside the size of its source: the log that is
// written while it is made, in bytes.
const spare = 256 << 20

// copyLabel tells our copies from those of others.
const copyLabel = "--label=pgproxy"

// tablespace is a directory of the source that lies outside of its data directory.
type tablespace struct {
	oid    string
	source string
	local  string // where it comes to lie here
	bytes  uint64 // 0 unknown
}

// plan is where all parts of a copy go.
type plan struct {
	data        string // the data directory
	wal         string // that pg_wal is a link to; "" it is none
	tablespaces []tablespace
	bytes       uint64 // of all but the tablespaces; 0 unknown
	slot        string // of this server on the source; "" none, or it is in use
}

// rebuild makes a copy of source with pg_basebackup and has the server start on it
// (S9). Until the copy is whole the old server, where it runs, is left alone; until
// the new one streams, the old directories are kept.
func (a *Agent) rebuild(ctx context.Context, t *task, source *cluster.Backend) error {
	p, err := a.plan(ctx, source)
	if err != nil {
		return err
	}
	old, err := a.files.swap()
	if err != nil {
		return err
	}
	s := &swap{Recovery: t.step.Recovery, Phase: swapCopying, InPlace: t.step.InPlace, Dirs: p.dirs()}
	if old != nil && old.Phase == swapDone && !s.InPlace {
		s.Dirs = union(old.Dirs, s.Dirs)
	}
	if s.InPlace {
		err = a.beginInPlace(ctx, t, p, s)
	} else {
		err = a.beginBeside(p, s)
	}
	if err != nil {
		return err
	}
	if err := a.copyFrom(ctx, t, source, p, s.InPlace); err != nil {
		if !s.InPlace {
			err = errors.Join(err, a.dropCopy(s))
		}
		return err
	}
	if err := a.takePlace(ctx, t, source, p, s); err != nil {
		return err
	}
	return a.start(ctx)
}

// union returns the directories of both, those of b in their order at the end.
func union(a, b []string) []string {
	var all []string
	for _, d := range a {
		if !contains(b, d) {
			all = append(all, d)
		}
	}
	return append(all, b...)
}

func contains(all []string, s string) bool {
	for _, v := range all {
		if v == s {
			return true
		}
	}
	return false
}

// plan asks the source what there is to copy, and decides where it goes.
func (a *Agent) plan(ctx context.Context, source *cluster.Backend) (plan, error) {
	ctx, cancel := context.WithTimeout(ctx, checkpointWait)
	defer cancel()
	conn, err := a.connectTo(ctx, source, false)
	if err != nil {
		return plan{}, err
	}
	defer hangUp(conn)
	p := plan{data: a.dataDir()}
	known := *a.known.Load()
	p.wal = known.WALDirectory
	if link, err := filepath.EvalSymlinks(filepath.Join(p.data, "pg_wal")); err == nil && link != filepath.Join(p.data, "pg_wal") {
		p.wal = link
	}
	rows, err := queryRows(ctx, conn, `SELECT oid, pg_tablespace_location(oid) FROM pg_tablespace WHERE oid NOT IN (1663, 1664)`)
	if err != nil {
		return plan{}, fmt.Errorf("list tablespaces of %s: %w", source.Name, err)
	}
	for _, row := range rows {
		if filepath.IsAbs(row[1]) { // else it lies in the data directory
			p.tablespaces = append(p.tablespaces, tablespace{oid: row[0], source: row[1], local: a.localTablespace(p.data, known, row[0], row[1])})
		}
	}
	if err := p.sizes(ctx, conn); err != nil {
		return plan{}, err
	}
	slot := slotName(a.deps.Backend)
	row, err := query(ctx, conn, "SELECT count(*) FROM pg_replication_slots WHERE NOT active AND wal_status <> 'lost' AND slot_name = "+quoteLiteral(slot))
	if err != nil {
		return plan{}, fmt.Errorf("look for slot %s on %s: %w", slot, source.Name, err)
	}
	if row[0] == "1" {
		p.slot = slot
	}
	return p, nil
}

// localTablespace returns where a tablespace lies, or will lie, on this host.
func (a *Agent) localTablespace(data string, known layout, oid, source string) string {
	if link, err := os.Readlink(filepath.Join(data, "pg_tblspc", oid)); err == nil {
		return link
	}
	if dir, ok := known.Tablespaces[oid]; ok {
		return dir
	}
	if dir, ok := a.cfg.Tablespaces[source]; ok {
		return dir
	}
	return source
}

// sizes asks how large everything is. The role may lack the right to know.
func (p *plan) sizes(ctx context.Context, conn *pgconn.PgConn) error {
	rows, err := queryRows(ctx, conn, "SELECT oid, pg_tablespace_size(oid) FROM pg_tablespace")
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == "42501" {
		return nil
	}
	if err != nil {
		return fmt.Errorf("ask for the size of the source: %w", err)
	}
	for _, row := range rows {
		r := reader{row: row}
		oid, bytes := r.text(), r.number()
		inside := true
		for i := range p.tablespaces {
			if p.tablespaces[i].oid == oid {
				p.tablespaces[i].bytes, inside = bytes, false
			}
		}
		if inside {
			p.bytes += bytes
		}
	}
	return nil
}

// dirs are the directories that are replaced, the data directory last.
func (p plan) dirs() []string {
	var all []string
	for _, t := range p.tablespaces {
		all = append(all, t.local)
	}
	if p.wal != "" {
		all = append(all, p.wal)
	}
	return append(all, p.data)
}

// beginBeside checks that there is place for the copy, and clears it.
func (a *Agent) beginBeside(p plan, s *swap) error {
	need := make(map[uint64]uint64) // bytes by file system
	at := make(map[uint64]string)
	add := func(dir string, bytes uint64) error {
		if err := besides(dir); err != nil {
			return a.refused(err)
		}
		on, err := device(filepath.Dir(dir))
		if err != nil {
			return err
		}
		need[on] += bytes
		at[on] = filepath.Dir(dir)
		return nil
	}
	for _, t := range p.tablespaces {
		if err := add(t.local, t.bytes); err != nil {
			return err
		}
	}
	if p.wal != "" {
		if err := add(p.wal, 0); err != nil {
			return err
		}
	}
	if err := add(p.data, p.bytes); err != nil {
		return err
	}
	for _, d := range s.Dirs { // of an attempt before; they are not counted
		if err := removeAll(d + newSuffix); err != nil {
			return err
		}
	}
	for on, bytes := range need {
		has, err := free(at[on])
		if err != nil {
			return err
		}
		if bytes > 0 && has < bytes+spare {
			return a.refused(fmt.Errorf("too little space for a copy in %s: %d MB are needed, %d MB are free", at[on], (bytes+spare)>>20, has>>20))
		}
	}
	return a.files.setSwap(s)
}

// refused: trying again changes nothing, and there is another way.
func (a *Agent) refused(err error) error {
	return final("%w; pgproxy-pcp recover --in-place %s removes the old data first", err, a.deps.Backend)
}

// beginInPlace removes the old data. From here on the marker has it made anew.
func (a *Agent) beginInPlace(ctx context.Context, t *task, p plan, s *swap) error {
	if err := a.confirm(ctx, t); err != nil {
		return err
	}
	if err := a.stopHard(ctx); err != nil {
		return err
	}
	// To stop may have taken long, and without the primary this may be the last copy.
	if err := a.confirm(ctx, t); err != nil {
		return err
	}
	if exists(filepath.Join(p.data, "PG_VERSION")) && !exists(filepath.Join(p.data, markerInData)) {
		if err := a.files.keep(p.data); err != nil {
			return err
		}
	}
	if err := a.files.mark(p.data, marker{InPlace: true}); err != nil {
		return err
	}
	if err := a.files.setSwap(s); err != nil {
		return err
	}
	for _, d := range p.dirs() {
		for _, dir := range []string{d + newSuffix, d + oldSuffix} {
			if err := removeAll(dir); err != nil {
				return err
			}
		}
		if err := empty(d); err != nil {
			return err
		}
	}
	return nil
}

// copyFrom runs pg_basebackup into the new directories, or in place.
func (a *Agent) copyFrom(ctx context.Context, t *task, source *cluster.Backend, p plan, inPlace bool) error {
	suffix := newSuffix
	if inPlace {
		suffix = ""
	}
	args := []string{
		"-D", p.data + suffix, "-d", a.conninfo(source), "-X", "stream", "--checkpoint=fast", "--progress", "--no-password",
		copyLabel,
	}
	if p.slot != "" {
		args = append(args, "--slot="+p.slot)
	}
	if p.wal != "" {
		args = append(args, "--waldir="+p.wal+suffix)
	}
	escape := strings.NewReplacer(`\`, `\\`, `=`, `\=`)
	for _, ts := range p.tablespaces {
		args = append(args, "--tablespace-mapping="+escape.Replace(ts.source)+"="+escape.Replace(ts.local+suffix))
	}
	err := runTied(ctx, a.command(ctx, "pg_basebackup", args...), func(line string) {
		a.log.Debug("pg_basebackup", "line", line)
		if p, ok := progressOf(line); ok {
			t.notes.progress(p, strings.TrimSpace(line))
		}
	})
	if err != nil {
		return err
	}
	return a.finish(p, p.data+suffix, source)
}

// finish makes a copy this server's: its configuration, its links, a standby.
func (a *Agent) finish(p plan, dir string, source *cluster.Backend) error {
	if !exists(filepath.Join(p.data, markerInData)) && exists(filepath.Join(p.data, "PG_VERSION")) && dir != p.data {
		if err := a.files.keep(p.data); err != nil { // as it is now, not as it was at the last look
			return err
		}
	}
	if err := a.files.restore(dir); err != nil {
		return err
	}
	if err := remove(filepath.Join(dir, markerInData)); err != nil { // of the source
		return err
	}
	for _, t := range p.tablespaces {
		if err := relink(filepath.Join(dir, "pg_tblspc", t.oid), t.local); err != nil {
			return err
		}
	}
	if p.wal != "" {
		if err := relink(filepath.Join(dir, "pg_wal"), p.wal); err != nil {
			return err
		}
	}
	if err := setReplication(dir, a.conninfo(source), a.slotOn(source)); err != nil {
		return err
	}
	return setSignal(dir, true)
}

// relink makes a link of the copy point to where its directory comes to lie.
func relink(link, to string) error {
	if err := remove(link); err != nil {
		return err
	}
	if err := os.Symlink(to, link); err != nil {
		return fmt.Errorf("link directory: %w", err)
	}
	return syncDir(filepath.Dir(link))
}

// takePlace stops what runs on the old directories and puts the new ones in their
// place.
func (a *Agent) takePlace(ctx context.Context, t *task, source *cluster.Backend, p plan, s *swap) error {
	// The primary may be another by now.
	if now := a.deps.State(); now.Primary != "" && now.Primary != source.Name {
		if b := now.Backend(now.Primary); b != nil && now.Primary != a.deps.Backend {
			dir := p.data
			if !s.InPlace {
				dir += newSuffix
			}
			if err := setReplication(dir, a.conninfo(b), a.slotOn(b)); err != nil {
				return err
			}
		}
	}
	if s.InPlace {
		if s.Recovery != 0 {
			if err := a.files.setRebuilt(s.Recovery); err != nil {
				return err
			}
		}
		if err := a.files.unmark(p.data); err != nil {
			return err
		}
		return errors.Join(a.files.setFenced(false), a.files.setSwap(nil))
	}
	if err := a.confirmSoon(ctx, t); err != nil {
		return err
	}
	if err := a.stopHard(ctx); err != nil {
		return err
	}
	s.Phase = swapMoving
	if err := a.files.setSwap(s); err != nil {
		return err
	}
	return a.move(s)
}
