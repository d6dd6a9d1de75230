package configs

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/pgproxy/pgproxy/failover/agent"
	"github.com/pgproxy/pgproxy/lb"
	"github.com/pgproxy/pgproxy/proxy"
	"github.com/pgproxy/pgproxy/watchdog"
	"github.com/pgproxy/pgproxy/watchdog/vip"
)

func TestReferenceEqualsDefault(t *testing.T) {
	f := Parse("/etc/pgproxy/pgproxy.yaml", []byte(Reference()))
	if len(f.Faults) > 0 || len(f.Warnings) > 0 {
		t.Fatalf("faults:\n%v\nwarnings:\n%v", f.Faults, f.Warnings)
	}
	want := Default()
	want.Backends = []proxy.BackendConfig{{Name: "h1", Address: "127.0.0.1:5432", Weight: 1}}
	if !reflect.DeepEqual(f.Config, want) {
		t.Errorf("got\n%+v\nwant\n%+v", f.Config, want)
	}
}

// uncommented returns the reference with the settings in it that are commented out.
func uncommented() string {
	return regexp.MustCompile(`(?m)^( *)#(\S)`).ReplaceAllString(Reference(), "$1$2")
}

// TestReferenceIsComplete reads the reference with everything in it switched on: it
// has every key, and where a commented line shows a default, it is the default.
func TestReferenceIsComplete(t *testing.T) {
	f := Parse("/etc/pgproxy/pgproxy.yaml", []byte(uncommented()))
	if len(f.Faults) > 0 {
		t.Fatalf("faults:\n%v", f.Faults)
	}
	index := regexp.MustCompile(`\[\d+\]`)
	written := make(map[string]bool)
	for path := range f.at {
		written[index.ReplaceAllString(path, "[]")] = true
	}
	for _, path := range keys(reflect.TypeFor[Config](), "") {
		if !written[path] {
			t.Errorf("the reference does not have %s", path)
		}
	}

	server := agent.Default()
	server.DataDirectory = "/var/lib/postgresql/15/main"
	server.Tablespaces = map[string]string{}
	want := Default()
	want.Name = "h2"
	want.Backends = []proxy.BackendConfig{
		{Name: "h1", Address: "127.0.0.1:5432", Weight: 1},
		{Name: "h2", Address: "10.77.0.12:5432", Weight: 1, MaxConnections: 200, Agent: "h2"},
	}
	want.Balance.Redirects = []lb.Redirect{{User: "report_.*", To: "standby"}}
	want.Limits = []proxy.LimitConfig{{}}
	want.Agent = &server
	w := watchdog.Default()
	w.Listen, w.SecretFile = "10.77.0.12:9000", "/etc/pgproxy/secret"
	w.Members = []watchdog.Member{
		{Name: "h1", Address: "10.77.0.11:9000"},
		{Name: "h2", Address: "10.77.0.12:9000"},
		{Name: "h3", Address: "10.77.0.13:9000"},
	}
	want.Watchdog = &w
	want.VIP = []vip.Config{{Address: "10.77.0.100/24", Interface: "eth0"}}
	if !reflect.DeepEqual(f.Config, want) {
		t.Errorf("got\n%+v\nwant\n%+v", f.Config, want)
	}
}

// keys returns the paths of all keys of a section and the sections in it.
func keys(t reflect.Type, path string) []string {
	switch t.Kind() {
	case reflect.Pointer:
		return keys(t.Elem(), path)
	case reflect.Slice:
		return keys(t.Elem(), path+"[]")
	case reflect.Struct:
		var all []string
		for key, i := range fieldsOf(t) {
			all = append(all, join(path, key))
			all = append(all, keys(t.Field(i).Type, join(path, key))...)
		}
		return all
	default:
		return nil
	}
}

// TestEveryFieldHasAKey guards against a field that the file could not set.
func TestEveryFieldHasAKey(t *testing.T) {
	var check func(typ reflect.Type, path string)
	check = func(typ reflect.Type, path string) {
		switch typ.Kind() {
		case reflect.Pointer, reflect.Slice:
			check(typ.Elem(), path)
		case reflect.Struct:
			for i := range typ.NumField() {
				field := typ.Field(i)
				if field.Tag.Get("yaml") == "" {
					t.Errorf("%s.%s has no yaml tag", path, field.Name)
				}
				check(field.Type, path+"."+field.Name)
			}
		default:
		}
	}
	check(reflect.TypeFor[Config](), "Config")
}

func TestReferenceIsTheFile(t *testing.T) {
	data, err := os.ReadFile("pgproxy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if string(data) != Reference() {
		t.Error("Reference() is not pgproxy.yaml")
	}
	for i, line := range strings.Split(Reference(), "\n") {
		if len(line) > 100 || strings.TrimRight(line, " ") != line {
			t.Errorf("line %d is longer than 100 bytes or ends in a space", i+1)
		}
	}
}
