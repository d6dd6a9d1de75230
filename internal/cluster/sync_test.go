package cluster

import (
	"encoding/json"
	"errors"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

// TestParseSyncNames holds what postgres 15 says to each of these values:
//
//	postgres -C synchronous_standby_names -c "synchronous_standby_names=VALUE"
func TestParseSyncNames(t *testing.T) {
	first := func(num int, names ...string) SyncNames { return SyncNames{SyncFirst, num, names} }
	any := func(num int, names ...string) SyncNames { return SyncNames{SyncAny, num, names} }
	for text, want := range map[string]SyncNames{
		"":                                {},
		"a":                               first(1, "a"),
		"a, b":                            first(1, "a", "b"),
		"2 (a, b)":                        first(2, "a", "b"),
		"2(a,b)":                          first(2, "a", "b"),
		"FIRST 2 (a, b)":                  first(2, "a", "b"),
		"first 2(a,b)":                    first(2, "a", "b"),
		"ANY 1 (a)":                       any(1, "a"),
		"aNy 1(a,b)":                      any(1, "a", "b"),
		"ANY\n2\n(a)":                     any(2, "a"),
		"3 (a)":                           first(3, "a"), // more than there are: every commit waits
		"007 (a)":                         first(7, "a"),
		"*":                               first(1, "*"),
		"* , a":                           first(1, "*", "a"),
		`"*"`:                             first(1, "*"),
		"ANY 2 (*)":                       any(2, "*"),
		"1":                               first(1, "1"),
		"1, 2":                            first(1, "1", "2"),
		"2 (1, 2)":                        first(2, "1", "2"),
		`"any"`:                           first(1, "any"),
		`"first", b`:                      first(1, "first", "b"),
		"anything":                        first(1, "anything"),
		"FIRST 2(first1, any_)":           first(2, "first1", "any_"),
		"A, b":                            first(1, "A", "b"),
		"_a$1":                            first(1, "_a$1"),
		"é":                               first(1, "é"),
		`"a-b"`:                           first(1, "a-b"),
		`"a""b"`:                          first(1, `a"b`),
		`"a,b", c`:                        first(1, "a,b", "c"),
		`"a(b"`:                           first(1, "a(b"),
		`2 ("a(b", c)`:                    first(2, "a(b", "c"),
		`"a"  ,  "b c"`:                   first(1, "a", "b c"),
		`""`:                              first(1, ""),
		"\ta\t,\nb\f\v\r":                 first(1, "a", "b"),
		"FIRST 1 (h1, h2, \"h 3\", *)":    first(1, "h1", "h2", "h 3", "*"),
		"2147483647 (a)":                  first(2147483647, "a"),
		"any 1 (" + `"A""B"` + ",c" + ")": any(1, `A"B`, "c"),
	} {
		got, err := ParseSyncNames(text)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("ParseSyncNames(%q) = %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{
		" ", ",", ",a", "a,", "a,b,", "a,,b", "a b", "any", "first, a", "a, ANY", "ANY (a)", "FIRST (a)", "FIRST 2",
		"FIRST a (b)", "FIRST 2(ANY)", "FIRST2(a)", "0 (a)", "FIRST 0 (a)", "-1 (a)", "2147483648 (a)", "2a", "2a (a)",
		"a-b", "a.b", "'a'", `"a`, `"`, `"a""`, "$a", "2 (a", "2 (a))", "2 a)", "2 (a),", "2 ()", "()", "(a)", "a)", "(",
		"FIRST 2 (a), b", "FIRST 2 (a) b", "ANY 2 3 (a)", `"FIRST" 2 (a)`, `a"b"`, `"a"b`,
	} {
		if got, err := ParseSyncNames(text); err == nil {
			t.Errorf("ParseSyncNames(%q) = %+v, want an error", text, got)
		}
	}
}

// FuzzParseSyncNames: it never panics, and what it reads means the same when it is
// written by the grammar.
func FuzzParseSyncNames(f *testing.F) {
	for _, text := range []string{"a, b", "FIRST 2 (a, b)", `ANY 1 ("a""b", *)`, "2 (1, 2)", "first", `"`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, err := ParseSyncNames(text)
		if err != nil {
			return
		}
		if (n.Method == SyncNone) != (len(n.Names) == 0) || (n.Method == SyncNone) != (n.Num < 1) {
			t.Fatalf("%q is %+v", text, n)
		}
		if n.Method == SyncNone {
			return
		}
		quoted := make([]string, len(n.Names))
		for i, name := range n.Names {
			quoted[i] = `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
		}
		again := strings.ToUpper(n.Method.String()) + " " + strconv.Itoa(n.Num) + "(" + strings.Join(quoted, ",") + ")"
		if got, err := ParseSyncNames(again); err != nil || !reflect.DeepEqual(got, n) {
			t.Fatalf("%q is %+v, written %q it is %+v, %v", text, n, again, got, err)
		}
	})
}

func TestSyncMethodText(t *testing.T) {
	for m := SyncNone; m <= SyncAny; m++ {
		data, err := json.Marshal(Sync{Method: m})
		var got Sync
		if err == nil {
			err = json.Unmarshal(data, &got)
		}
		if err != nil || got.Method != m {
			t.Errorf("%s became %s, then %s, %v", m, data, got.Method, err)
		}
	}
	if _, err := DecodeCommand([]byte(`{"kind":"sync","sync":{"method":"some"}}`)); !errors.Is(err, ErrUnknown) {
		t.Errorf("the method of a newer program: %v, want ErrUnknown", err)
	}
}
