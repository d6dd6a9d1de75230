package lb

// changes are the effects that a function can have on its session in a way that its
// call does not show.
const changes = EffectMayChangeState | EffectLeftover

// doing is what a routine may do to its session, by itself and by what it calls.
type doing struct {
	effects Effect
	calls   []routine // only such as may do something, too
}

// doings finds out which routines may change the session. Routines that do not, as
// far as their sources tell, are not in it.
func doings(rows []FunctionRow) map[routine]*doing {
	known := make(map[routine]bool, len(rows))
	all := make(map[routine]*doing)
	for _, r := range rows {
		k := routine{r.kind(), r.Name}
		known[k] = true
		if all[k] == nil && (r.Opaque || len(r.Bodies) > 0) {
			all[k] = &doing{}
		}
	}
	callers := make(map[routine][]routine)
	for _, r := range rows {
		k := routine{r.kind(), r.Name}
		if r.Opaque {
			all[k].effects |= changes
		}
		for _, source := range r.Bodies {
			effects, calls := readBody(source)
			all[k].effects |= effects
			for _, c := range calls {
				if c.kind == KindProcedure && !known[c.routine] {
					all[k].effects |= changes
				} else if all[c.routine] == nil && c.builtin() != 0 {
					all[c.routine] = &doing{effects: c.builtin()}
				}
				if all[c.routine] != nil && c.routine != k {
					callers[c.routine] = append(callers[c.routine], k)
				}
			}
		}
	}
	return spread(all, callers)
}

// builtin is what a call of one of the functions that differs knows does to the
// session; that it binds it counts as a change.
func (c call) builtin() Effect {
	e, ok := differs(c.name)
	if !ok || !c.certain || c.kind != KindFunction {
		return 0
	}
	if e&EffectSessionLock != 0 {
		e |= EffectMayChangeState
	}
	return e & changes
}

// spread keeps the routines that do something and those that call them, directly or not.
func spread(all map[routine]*doing, callers map[routine][]routine) map[routine]*doing {
	out := make(map[routine]*doing)
	var todo []routine
	for k, d := range all {
		if d.effects != 0 {
			out[k] = d
			todo = append(todo, k)
		}
	}
	for len(todo) > 0 {
		k := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, caller := range callers[k] {
			d := all[caller]
			d.calls = append(d.calls, k)
			if out[caller] == nil {
				out[caller] = d
				todo = append(todo, caller)
			}
		}
	}
	return out
}

// does tells what a call of k may do to the session. Those that are exempt do nothing,
// neither directly nor in another's call.
func (c *Catalog) does(k routine, exempt func(name string) bool) Effect {
	var effects Effect
	seen := make(map[routine]bool)
	for todo := []routine{k}; len(todo) > 0; {
		k := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		d := c.doings[k]
		if d == nil || seen[k] || exempt(k.name) {
			continue
		}
		seen[k] = true
		effects |= d.effects
		todo = append(todo, d.calls...)
	}
	return effects
}

// anonymous tells what DO with that source may do to the session.
func (c *Catalog) anonymous(source string, exempt func(name string) bool) Effect {
	effects, calls := readBody(source)
	for _, k := range calls {
		if exempt(k.name) {
			continue
		}
		if k.kind == KindProcedure && !c.procedures[k.name] {
			effects |= changes
		}
		effects |= k.builtin() | c.does(k.routine, exempt)
	}
	return effects
}
