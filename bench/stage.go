package main

import (
	"context"
	"fmt"
	"os"
	"slices"
)

// wants tells whether the command line asks for a case on a system.
func (o options) wants(c benchCase, d definition) bool {
	return o.cases.MatchString(c.name) && takes(o.systems, d.name) && takes(c.systems, d.name) &&
		(!o.targets || slices.ContainsFunc(targets(o), func(t target) bool {
			return t.benchCase == c.name && (t.of == d.name || t.than == d.name)
		}))
}

// on returns the systems of the stage that take part in a case.
func (st stage) on(c benchCase, o options) []definition {
	var all []definition
	for _, d := range st.systems {
		if o.wants(c, d) && (d.command != nil || c.unit != sessionUnit) { // the primary itself is no proxy
			all = append(all, d)
		}
	}
	return all
}

// run measures the wanted cases of the stage and prints their tables.
func (st stage) run(ctx context.Context, r *rig, o options, report *report) error {
	if st.alone {
		return st.runAlone(ctx, r, o, report)
	}
	systems := map[string]*system{}
	for _, c := range st.cases {
		for _, d := range st.on(c, o) {
			if systems[d.name] != nil {
				continue
			}
			s, err := r.start(ctx, d, st.clients)
			if err != nil {
				return err
			}
			systems[d.name] = s
		}
	}
	for _, c := range st.cases {
		on := st.on(c, o)
		for round := range o.rounds {
			// Whoever runs right after the load of another has an advantage or not;
			// each has each place as often as the rounds allow.
			for i := range on {
				s := systems[on[(i+round)%len(on)].name]
				if err := r.settle(ctx); err != nil {
					return err
				}
				if err := st.measure(ctx, r, s, c, o, report); err != nil {
					return err
				}
			}
		}
		if len(on) > 0 {
			report.print(os.Stdout, c)
		}
		for _, d := range on {
			c.profile(ctx, r, systems[d.name], o, report)
			if err := ctx.Err(); err != nil {
				return err
			}
		}
	}
	for _, s := range systems {
		r.stop(s)
	}
	return nil
}

func (st stage) runAlone(ctx context.Context, r *rig, o options, report *report) error {
	for _, c := range st.cases {
		on := st.on(c, o)
		for _, d := range on {
			s, err := r.start(ctx, d, st.clients)
			if err != nil {
				return err
			}
			if err := st.measure(ctx, r, s, c, o, report); err != nil {
				return err
			}
			c.profile(ctx, r, s, o, report)
			r.stop(s)
		}
		if len(on) > 0 {
			report.print(os.Stdout, c)
		}
	}
	return nil
}

// measure runs a case once. What a system cannot do is a result; only the end of the
// program is an error.
func (st stage) measure(ctx context.Context, r *rig, s *system, c benchCase, o options, report *report) error {
	fmt.Fprintf(os.Stderr, "%s: %s\n", c.name, s.name)
	m := c.measure(ctx, &trial{rig: r, on: s, options: o})
	if err := ctx.Err(); err != nil {
		return err
	}
	if m.Err != "" {
		fmt.Fprintf(os.Stderr, "%s: %s\n%s\n", s.name, m.Err, s.logTail())
	}
	report.add(c, s.name, m)
	return nil
}
