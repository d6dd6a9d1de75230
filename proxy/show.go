package proxy

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/proxy/session"
)

// HealthStats are the numbers of SHOW pool_health_check_stats for one backend.
type HealthStats struct {
	Total, Success, Fail, Skip, Retry, MaxRetry uint64
	AverageRetry                                float64
	MaxDuration, MinDuration, AverageDuration   time.Duration
	Last, LastSuccess, LastSkip, LastFail       time.Time
}

// reporter makes the SELECTs that stand for pgpool's SHOW commands. The server
// answers them, so that they work in both query protocols and in every format.
type reporter struct {
	sessions *sessions
	health   func(backend string) HealthStats
	version  string
}

// pgpool's column names, in its order (pool_process_reporting.c of 4.3).
var (
	nodeColumns = strings.Fields(`node_id hostname port status pg_status lb_weight role pg_role select_cnt
		load_balance_node replication_delay replication_state replication_sync_state last_status_change`)
	processColumns = strings.Fields(`pool_pid start_time client_connection_count database username
		backend_connection_time pool_counter status`)
	poolColumns = strings.Fields(`pool_pid start_time client_connection_count pool_id backend_id database username
		backend_connection_time client_connection_time client_disconnection_time client_idle_duration
		majorversion minorversion pool_counter pool_backendpid pool_connected status`)
	healthColumns = strings.Fields(`node_id hostname port status role last_status_change total_count success_count
		fail_count skip_count retry_count average_retry_count max_retry_count max_duration min_duration
		average_duration last_health_check last_successful_health_check last_skip_health_check last_failed_health_check`)
	backendColumns = strings.Fields(`node_id hostname port status role select_cnt insert_cnt update_cnt delete_cnt
		ddl_cnt other_cnt panic_cnt fatal_cnt error_cnt`)
)

// sql returns the SELECT for a command, seen from a session.
func (r *reporter) sql(name string, s *clientSession) string {
	switch name {
	case "pool_nodes":
		return selectOf(nodeColumns, r.nodes(s))
	case "pool_processes":
		return selectOf(processColumns, r.processes())
	case "pool_pools":
		return selectOf(poolColumns, r.pools())
	case "pool_health_check_stats":
		return selectOf(healthColumns, r.healthChecks())
	case "pool_backend_stats":
		return selectOf(backendColumns, r.backends())
	case "pool_version":
		return selectOf([]string{"pool_version"}, [][]string{{r.version}})
	}
	return "SHOW " + name // not one of ours: the server says so
}

// selectOf writes rows of text as a query that any server can answer.
func selectOf(columns []string, rows [][]string) string {
	var b strings.Builder
	b.WriteString("SELECT * FROM (VALUES ")
	none := len(rows) == 0
	if none {
		rows = [][]string{make([]string, len(columns))}
	}
	for i, row := range rows {
		if i > 0 {
			b.WriteByte(',')
		}
		for j, value := range row {
			b.WriteByte("(,"[min(j, 1)])
			b.WriteString(literal(value))
			b.WriteString("::pg_catalog.text")
		}
		b.WriteByte(')')
	}
	b.WriteString(") pgproxy(" + strings.Join(columns, ",") + ")")
	if none {
		b.WriteString(" WHERE false")
	}
	return b.String()
}

// literal quotes a string so that it means the same with every setting of
// standard_conforming_strings. What is not ASCII becomes a question mark: the
// client's encoding is not known here.
func literal(s string) string {
	var b strings.Builder
	b.WriteString(" E'")
	for _, r := range s {
		switch {
		case r == '\'' || r == '\\':
			b.WriteByte(byte(r))
			b.WriteByte(byte(r))
		case r < ' ' || r > '~':
			b.WriteByte('?')
		default:
			b.WriteByte(byte(r))
		}
	}
	b.WriteByte('\'')
	return b.String()
}

func (r *reporter) nodes(s *clientSession) (rows [][]string) {
	sh := r.sessions
	state := sh.cluster.State()
	observed := sh.observed()
	total := 0
	for _, b := range state.Backends {
		total += b.Weight
	}
	for i, b := range state.Backends {
		o := observed[b.Name]
		host, port := hostPort(b.Address)
		weight := 0.0
		if total > 0 {
			weight = float64(b.Weight) / float64(total)
		}
		sum := sh.metrics.of(b.Name).sum()
		rows = append(rows, []string{
			strconv.Itoa(i), host, port, b.Status.String(), reached(o),
			fmt.Sprintf("%.6f", weight), roleOf(b), o.Role.String(),
			number(sum.of(kindSelect)), strconv.FormatBool(s.readsFrom() == b.Name),
			delayOf(b, o), o.ReplicaState, o.SyncState, stamp(b.Since),
		})
	}
	return rows
}

