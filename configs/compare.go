package configs

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/pgproxy/pgproxy/proxy"
)

// When a key counts.
const (
	atOnce  = false // a reload puts it in force
	restart = true
)

// rows say of each key of the file whether it needs a restart. "[]" stands for every
// item of a list.
var rows = map[string]bool{
	"name":     restart,
	"data_dir": restart,

	"listen.address":               restart,
	"listen.unix_socket_dir":       restart,
	"listen.max_clients":           atOnce,
	"listen.tls.cert_file":         atOnce,
	"listen.tls.key_file":          atOnce,
	"listen.tls.client_ca_file":    atOnce,
	"listen.tls.mode":              atOnce,
	"listen.startup.timeout":       atOnce,
	"listen.startup.max_half_open": atOnce,
	"listen.keepalive.idle":        atOnce,
	"listen.keepalive.interval":    atOnce,
	"listen.keepalive.count":       atOnce,
	"listen.drain":                 atOnce,
	"listen.on_failover":           atOnce,
	"listen.driver":                restart,
	"listen.loops":                 restart,

	"auth.hba_file":      atOnce,
	"auth.query":         atOnce,
	"auth.cache":         atOnce,
	"auth.password_file": atOnce,

	"backends[].name":            atOnce,
	"backends[].address":         atOnce,
	"backends[].weight":          atOnce,
	"backends[].agent":           atOnce,
	"backends[].max_connections": atOnce,

	"backend_tls.mode":      atOnce,
	"backend_tls.ca_file":   atOnce,
	"backend_tls.cert_file": atOnce,
	"backend_tls.key_file":  atOnce,

	"monitor.user":          atOnce,
	"monitor.password_file": atOnce,
	"monitor.database":      atOnce,

	"health.interval": atOnce,
	"health.timeout":  atOnce,
	"health.retries":  atOnce,

	"pool.mode":       restart,
	"pool.size":       atOnce,
	"pool.min":        atOnce,
	"pool.wait":       atOnce,
	"pool.idle":       atOnce,
	"pool.lifetime":   atOnce,
	"pool.connects":   atOnce,
	"pool.statements": atOnce,

	"balance.mode":                    atOnce,
	"balance.consistency":             atOnce,
	"balance.max_lag":                 atOnce,
	"balance.transactions":            atOnce,
	"balance.read_functions":          atOnce,
	"balance.write_functions":         atOnce,
	"balance.session_functions":       atOnce,
	"balance.primary_patterns":        atOnce,
	"balance.redirects[].user":        atOnce,
	"balance.redirects[].database":    atOnce,
	"balance.redirects[].application": atOnce,
	"balance.redirects[].to":          atOnce,
	"balance.catalog_refresh":         atOnce,
	"balance.cache_size":              atOnce,

	"failover.mode":         restart,
	"failover.fence_after":  atOnce,
	"failover.restart_wait": atOnce,
	"failover.start_wait":   atOnce,
	"failover.promote_wait": atOnce,
	"failover.stop_wait":    atOnce,
	"failover.disk_wait":    atOnce,
	"failover.slot_keep":    atOnce,

	"hold.timeout":     atOnce,
	"hold.drain":       atOnce,
	"hold.max_clients": atOnce,

	"limits[].user":                atOnce,
	"limits[].database":            atOnce,
	"limits[].max_clients":         atOnce,
	"limits[].max_connections":     atOnce,
	"limits[].query":               atOnce,
	"limits[].transaction":         atOnce,
	"limits[].idle_in_transaction": atOnce,
	"limits[].idle":                atOnce,
	"limits[].stalled":             atOnce,

	"agent.data_directory":            restart,
	"agent.config_file":               restart,
	"agent.bin_directory":             restart,
	"agent.connect":                   restart,
	"agent.replication.user":          restart,
	"agent.replication.password_file": restart,
	"agent.replication.options":       restart,
	"agent.start_command":             restart,
	"agent.stop_command":              restart,
	"agent.log_file":                  restart,
	"agent.tablespaces":               restart,
	"agent.timeout":                   restart,
	"agent.stop_timeout":              restart,

	"watchdog.listen":            restart,
	"watchdog.secret_file":       restart,
	"watchdog.members[].name":    restart,
	"watchdog.members[].address": restart,
	"watchdog.members[].witness": restart,
	"watchdog.heartbeat":         restart,
	"watchdog.leader_lease":      restart,
	"watchdog.lease":             restart,

	"vip[].address":   restart,
	"vip[].interface": restart,
	"vip[].mode":      restart,
	"vip[].check":     restart,
	"vip[].up":        restart,
	"vip[].down":      restart,

	"pcp.listen":      restart,
	"pcp.unix_socket": restart,
	"pcp.token_file":  restart,

	"metrics.listen": restart,

	"log.level":  atOnce,
	"log.format": restart,
}

