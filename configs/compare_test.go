package configs

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestEveryKeyHasARow: each key of the reference file, and nothing else.
func TestEveryKeyHasARow(t *testing.T) {
	all := make(map[string]bool)
	for _, path := range keys(reflect.TypeFor[Config](), "") {
		all[path] = true
	}
	leaf := func(path string) bool {
		for other := range all {
			if rest, below := strings.CutPrefix(other, path); below && rest != "" && strings.ContainsAny(rest[:1], ".[") {
				return false
			}
		}
		return true
	}
	for path := range all {
		if _, ok := rows[path]; ok != leaf(path) {
			t.Errorf("%s: has a row %t, is a leaf %t", path, ok, leaf(path))
		}
	}
	for path := range rows {
		if !all[path] {
			t.Errorf("%s is no key", path)
		}
	}
}

// written returns the reference with everything switched on, after replacing text.
func written(t *testing.T, replace ...string) *Config {
	t.Helper()
	text := uncommented()
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(text, replace[i]) {
			t.Fatalf("no %q in the reference", replace[i])
		}
		text = strings.Replace(text, replace[i], replace[i+1], 1)
	}
	f := Parse("/etc/pgproxy/pgproxy.yaml", []byte(text))
	if len(f.Faults) > 0 {
		t.Fatal(f.Faults)
	}
	return f.Config
}

func TestCompare(t *testing.T) {
	old := written(t)
	for _, tt := range []struct {
		replace          []string
		changed, restart string
	}{
		{nil, "", ""},
		{[]string{"max_clients: 10000", "max_clients: 5"}, "listen.max_clients", ""},
		{[]string{"  mode: session\n", "  mode: transaction\n"}, "pool.mode", "pool.mode"},
		{[]string{`address: "10.77.0.12:5432", weight: 1`, `address: "10.77.0.12:5432", weight: 3`}, "backends[1].weight", ""},
		{[]string{`  - {name: h1, address: "127.0.0.1:5432", weight: 1}` + "\n", ""}, "backends", ""},
		{[]string{", agent: h2", "", "weight: 1}\n", "weight: 1, agent: h2}\n"}, "agent backends[0].agent backends[1].agent", "agent"},
		{[]string{"  level: info", "  level: debug", "  format: text", "  format: json"}, "log.format log.level", "log.format"},
		{[]string{"  read_functions: []", "  read_functions: [a, b]"}, "balance.read_functions", ""},
		{[]string{"interface: eth0", "interface: eth1"}, "vip[0].interface", "vip[0].interface"},
		{[]string{"lease: 1s", "lease: 2s"}, "watchdog.lease", "watchdog.lease"},
	} {
		next := written(t, tt.replace...)
		changed, restart := Compare(old, next)
		if got := strings.Join(changed, " "); got != tt.changed {
			t.Errorf("%q: changed %q, want %q", tt.replace, got, tt.changed)
		}
		if got := strings.Join(restart, " "); got != tt.restart {
			t.Errorf("%q: restart for %q, want %q", tt.replace, got, tt.restart)
		}
		// What is in force then differs from the file in what needs a restart, and from
		// before in the rest.
		in := InForce(old, next)
		if later, _ := Compare(in, next); !slices.Contains(restart, "agent") && !slices.Equal(later, restart) {
			t.Errorf("%q: in force, and not as the file has it: %q", tt.replace, later)
		}
		if _, late := Compare(old, in); !slices.Contains(restart, "agent") && len(late) > 0 {
			t.Errorf("%q: taken without a restart: %q", tt.replace, late)
		}
	}
}

// TestCompareSections: one that is left out is a difference as a whole.
func TestCompareSections(t *testing.T) {
	old, next := written(t), written(t)
	next.Watchdog, next.VIP = nil, nil
	changed, restart := Compare(old, next)
	if want := []string{"vip", "watchdog"}; !slices.Equal(changed, want) || !slices.Equal(restart, want) {
		t.Errorf("changed %q, restart %q", changed, restart)
	}
	if in := InForce(old, next); in.Watchdog != old.Watchdog || len(in.VIP) != len(old.VIP) {
		t.Errorf("in force: %+v, %+v", in.Watchdog, in.VIP)
	}
}

// TestDocumentedRestarts: the table of docs/configuration.md is that of the program: a
// section where all of it needs a restart, else each key.
func TestDocumentedRestarts(t *testing.T) {
	page, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "\n| key | why |\n|---|---|\n")
	documented := make(map[string]bool)
	for line := range strings.Lines(table) {
		if !strings.HasPrefix(line, "| ") {
			break
		}
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(strings.Split(line, "|")[1], -1) {
			documented[m[1]] = true
		}
	}
	mixed := make(map[string]bool) // sections of which something counts at once
	section := func(path string) string { return path[:strings.IndexAny(path+".", ".[")] }
	for path, needs := range rows {
		mixed[section(path)] = mixed[section(path)] || !needs
	}
	want := make(map[string]bool)
	for path, needs := range rows {
		switch {
		case needs && mixed[section(path)]:
			want[path] = true
		case needs:
			want[section(path)] = true
		}
	}
	if !reflect.DeepEqual(documented, want) {
		t.Errorf("documented %v, want %v", documented, want)
	}
}
