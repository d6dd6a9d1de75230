package health

import (
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

func TestTrimHeader(t *testing.T) {
	const segment, block = 16 << 20, 8192
	for _, c := range []struct{ lsn, want cluster.LSN }{
		{0x3000028, 0x3000000},                   // empty segment, measured
		{0x3000018, 0x3000018},                   // inside the long header: cannot be
		{0x3002018, 0x3002000},                   // empty page
		{0x3002028, 0x3002028},                   // 16 bytes of a record on a page
		{0x3000029, 0x3000029},                   //
		{0x3000000, 0x3000000},                   //
		{0x5016160, 0x5016160},                   //
		{math.MaxUint64 - 7, math.MaxUint64 - 7}, //
	} {
		if got := trimHeader(c.lsn, segment, block); got != c.want {
			t.Errorf("trimHeader(%s) = %s, want %s", c.lsn, got, c.want)
		}
	}
}

func TestApplicationName(t *testing.T) {
	for conninfo, want := range map[string]string{
		"": "",
		"user=repl host=10.0.0.1 fallback_application_name=15/main sslmode=prefer": "15/main",
		"application_name=h2 fallback_application_name=walreceiver":                "h2",
		"fallback_application_name=walreceiver application_name='it''s'":           "it",
		`application_name='a b\'c\\' user=x`:                                       `a b'c\`,
		"user=application_name":                                                    "",
	} {
		if got := applicationName(conninfo); got != want {
			t.Errorf("applicationName(%q) = %q, want %q", conninfo, got, want)
		}
	}
}

// seen is a standby's sight, n seconds after the start, that has received and
// replayed so much.
func seen(seconds int, received, replayed cluster.LSN, xactAge float64) sight {
	return sight{
		obs: cluster.Observation{
			Backend: "s", At: time.Unix(int64(seconds), 0), Alive: true, Ready: true, Role: cluster.RoleStandby,
		},
		facts: &facts{role: cluster.RoleStandby, timeline: 1, received: received, replayed: replayed, xactAge: xactAge},
	}
}

func TestLag(t *testing.T) {
	// The primary wrote 100 bytes a second, from 0 at second 0 to 1000 at second 10.
	ref := reference{name: "p", facts: &facts{timeline: 1}}
	for i := range 11 {
		ref.track = append(ref.track, position{time.Unix(int64(i), 0), cluster.LSN(100 * i)})
	}
	other := seen(10, 500, 500, 3)
	other.facts.timeline = 2
	for _, c := range []struct {
		name    string
		s       sight
		ready   bool
		bytes   uint64
		seconds float64
	}{
		{"level", seen(10, 1000, 1000, 99), true, 0, 0},
		{"ahead of the last observation", seen(10, 1050, 1050, 99), true, 0, 0},
		{"asked before the primary: what was written since is not lag", seen(8, 800, 800, 99), true, 0, 0},
		{"replay is behind, by its clock", seen(10, 1000, 500, 2), true, 500, 2},
		{"replay is behind, its clock is wrong", seen(10, 1000, 500, 3600), true, 500, 5},
		{"its receiver is cut off: that all is replayed says nothing", seen(10, 500, 500, 3600), true, 500, 5},
		{"no commit replayed yet", seen(10, 1000, 500, -1), true, 500, 5},
		{"the primary is gone and there is nothing to wait for", seen(10, 900, 900, 3600), false, 100, 0},
		{"the primary is gone, replay goes on", seen(10, 900, 500, 3600), false, 500, 5},
		{"another timeline: no bytes, its own clock", other, true, 0, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := lagBytes(c.s, ref)
			if s := lagSeconds(c.s, ref, b, c.ready); b != c.bytes || s != c.seconds {
				t.Errorf("%d bytes, %v s; want %d, %v", b, s, c.bytes, c.seconds)
			}
		})
	}
}

func TestTrackIsBounded(t *testing.T) {
	var ref reference
	for i := range 3 * trackLength {
		s := sight{obs: cluster.Observation{Backend: "p", At: time.Unix(int64(i), 0)}, facts: &facts{timeline: 1, insert: cluster.LSN(i)}}
		ref = ref.observe(s)
	}
	if n := len(ref.track); n != trackLength || ref.track[n-1].lsn != 3*trackLength-1 {
		t.Errorf("%d positions, the last at %s", n, ref.track[n-1].lsn)
	}
	s := sight{obs: cluster.Observation{Backend: "p"}, facts: &facts{timeline: 2}}
	if ref = ref.observe(s); len(ref.track) != 1 {
		t.Errorf("%d positions of two timelines", len(ref.track))
	}
}

func TestIncompatible(t *testing.T) {
	make2 := func(change func(*facts)) *facts {
		f := &facts{timeline: 1, version: 150018, collation: "libc 2.36", settings: make([]string, len(outputSettings))}
		change(f)
		return f
	}
	primary := make2(func(*facts) {})
	for want, f := range map[string]*facts{
		"":                                make2(func(f *facts) { f.version = 150002 }),
		"timeline 2, the primary's is 1":  make2(func(f *facts) { f.timeline = 2 }),
		"version 16, the primary's is 15": make2(func(f *facts) { f.version = 160000 }),
		`collation versions "libc 2.31", the primary's are "libc 2.36"`: make2(func(f *facts) { f.collation = "libc 2.31" }),
		`DateStyle is "German", the primary's is ""`:                    make2(func(f *facts) { f.settings[1] = "German" }),
	} {
		if got := incompatible(f, primary); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestReplicaOf(t *testing.T) {
	a, b := netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")
	sights := func(s2, s3 facts) []sight {
		return []sight{
			{obs: cluster.Observation{Backend: "h1"}, facts: &facts{remote: netip.MustParseAddr("10.0.0.1")}},
			{obs: cluster.Observation{Backend: "h2"}, facts: &s2},
			{obs: cluster.Observation{Backend: "h3"}, facts: &s3},
		}
	}
	for _, c := range []struct {
		name   string
		sights []sight
		rows   []replica
		want   string // state of the row of h2
	}{
		{"slot", sights(facts{slot: "s2", appName: "x"}, facts{}), []replica{{appName: "x", state: "1"}, {slot: "s2", state: "2"}}, "2"},
		{"its own application name", sights(facts{appName: "two"}, facts{appName: "three"}), []replica{{appName: "three", state: "3"}, {appName: "two", state: "2"}}, "2"},
		{
			"a shared application name, addresses", sights(facts{appName: "15/main", remote: a}, facts{appName: "15/main", remote: b}),
			[]replica{{appName: "15/main", addr: b, state: "3"}, {appName: "15/main", addr: a, state: "2"}},
			"2",
		},
		{
			"a shared name and address: unknown", sights(facts{appName: "15/main", remote: a}, facts{appName: "15/main", remote: a}),
			[]replica{{appName: "15/main", addr: a, state: "3"}, {appName: "15/main", addr: a, state: "2"}},
			"",
		},
		{"the name in the configuration", sights(facts{}, facts{}), []replica{{appName: "h3", state: "3"}, {appName: "h2", state: "2"}}, "2"},
		{"a base backup under the same name", sights(facts{remote: a}, facts{}), []replica{{appName: "h2", addr: a, state: "backup"}, {appName: "h2", addr: a, state: "streaming"}}, ""},
		{"nothing fits", sights(facts{remote: a}, facts{}), []replica{{appName: "z", addr: b, state: "3"}}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ""
			if r := replicaOf(c.sights, 1, c.rows); r != nil {
				got = r.state
			}
			if got != c.want {
				t.Errorf("row %q, want %q", got, c.want)
			}
		})
	}
}
