package lb

import "strings"

// notFunction are the keywords that cannot name a function when they stand before a
// parenthesis: the reserved ones and those of gram.y's col_name_keyword, whose
// constructs call nothing volatile, and of type_func_name_keyword those that are
// operators (kwlist.h of PostgreSQL 13 to 18). Behind a dot they can, and those of
// later versions can in earlier ones: the catalog is asked all the same.
var notFunction = set(`
	all analyse analyze and any array as asc asymmetric both case cast check collate
	column constraint create current_catalog current_date current_role current_time
	current_timestamp current_user default deferrable desc distinct do else end except
	false fetch for foreign from grant group having in initially intersect into lateral
	leading limit localtime localtimestamp not null offset on only or order placing
	primary references returning select session_user some symmetric system_user table
	then to trailing true union unique user using variadic when where window with

	between bigint bit boolean char character coalesce dec decimal exists extract float
	greatest grouping inout int integer interval least national nchar none normalize
	nullif numeric out overlay position precision real row setof smallint substring time
	timestamp treat trim values varchar xmlattributes xmlconcat xmlelement xmlexists
	xmlforest xmlnamespaces xmlparse xmlpi xmlroot xmlserialize xmltable

	json json_array json_arrayagg json_exists json_object json_objectagg json_query
	json_scalar json_serialize json_table json_value

	ilike join like overlaps`)

// notFunctionAfter are the keywords that can name a function, except behind the given
// token ("" any).
var notFunctionAfter = map[string]string{
	"over":         ")",
	"filter":       ")",
	"repeatable":   ")",
	"by":           "",
	"sets":         "grouping",
	"materialized": "",
	"zone":         "time",
	"operator":     "",
	"columns":      "",
	"escape":       "",
	"set":          "",
	"conflict":     "on",
	"insert":       "then",
}

// differing are the functions of PostgreSQL and its contrib modules whose answer
// depends on the server that gives it, that write, or that take SQL text, with what
// they do to the session beyond that. Most of them are volatile in the catalog too.
// Zero: nothing.
var differing = map[string]Effect{
	"version": 0, "current_setting": 0,
	"inet_server_addr": 0, "inet_server_port": 0, "inet_client_addr": 0, "inet_client_port": 0,
	"nextval": 0, "currval": EffectLastValue, "lastval": EffectLastValue, "setval": 0,
	"random": 0, "random_normal": 0, "normal_rand": 0, "gen_random_uuid": 0, "uuidv4": 0, "uuidv7": 0,
	"clock_timestamp": 0, "timeofday": 0, "mxid_age": 0, "currtid": 0, "currtid2": 0,
	"loread": 0, "lowrite": 0, "lo_import": 0, "lo_export": 0, "lo_creat": 0, "lo_create": 0,
	"lo_open": 0, "lo_close": 0, "lo_unlink": 0, "lo_lseek": 0, "lo_lseek64": 0, "lo_tell": 0,
	"lo_tell64": 0, "lo_truncate": 0, "lo_truncate64": 0, "lo_get": 0, "lo_put": 0, "lo_from_bytea": 0,
	"setseed":     EffectMayChangeState | EffectLeftover,
	"set_config":  EffectSetConfig | EffectMayChangeState | EffectLeftover,
	"ts_stat":     EffectMayChangeState,
	"ts_rewrite":  0,
	"xpath_table": EffectMayChangeState,

	"pg_advisory_lock": EffectSessionLock, "pg_advisory_lock_shared": EffectSessionLock,
	"pg_try_advisory_lock": EffectSessionLock, "pg_try_advisory_lock_shared": EffectSessionLock,
	"pg_advisory_unlock": EffectUnpin, "pg_advisory_unlock_shared": EffectUnpin, "pg_advisory_unlock_all": EffectUnpin,
	"pg_replication_origin_session_setup": EffectMayChangeState | EffectLeftover,
	"pg_replication_origin_session_reset": EffectMayChangeState | EffectLeftover,
	"pg_create_physical_replication_slot": EffectMayChangeState | EffectLeftover, // they may be temporary
	"pg_create_logical_replication_slot":  EffectMayChangeState | EffectLeftover,
	"pg_copy_physical_replication_slot":   EffectMayChangeState | EffectLeftover,
	"pg_copy_logical_replication_slot":    EffectMayChangeState | EffectLeftover,
	"pg_start_backup":                     EffectMayChangeState | EffectLeftover,
	"pg_stop_backup":                      EffectMayChangeState | EffectLeftover,
	"pg_backup_start":                     EffectMayChangeState | EffectLeftover,
	"pg_backup_stop":                      EffectMayChangeState | EffectLeftover,
}

// quiet are those of them that only tell something.
var quiet = map[string]bool{
	"version": true, "current_setting": true, "pg_is_in_recovery": true, "pg_backend_pid": true,
	"inet_server_addr": true, "inet_server_port": true, "inet_client_addr": true, "inet_client_port": true,
	"clock_timestamp": true, "timeofday": true, "random": true, "gen_random_uuid": true,
}

// differingPrefixes are families of such functions.
var differingPrefixes = []struct {
	prefix  string
	effects Effect
}{
	{"pg_", 0},
	{"txid_", 0},
	{"dblink", EffectMayChangeState | EffectLeftover},
	{"crosstab", EffectMayChangeState},
	{"connectby", EffectMayChangeState},
	{"query_to_xml", EffectMayChangeState},
	{"cursor_to_xml", EffectMayChangeState},
	{"table_to_xml", EffectMayChangeState},
	{"schema_to_xml", EffectMayChangeState},
	{"database_to_xml", EffectMayChangeState},
}

// differs tells whether a function is on the fixed list, and its effects.
func differs(name string) (Effect, bool) {
	if alike[name] {
		return 0, false
	}
	if e, ok := differing[name]; ok {
		return e, true
	}
	for _, p := range differingPrefixes {
		if strings.HasPrefix(name, p.prefix) {
			return p.effects, true
		}
	}
	return 0, false
}

// alike are the names with PostgreSQL's own prefix that answer alike everywhere.
var alike = set(`pg_catalog pg_typeof pg_size_pretty pg_size_bytes pg_input_is_valid
	pg_char_to_encoding pg_encoding_to_char`)

// systemName tells whether an identifier, called or not, names something of the
// system whose answer may depend on the server: what starts with pg_, the
// information schema, and the system columns that hold transaction ids.
func systemName(name string) bool {
	switch name {
	case "information_schema", "xmin", "xmax", "cmin", "cmax":
		return true
	}
	return strings.HasPrefix(name, "pg_") && !alike[name]
}

// writing are the words without which a statement writes to no table.
var writing = set(`insert update delete merge copy truncate`)

// shows are the commands that pgproxy answers itself.
var shows = set(`pool_nodes pool_version pool_backend_stats pool_pools pool_processes
	pool_health_check_stats pool_status pool_cache`)

func set(words string) map[string]bool {
	m := make(map[string]bool)
	for _, w := range strings.Fields(words) {
		m[w] = true
	}
	return m
}
