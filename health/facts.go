package health

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// facts is what one server says about itself. It is immutable.
type facts struct {
	role      cluster.Role
	systemID  uint64
	timeline  uint32
	insert    cluster.LSN // of a primary, without the header of a page that is still empty
	received  cluster.LSN // of a standby; too little after a restart without its primary
	replayed  cluster.LSN
	xactAge   float64 // seconds since the commit that was replayed last, by the clocks of both; -1 none
	version   int
	startedAt time.Time
	collation string   // versions of the libraries that sort
	syncNames string   // of a primary
	settings  []string // values of outputSettings

	// A standby's walreceiver: whether it streams, and how its primary may know it.
	streaming     bool
	slot, appName string
	remote        netip.Addr // that the probe was connected to; invalid for a Unix socket
	replicas      []replica
}

// replica is a row of pg_stat_replication.
type replica struct {
	appName, slot    string
	addr             netip.Addr
	state, syncState string
}

// outputSettings are those that change what a query answers. Two servers must
// agree on them before one may answer for the other.
var outputSettings = []string{
	"server_encoding", "DateStyle", "IntervalStyle", "TimeZone", "timezone_abbreviations",
	"extra_float_digits", "bytea_output", "xmlbinary", "xmloption",
	"lc_messages", "lc_monetary", "lc_numeric", "lc_time",
	"standard_conforming_strings", "backslash_quote", "escape_string_warning", "array_nulls",
	"transform_null_equals", "quote_all_identifiers", "default_text_search_config", "search_path",
	"row_security", "gin_fuzzy_search_limit", "client_min_messages", "integer_datetimes",
}

// factsQuery is two statements in one simple query, so one round trip.
//
// The role is that of the CASE which reads the insert position: both come from
// one look. The timeline of a primary is in the name of the file it writes; the
// control file still has the old one after a promotion until the first
// checkpoint. The timeline of a standby is what its walreceiver follows; without
// one the control file has it as of the last restart point, which can be too old,
// never too new (measured on 15). The position comes before the timeline: a
// server that moves on between the two has this position in its history.
//
// One collation of libc and one of ICU stand for all of their library (the
// catalog is the same on all servers, so it is the same one everywhere).
var factsQuery = `SELECT
	CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn() END,
	CASE WHEN NOT pg_is_in_recovery() THEN pg_walfile_name(pg_current_wal_insert_lsn()) END,
	pg_last_wal_replay_lsn(),
	pg_last_wal_receive_lsn(),
	` + standbyTimeline + `,
	extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()),
	(SELECT system_identifier FROM pg_control_system()),
	current_setting('server_version_num'),
	(extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint,
	pg_size_bytes(current_setting('wal_segment_size')),
	current_setting('wal_block_size'),
	CASE WHEN NOT pg_is_in_recovery() THEN current_setting('synchronous_standby_names') END,
	(SELECT status FROM pg_stat_wal_receiver),
	(SELECT slot_name FROM pg_stat_wal_receiver),
	(SELECT conninfo FROM pg_stat_wal_receiver),
	concat_ws(' ',
		(SELECT 'libc ' || pg_collation_actual_version(oid) FROM pg_collation
			WHERE collprovider = 'c' AND collcollate <> 'C' AND collcollate <> 'POSIX' AND collcollate NOT LIKE 'C.%'
			ORDER BY oid LIMIT 1),
		(SELECT 'icu ' || pg_collation_actual_version(oid) FROM pg_collation
			WHERE collprovider = 'i' AND collname = 'und-x-icu' LIMIT 1))` +
	settingColumns() + `;
SELECT r.application_name, host(r.client_addr), r.state, r.sync_state, s.slot_name
	FROM pg_stat_replication r LEFT JOIN pg_replication_slots s ON s.active_pid = r.pid`

// standbyTimeline is an expression; COALESCE reads the control file only when
// there is no walreceiver or it may not be seen.
const standbyTimeline = `COALESCE((SELECT received_tli FROM pg_stat_wal_receiver),
		GREATEST((SELECT timeline_id FROM pg_control_checkpoint()),
			(SELECT min_recovery_end_timeline FROM pg_control_recovery())))`

func settingColumns() string {
	var b strings.Builder
	for _, name := range outputSettings {
		// true: NULL where the version does not have it
		fmt.Fprintf(&b, ",\n\tcurrent_setting('%s', true)", name)
	}
	return b.String()
}

// askFacts asks one server about itself; last is its last answer or nil.
func askFacts(ctx context.Context, conn *pgconn.PgConn, last *facts) (*facts, error) {
	results, err := conn.Exec(ctx, factsQuery).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("query health: %w", err)
	}
	if len(results) != 2 || len(results[0].Rows) != 1 {
		return nil, errors.New("query health: unexpected shape of the answer")
	}
	row := row{values: results[0].Rows[0]}
	f := parseFacts(&row)
	for _, r := range results[1].Rows {
		f.replicas = append(f.replicas, parseReplica(r))
	}
	if row.err != nil {
		return nil, fmt.Errorf("query health: %w", row.err)
	}
	if addr, err := netip.ParseAddrPort(conn.Conn().RemoteAddr().String()); err == nil {
		f.remote = addr.Addr().Unmap()
	}
	if last != nil && last.startedAt.Equal(f.startedAt) && f.role == cluster.RoleStandby {
		// The control file lags; a running server's timeline never goes back.
		f.timeline = max(f.timeline, last.timeline)
	}
	return f, nil
}

