package agent

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

func TestNextSlots(t *testing.T) {
	state := func(rebuild string) *cluster.State {
		s := &cluster.State{Primary: "h1"}
		for _, name := range []string{"h1", "h2", "h3"} {
			s.Backends = append(s.Backends, cluster.Backend{Name: name, Rebuild: name == rebuild})
		}
		return s
	}
	h1, h2, h3 := slot{name: "pgproxy_h1", restart: 50}, slot{name: "pgproxy_h2", restart: 50}, slot{name: "pgproxy_h3", restart: 50}
	lost, large, active := h3, h3, h3
	lost.lost, large.held, active.active = true, 2000, true
	largeActive := large
	largeActive.active = true
	tests := []struct {
		name string
		view slotView
		want string
	}{
		{"a primary makes them", slotView{backend: "h1", state: state("")}, "create h2, create h3"},
		{"and leaves them to their standbys", slotView{backend: "h1", state: state(""), slots: []slot{h2, active}}, ""},
		{"a backend that is gone", slotView{backend: "h1", state: state(""), slots: []slot{h2, h3, {name: "pgproxy_h4"}}}, "drop h4"},
		{"one in use stays", slotView{backend: "h1", state: state(""), slots: []slot{h2, h3, {name: "pgproxy_h4", active: true}}}, ""},
		{"nothing is known yet", slotView{backend: "h1", state: &cluster.State{}, slots: []slot{h2, h3}}, ""},
		{"its log is gone", slotView{backend: "h1", state: state(""), slots: []slot{h2, lost}}, "drop h3, create h3"},
		{"too large, the server still counted on", slotView{backend: "h1", state: state(""), keep: 1000, slots: []slot{h2, large}}, ""},
		{"too large, the server given up", slotView{backend: "h1", state: state("h3"), keep: 1000, slots: []slot{h2, large}}, "drop h3, create h3"},
		{"too large, and no bound", slotView{backend: "h1", state: state("h3"), slots: []slot{h2, large}}, ""},
		{"too large, a copy is being made", slotView{backend: "h1", state: state("h3"), keep: 1000, slots: []slot{h2, largeActive}}, ""},
		{
			"a standby advances them",
			slotView{backend: "h2", state: state(""), standby: true, replayed: 100, slots: []slot{h1, h3}, replays: map[string]cluster.LSN{"h3": 80}},
			"advance h1 to 0/64, advance h3 to 0/50",
		},
		{
			"not beyond itself",
			slotView{backend: "h2", state: state(""), standby: true, replayed: 60, slots: []slot{h1, h3}, replays: map[string]cluster.LSN{"h3": 80}},
			"advance h1 to 0/3C, advance h3 to 0/3C",
		},
		{
			"nor for one that nobody sees",
			slotView{backend: "h2", state: state(""), standby: true, replayed: 50, slots: []slot{h1, h3}},
			"",
		},
	}
	for _, tt := range tests {
		var got []string
		for _, c := range nextSlots(tt.view) {
			switch {
			case c.create != "":
				got = append(got, "create "+c.create)
			case c.drop != "":
				got = append(got, "drop "+c.drop)
			default:
				got = append(got, fmt.Sprintf("advance %s to %v", c.advance, c.to))
			}
		}
		if text := strings.ReplaceAll(strings.Join(got, ", "), slotPrefix, ""); text != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, text, tt.want)
		}
	}
}
