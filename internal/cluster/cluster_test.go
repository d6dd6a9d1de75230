package cluster

import (
	"testing"

	"pgregory.net/rapid"
)

func TestParseLSN(t *testing.T) {
	for text, want := range map[string]LSN{
		"0/0":               0,
		"16/B374D848":       0x16B374D848,
		"0/3000028":         0x3000028,
		"FFFFFFFF/FFFFFFFF": 1<<64 - 1,
		"a/b":               0xA0000000B,
	} {
		got, err := ParseLSN(text)
		if err != nil || got != want {
			t.Errorf("ParseLSN(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "/", "1/", "/1", "1", "1/2/3", "g/1", "100000000/0", "0/100000000", "-1/0", "+1/0", "0x1/0", " 1/0", "1_0/0"} {
		if got, err := ParseLSN(text); err == nil {
			t.Errorf("ParseLSN(%q) = %v, want an error", text, got)
		}
	}
}

func TestLSNRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := LSN(rapid.Uint64().Draw(t, "lsn"))
		got, err := ParseLSN(l.String())
		if err != nil || got != l {
			t.Fatalf("%d became %s, then %d, %v", l, l, got, err)
		}
	})
}

func FuzzParseLSN(f *testing.F) {
	f.Add("16/B374D848")
	f.Add("0/0")
	f.Add("1/2/3")
	f.Fuzz(func(t *testing.T, text string) {
		l, err := ParseLSN(text)
		if err != nil {
			return
		}
		if again, err := ParseLSN(l.String()); err != nil || again != l {
			t.Fatalf("%q is %d, whose text %s is %d, %v", text, l, l, again, err)
		}
	})
}

func TestTextOfEnums(t *testing.T) {
	for r := RoleUnknown; r <= RoleStandby; r++ {
		var got Role
		text, _ := r.MarshalText()
		if err := got.UnmarshalText(text); err != nil || got != r {
			t.Errorf("role %s became %s, %v", r, got, err)
		}
	}
	for s := StatusUnknown; s <= StatusRecovering; s++ {
		var got Status
		text, _ := s.MarshalText()
		if err := got.UnmarshalText(text); err != nil || got != s {
			t.Errorf("status %s became %s, %v", s, got, err)
		}
	}
	for k := KindConfigure; k <= lastKind; k++ {
		var got Kind
		text, err := k.MarshalText()
		if err != nil {
			t.Error(err)
		}
		if err := got.UnmarshalText(text); err != nil || got != k {
			t.Errorf("kind %s became %s, %v", k, got, err)
		}
	}
}
