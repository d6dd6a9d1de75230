package lb

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// verdictText is how the scripts write a verdict.
func verdictText(v *Verdict) string {
	var b strings.Builder
	switch {
	case v.Read:
		b.WriteString("read")
	case v.Unknown:
		b.WriteString("unknown: " + v.Why)
	default:
		b.WriteString("primary: " + v.Why)
	}
	if v.Statements != 1 {
		fmt.Fprintf(&b, " | statements=%d", v.Statements)
	}
	if v.Hint != ToAny {
		fmt.Fprintf(&b, " | hint=%s", v.Hint)
	}
	if v.Show != "" {
		fmt.Fprintf(&b, " | show=%s", v.Show)
	}
	if v.Effects&(EffectPrepare|EffectExecute|EffectDeallocate) != 0 {
		fmt.Fprintf(&b, " | name=%q", v.Name)
	}
	if v.Effects&(EffectPrepare|EffectExecute) != 0 {
		fmt.Fprintf(&b, " inner=%t", v.Inner)
	}
	if v.Setting != "" {
		fmt.Fprintf(&b, " | setting=%s", v.Setting)
	}
	for _, list := range []struct {
		name   string
		values []string
	}{{"settings", v.Settings}, {"custom", v.Custom}} {
		if list.values != nil {
			fmt.Fprintf(&b, " | %s=%s", list.name, strings.Join(list.values, ","))
		}
	}
	if v.Savepoint != NoSavepoint {
		fmt.Fprintf(&b, " | savepoint=%s %q", v.Savepoint, v.Name)
	}
	if v.Rollback {
		b.WriteString(" | rollback")
	}
	if v.Effects != 0 {
		fmt.Fprintf(&b, " | %s", v.Effects)
	}
	return b.String()
}

// testCatalog has a few built-ins, functions of every sort, and relations.
func testCatalog() *Catalog {
	var functions []FunctionRow
	for _, name := range strings.Fields(`abs age avg bool_and coalesce_text concat count
		current_database current_schema date_trunc format generate_series json_agg json_build_object
		jsonb_path_query left length lower max min mod now percentile_cont rank regexp_replace
		right round row_number string_agg substr sum to_char to_tsquery unnest upper numeric_add
		version current_setting inet_server_addr txid_current pg_typeof pg_backend_pid
		pg_is_in_recovery stable_f date overlaps`) {
		functions = append(functions, FunctionRow{Name: name})
	}
	functions = append(functions,
		FunctionRow{Name: "quiet_p", Kind: KindProcedure, Bodies: []string{"BEGIN UPDATE t SET a = 1; COMMIT; END"}},
		FunctionRow{Name: "loud_p", Kind: KindProcedure, Bodies: []string{"BEGIN PERFORM login_as('x'); END"}},
		FunctionRow{Name: "opaque_p", Kind: KindProcedure, Opaque: true},
		FunctionRow{Name: "opaque_f", Volatile: true, Opaque: true},
		FunctionRow{Name: "indirect_f", Bodies: []string{"SELECT a FROM opaque_f() a"}},
		FunctionRow{Name: "noisy_t", Kind: KindTrigger, Bodies: []string{"BEGIN EXECUTE 'x'; RETURN NEW; END"}},
		FunctionRow{Name: "quiet_t", Kind: KindTrigger, Bodies: []string{"BEGIN NEW.a := 1; RETURN NEW; END"}})
	for _, name := range strings.Fields(`random clock_timestamp gen_random_uuid lastval escape`) {
		functions = append(functions, FunctionRow{Name: name, Volatile: true})
	}
	for _, name := range strings.Fields(`nextval setval volatile_f set_config pg_sleep uuid_generate_v5`) {
		functions = append(functions, FunctionRow{Name: name, Volatile: true, Argument: true})
	}
	functions = append(functions,
		FunctionRow{Name: "Mixed", Volatile: true, Argument: true},
		FunctionRow{Name: "login_as", Volatile: true, Argument: true, Bodies: []string{"BEGIN SET ROLE x; END"}},
		FunctionRow{Name: "größe", Volatile: true, Argument: true},
		FunctionRow{Name: "länge"})
	return NewCatalog(functions, []RelationRow{
		{"users_id_seq", RelationPrimary, "a sequence"},
		{"remote", RelationPrimary, "a foreign table"},
		{"v_volatile", RelationFunction, "volatile_f"},
		{"v_stable", RelationFunction, "stable_f"},
		{"v_nested", RelationRelation, "v_volatile"},
		{"v_nested", RelationRelation, "v_nested"},
		{"v_stat", RelationFunction, "pg_stat_get_activity"},
		{"tenants", RelationFunction, "current_setting"},
		{"v_login", RelationFunction, "login_as"},
		{"noisy", RelationWrite, "noisy_t"},
		{"quiet", RelationWrite, "quiet_t"},
	})
}

func TestClassify(t *testing.T) {
	catalog := testCatalog()
	datadriven.Walk(t, "testdata/classify", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			cfg := Config{CacheSize: 1 << 20}
			settings := LexSettings{StandardConformingStrings: true, SafeEncoding: true}
			cat := catalog
			oneText := d.Cmd == "text" // the input is one text, not one a line
			for _, arg := range d.CmdArgs {
				switch arg.Key {
				case "catalog": // catalog=none
					cat = nil
				case "scs": // scs=off
					settings.StandardConformingStrings = false
				case "encoding": // encoding=unsafe
					settings.SafeEncoding = false
				case "read":
					cfg.ReadFunctions = arg.Vals
				case "write":
					cfg.WriteFunctions = arg.Vals
				case "session":
					cfg.SessionFunctions = arg.Vals
				case "pattern":
					cfg.PrimaryPatterns = arg.Vals
				default:
					d.Fatalf(t, "unknown argument %s", arg.Key)
				}
			}
			c, err := NewClassifier(cfg)
			if err != nil {
				return err.Error()
			}
			texts := strings.Split(d.Input, "\n")
			if oneText {
				texts = []string{d.Input}
			}
			var out strings.Builder
			var scratch Scratch
			for _, text := range texts {
				cold := verdictText(c.Classify(cat, settings, []byte(text), &scratch))
				warm := verdictText(c.Classify(cat, settings, []byte(text), &scratch))
				if cold != warm {
					d.Fatalf(t, "%s: first %s, then %s", text, cold, warm)
				}
				fmt.Fprintln(&out, cold)
			}
			return out.String()
		})
	})
}