func parseFacts(r *row) *facts {
	f := &facts{role: cluster.RoleStandby, xactAge: -1}
	insert, walFile := r.text(), r.text()
	f.replayed, f.received = r.lsn(), r.lsn()
	f.timeline = uint32(r.uint(32))
	if age := r.text(); age != "" {
		f.xactAge = r.float(age)
	}
	// A bigint in the catalog, an unsigned number in pg_control.
	f.systemID = uint64(r.int())
	f.version = int(r.int())
	f.startedAt = time.UnixMicro(r.int())
	segment, block := r.uint(64), r.uint(64)
	f.syncNames = r.text()
	f.streaming = r.text() == "streaming"
	f.slot = r.text()
	f.appName = applicationName(r.text())
	f.collation = r.text()
	for range outputSettings {
		f.settings = append(f.settings, r.text())
	}
	if insert != "" {
		f.role = cluster.RolePrimary
		f.insert = trimHeader(r.parseLSN(insert), segment, block)
		f.timeline = r.fileTimeline(walFile)
	}
	return f
}

func parseReplica(values [][]byte) replica {
	r := row{values: values}
	rep := replica{appName: r.text()}
	// NULL and so invalid for a Unix socket, or without the right to see it.
	rep.addr, _ = netip.ParseAddr(r.text())
	rep.addr = rep.addr.Unmap()
	rep.state, rep.syncState, rep.slot = r.text(), r.text(), r.text()
	return rep
}

// Sizes of the headers of WAL pages (xlog_internal.h, SizeOfXLogShortPHD and
// SizeOfXLogLongPHD, the latter on the first page of a segment file).
const (
	shortHeader = 24
	longHeader  = 40
)

// trimHeader returns the end of the last record for an insert position that
// stands right behind the header of an empty page. pg_current_wal_insert_lsn
// counts that header although no record uses it yet, the replay position of a
// standby does not: after pg_switch_wal an idle primary would stay 40 bytes ahead
// of everybody (measured on 15).
func trimHeader(lsn cluster.LSN, segment, block uint64) cluster.LSN {
	if segment == 0 || block == 0 {
		return lsn
	}
	switch n := uint64(lsn); {
	case n%segment == longHeader:
		return lsn - longHeader
	case n%block == shortHeader && n%segment != shortHeader:
		return lsn - shortHeader
	}
	return lsn
}

var appNamePattern = regexp.MustCompile(`(?:^| )(fallback_)?application_name=('(?:[^'\\]|\\.)*'|\S+)`)

// applicationName returns the name under which the primary sees a walreceiver
// with that connection string.
func applicationName(conninfo string) string {
	name := ""
	for _, m := range appNamePattern.FindAllStringSubmatch(conninfo, -1) {
		if m[1] == "" {
			return unquote(m[2])
		}
		name = unquote(m[2])
	}
	return name
}

// unquote undoes the quoting of connection strings (libpq, "Keyword/Value
// Connection Strings").
func unquote(s string) string {
	if strings.HasPrefix(s, "'") {
		s = s[1 : len(s)-1]
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// row reads the columns of a row from left to right and keeps the first error.
type row struct {
	values [][]byte
	err    error
}

func (r *row) text() string {
	if len(r.values) == 0 {
		r.fail(errors.New("a column is missing"))
		return ""
	}
	v := r.values[0]
	r.values = r.values[1:]
	return string(v)
}

func (r *row) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

func (r *row) lsn() cluster.LSN {
	s := r.text()
	if s == "" {
		return 0
	}
	return r.parseLSN(s)
}

func (r *row) parseLSN(s string) cluster.LSN {
	l, err := cluster.ParseLSN(s)
	if err != nil {
		r.fail(err)
	}
	return l
}

func (r *row) int() int64 {
	n, err := strconv.ParseInt(r.text(), 10, 64)
	if err != nil {
		r.fail(err)
	}
	return n
}

func (r *row) uint(bits int) uint64 {
	n, err := strconv.ParseUint(r.text(), 10, bits)
	if err != nil {
		r.fail(err)
	}
	return n
}

func (r *row) float(s string) float64 {
	n, err := strconv.ParseFloat(s, 64)
	if err != nil {
		r.fail(err)
	}
	return n
}

// fileTimeline returns the timeline in the name of a WAL file, its first eight
// hexadecimal digits.
func (r *row) fileTimeline(name string) uint32 {
	if len(name) != 24 {
		r.fail(fmt.Errorf("WAL file name %q", name))
		return 0
	}
	n, err := strconv.ParseUint(name[:8], 16, 32)
	if err != nil {
		r.fail(err)
	}
	return uint32(n)
}