func roleOf(b cluster.Backend) string { return b.Role.String() }

func reached(o cluster.Observation) string {
	switch {
	case o.Ready:
		return "up"
	case o.At.IsZero():
		return "unknown"
	}
	return "down"
}

func delayOf(b cluster.Backend, o cluster.Observation) string {
	if b.Role == cluster.RolePrimary {
		return "0"
	}
	return strconv.FormatUint(o.LagBytes, 10)
}

func (r *reporter) backends() (rows [][]string) {
	for i, b := range r.sessions.cluster.State().Backends {
		host, port := hostPort(b.Address)
		sum := r.sessions.metrics.of(b.Name).sum()
		rows = append(rows, []string{
			strconv.Itoa(i), host, port, b.Status.String(), roleOf(b),
			number(sum.of(kindSelect)), number(sum.of(kindInsert)), number(sum.of(kindUpdate)), number(sum.of(kindDelete)),
			number(sum.of(kindDDL)), number(sum.of(kindOther)),
			"0", number(sum.fatals), number(sum.errors), // a panic ends the connection without a word of its own
		})
	}
	return rows
}

func (r *reporter) healthChecks() (rows [][]string) {
	for i, b := range r.sessions.cluster.State().Backends {
		host, port := hostPort(b.Address)
		h := r.health(b.Name)
		rows = append(rows, []string{
			strconv.Itoa(i), host, port, b.Status.String(), roleOf(b), stamp(b.Since),
			number(h.Total), number(h.Success), number(h.Fail), number(h.Skip), number(h.Retry),
			fmt.Sprintf("%f", h.AverageRetry), number(h.MaxRetry),
			milliseconds(h.MaxDuration), milliseconds(h.MinDuration), fmt.Sprintf("%f", h.AverageDuration.Seconds()*1e3),
			stamp(h.Last), stamp(h.LastSuccess), stamp(h.LastSkip), stamp(h.LastFail),
		})
	}
	return rows
}

// processes has a row for each session: what is a process in pgpool is one here.
func (r *reporter) processes() (rows [][]string) {
	for _, s := range r.sessions.all() {
		rows = append(rows, []string{
			number(s.id), stamp(s.began), "1", s.client.database, s.client.user,
			stamp(s.began), "1", processStatus(s.state.Load()),
		})
	}
	return rows
}

// processStatus is the word that pgpool has for a session's state.
func processStatus(state sessionState) string {
	switch state {
	case stateActive, stateHeld:
		return "Execute command"
	case stateInTransaction:
		return "Idle in transaction"
	case stateIdle:
	}
	return "Idle"
}

// pools has a row for each server connection.
func (r *reporter) pools() (rows [][]string) {
	index := make(map[string]int)
	for i, b := range r.sessions.cluster.State().Backends {
		index[b.Name] = i
	}
	for i, c := range r.sessions.pools.list() {
		connected, status := "0", "Idle"
		if c.lent {
			connected, status = "1", "Execute command"
		}
		rows = append(rows, []string{
			number(c.id), stamp(c.created), number(c.uses), strconv.Itoa(i), strconv.Itoa(index[c.backend]),
			c.database, c.user, stamp(c.created), stamp(c.idleSince), "", idleSeconds(c),
			"3", "0", number(c.uses), number(uint64(c.pid)), connected, status,
		})
	}
	return rows
}

func idleSeconds(c poolConn) string {
	if c.lent {
		return "0"
	}
	return strconv.FormatInt(int64(math.Round(time.Since(c.idleSince).Seconds())), 10)
}

// readsFrom names the backend that the session's reads go to. The session's lock
// is held.
func (s *clientSession) readsFrom() string {
	if sv := s.mu.servers[session.Standby]; sv != nil {
		return sv.loan.backend
	}
	if sv := s.mu.servers[session.Primary]; sv != nil {
		return sv.loan.backend
	}
	return ""
}

func hostPort(address string) (host, port string) {
	i := strings.LastIndexByte(address, ':')
	if i < 0 {
		return address, ""
	}
	return strings.Trim(address[:i], "[]"), address[i+1:]
}

func number(n uint64) string { return strconv.FormatUint(n, 10) }

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// stamp writes a time as pgpool does, "" when it has not happened.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format(time.DateTime)
}
