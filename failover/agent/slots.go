package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// observedLately bounds the age of what this member has seen of other servers, for
// advancing their slots.
const observedLately = 10 * time.Second

// slotQuery reads the slots of pgproxy.
const slotQuery = `SELECT slot_name, restart_lsn,
	greatest(0, pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, restart_lsn))::bigint,
	active, wal_status = 'lost'
	FROM pg_replication_slots WHERE slot_type = 'physical' AND starts_with(slot_name, '` + slotPrefix + `')`

// parseSlots reads the answer to slotQuery for the report.
func (a *Agent) parseSlots(rows [][]string) []cluster.Slot {
	names := make(map[string]string)
	state := a.deps.State()
	for i := range state.Backends {
		names[slotName(state.Backends[i].Name)] = state.Backends[i].Name
	}
	var all []cluster.Slot
	for _, s := range readSlots(rows) {
		if b, ok := names[s.name]; ok {
			all = append(all, cluster.Slot{Backend: b, Held: s.held, Active: s.active})
		}
	}
	return all
}

func readSlots(rows [][]string) []slot {
	all := make([]slot, 0, len(rows))
	for _, row := range rows {
		r := reader{row: row}
		all = append(all, slot{
			name: r.text(), restart: r.lsn(), held: r.number(), active: r.text() == "t", lost: r.text() == "t",
		})
	}
	return all
}

// keepSlots makes the slots of the local server what nextSlots wants.
func (a *Agent) keepSlots(ctx context.Context, last seen) error {
	conn, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer hangUp(conn)
	rows, err := queryRows(ctx, conn, slotQuery)
	if err != nil {
		return err
	}
	v := slotView{
		backend: a.deps.Backend, state: a.deps.State(), standby: last.State == cluster.ServerStandby,
		timeline: last.Timeline, slots: readSlots(rows), keep: a.deps.Bounds().SlotKeep, replays: map[string]cluster.LSN{},
	}
	if v.standby {
		row, err := query(ctx, conn, "SELECT pg_last_wal_replay_lsn()")
		if err != nil {
			return err
		}
		r := reader{row: row}
		v.replayed = r.lsn()
		for _, o := range a.deps.Observations() {
			if o.Role == cluster.RoleStandby && o.Timeline == v.timeline && time.Since(o.At) < observedLately {
				v.replays[o.Backend] = o.ReplayLSN
			}
		}
	}
	var failed error
	for _, c := range nextSlots(v) {
		if _, err := query(ctx, conn, c.sql()); err != nil && failed == nil {
			failed = fmt.Errorf("keep slot %s: %w", c.create+c.drop+c.advance, err)
		}
	}
	return failed
}

func (c slotChange) sql() string {
	switch {
	case c.create != "":
		// true: it keeps log from now on, not only from its first use.
		return "SELECT slot_name FROM pg_create_physical_replication_slot(" + quoteLiteral(c.create) + ", true)"
	case c.drop != "":
		return "SELECT pg_drop_replication_slot(" + quoteLiteral(c.drop) + ")"
	}
	return fmt.Sprintf("SELECT end_lsn FROM pg_replication_slot_advance(%s, '%s')", quoteLiteral(c.advance), c.to)
}