var indexes = regexp.MustCompile(`\[\d+\]`)

// needsRestart tells whether what stands at that path counts only after a restart: of
// a section or a list, whether anything in it does.
func needsRestart(path string) bool {
	path = indexes.ReplaceAllString(path, "[]")
	if needs, ok := rows[path]; ok {
		return needs
	}
	for row, needs := range rows {
		if rest, below := strings.CutPrefix(row, path); needs && below && strings.ContainsAny(rest[:1], ".[") {
			return true
		}
	}
	return false
}

// Keys stands for a configuration: a digest of the value of each key, by path, of a
// list also of the number of its items, of a section that may be left out whether it
// is there. Two configurations are the same where their Keys are.
type Keys map[string]string

// KeysOf returns the Keys of a configuration.
func KeysOf(c *Config) Keys {
	k := make(Keys)
	k.add("", reflect.ValueOf(c).Elem())
	// The agent is one of the backend that names this member.
	i := slices.IndexFunc(c.Backends, func(b proxy.BackendConfig) bool { return b.Agent == c.Name })
	if c.Agent != nil && i >= 0 {
		k.put("agent", c.Backends[i].Name)
	}
	return k
}

func (k Keys) put(path string, value any) {
	sum := sha256.Sum256([]byte(fmt.Sprintf("%q", fmt.Sprint(value))))
	k[path] = hex.EncodeToString(sum[:8])
}

func (k Keys) add(path string, v reflect.Value) {
	switch {
	case v.Kind() == reflect.Pointer:
		k.put(path, v.IsNil())
		if !v.IsNil() {
			k.add(path, v.Elem())
		}
	case v.Kind() == reflect.Struct:
		for key, i := range fieldsOf(v.Type()) {
			k.add(join(path, key), v.Field(i))
		}
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct:
		k.put(path, v.Len())
		for i := range v.Len() {
			k.add(fmt.Sprintf("%s[%d]", path, i), v.Index(i))
		}
	case v.Kind() == reflect.Slice:
		items := make([]string, v.Len())
		for i := range items {
			items[i] = fmt.Sprintf("%q", v.Index(i).Interface())
		}
		k.put(path, strings.Join(items, " "))
	default:
		k.put(path, v.Interface())
	}
}

// Differ returns the paths at which two configurations differ, and those of them that
// count only after a restart. Of a list with more or fewer items, and of a section
// that only one has, it is the path of the whole.
func Differ(old, next Keys) (changed, restart []string) {
	differs := make(map[string]bool)
	for path, digest := range old {
		differs[path] = next[path] != digest
	}
	for path, digest := range next {
		differs[path] = old[path] != digest
	}
	for path, is := range differs {
		if is && !within(differs, path) {
			changed = append(changed, path)
		}
	}
	slices.Sort(changed)
	for _, path := range changed {
		if needsRestart(path) {
			restart = append(restart, path)
		}
	}
	return changed, restart
}

// within tells whether something around the path differs as a whole.
func within(differs map[string]bool, path string) bool {
	for path = parent(path); path != ""; path = parent(path) {
		if differs[path] {
			return true
		}
	}
	return false
}

// Compare is Differ for two configurations.
func Compare(old, next *Config) (changed, restart []string) {
	return Differ(KeysOf(old), KeysOf(next))
}

// InForce returns what holds after next was loaded while old is in force: next, but
// old where a restart is needed.
func InForce(old, next *Config) *Config {
	c := *next
	keep("", reflect.ValueOf(&c).Elem(), reflect.ValueOf(old).Elem())
	return &c
}

// keep writes to v what of old needs a restart. A list is kept as a whole or not at all.
func keep(path string, v, old reflect.Value) {
	if v.Kind() == reflect.Struct {
		for key, i := range fieldsOf(v.Type()) {
			keep(join(path, key), v.Field(i), old.Field(i))
		}
		return
	}
	if needsRestart(path) {
		v.Set(old)
	}
}
