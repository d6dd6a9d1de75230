package agent

import (
	"testing"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

func TestRecordEnd(t *testing.T) {
	const segment = 16 << 20
	tests := []struct {
		start  cluster.LSN
		length uint32
		want   cluster.LSN
	}{
		{0x3000028, 114, 0x30000A0},              // aligned to 8 bytes
		{0x3001F88, 120, 0x3002000},              // to the end of its page
		{0x3001F90, 114, 0x3002000 + 24 + 8},     // over it
		{0x3FFFF90, 114, 0x4000000 + 40 + 8},     // over the end of its file
		{0x3001FF8, 8200, 0x3004000 + 24 + 0x18}, // over a whole page
	}
	for _, tt := range tests {
		if got := recordEnd(tt.start, tt.length, segment); got != tt.want {
			t.Errorf("record of %d bytes at %v ends at %v, want %v", tt.length, tt.start, got, tt.want)
		}
	}
}

func TestWALFileName(t *testing.T) {
	for _, tt := range []struct {
		number, segment uint64
		want            string
	}{
		{3, 16 << 20, "000000020000000000000003"},
		{256, 16 << 20, "000000020000000100000000"},
		{5, 1 << 30, "000000020000000100000001"},
	} {
		if got := walFileName(2, tt.number, tt.segment); got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
	}
}

func TestParseHistory(t *testing.T) {
	got := parseHistory("1\t0/3000148\tno recovery target specified\n\n# comment\n2\t1/A0\tafter transaction\n")
	want := []cluster.Fork{{Timeline: 1, End: 0x3000148}, {Timeline: 2, End: 0x1000000A0}}
	if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestSlotName(t *testing.T) {
	for backend, want := range map[string]string{
		"h1":    "pgproxy_h1",
		"db_01": "pgproxy_db_01",
		"db-01": "pgproxy_db_01_" + slotName("db-01")[len("pgproxy_db_01_"):],
		"H1":    "pgproxy__1_" + slotName("H1")[len("pgproxy__1_"):],
	} {
		if got := slotName(backend); got != want || len(got) > 63 {
			t.Errorf("%s: got %s, want %s", backend, got, want)
		}
	}
	if slotName("db-01") == slotName("db_01") || slotName("db-01") == slotName("db.01") {
		t.Error("two backends have the same slot")
	}
	if n := len(slotName("a-very-long-name-of-a-backend-that-somebody-has-thought-of-on-a-friday")); n > 63 {
		t.Errorf("a slot of %d bytes", n)
	}
}

func TestProgressOf(t *testing.T) {
	for line, want := range map[string]float64{
		"  12345/24690 kB (50%), 0/2 tablespaces (/var/lib/postg)": 0.5,
		"24690/24690 kB (100%) copied":                             1,
		"waiting for checkpoint":                                   -1,
	} {
		got, ok := progressOf(line)
		if ok != (want >= 0) || ok && got != want {
			t.Errorf("%q: got %v, %t", line, got, ok)
		}
	}
}
