package session

import (
	"slices"

	"github.com/pgproxy/pgproxy/internal/pgwire"
)

// told are the settings that the client was told of by ParameterStatus. A transaction
// that is lost with its server takes its settings along, and no server says so: the
// core does. By these values texts are read, too (Env.Parameter).
type told struct {
	params []pgwire.Parameter
	shared bool // params are the greeting's, which other sessions have, too
}

// Greeted tells what the client was told when its session began.
func (c *Core) Greeted(params []pgwire.Parameter) {
	c.told = told{params: params, shared: true}
}

// tell notes a ParameterStatus that is forwarded; false: it says nothing new, or the
// greeting had none.
func (c *Core) tell(name []byte, value string) bool {
	t := &c.told
	p := t.of(string(name))
	if p == nil || p.Value == value {
		return false
	}
	if t.shared {
		t.params, t.shared = slices.Clone(t.params), false
		p = t.of(string(name))
	}
	r := c.rarely()
	if !slices.ContainsFunc(r.before, func(b pgwire.Parameter) bool { return b.Name == p.Name }) {
		r.before = append(r.before, *p)
	}
	p.Value = value
	return true
}

// takeBack tells the client the values of before.
func (c *Core) takeBack() {
	t := &c.told
	for _, p := range c.rare.before {
		now := t.of(p.Name)
		if now.Value == p.Value {
			continue
		}
		now.Value = p.Value
		c.env.Parameter(Primary, []byte(p.Name), []byte(p.Value))
		c.toClient(None, pgwire.AppendParameterStatus(nil, p.Name, p.Value))
	}
	c.settleTold()
}

// settleTold is called at the end of a transaction.
func (c *Core) settleTold() {
	if len(c.rare.before) > 0 {
		c.rare.before = nil
	}
}

// of returns the setting of that name, nil when the greeting had none.
func (t *told) of(name string) *pgwire.Parameter {
	for i := range t.params {
		if t.params[i].Name == name {
			return &t.params[i]
		}
	}
	return nil
}
