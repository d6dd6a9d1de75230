package failover

import (
	"slices"
	"strings"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// holders: each virtual address is held by a member that is fit for it (S8). It
// stays where it is until its holder is gone or unfit and another is fit. It does
// not depend on who leads, nor on whether there is a primary.
func holders(p *pass) {
	for _, a := range p.state.Addresses {
		holder := a.Holder
		why := p.unfit(holder, a.Address)
		if why == "" {
			continue
		}
		next := p.fittest(a.Address)
		gone := holder != "" && !p.there(holder)
		switch {
		case next != "" && next != holder:
			p.do(cluster.Command{Kind: cluster.KindHold, Address: a.Address, Member: next, Reason: why})
		case next == "" && gone && p.state.Epoch > 0 && !slices.Contains(p.in.Voters, holder):
			p.do(cluster.Command{Kind: cluster.KindHold, Address: a.Address, Reason: why})
		}
	}
}

// there tells whether a member is not gone, and is one.
func (p *pass) there(member string) bool {
	return p.in.present(member) && slices.Contains(p.in.Voters, member)
}

// unfit returns why that member should not hold the address; "" it is fit.
func (p *pass) unfit(member, address string) string {
	if member == "" {
		return "nobody holds it"
	}
	if !p.there(member) {
		return member + " is gone"
	}
	r, ok := p.in.Reports[member]
	if !ok {
		return "" // a new leader waits for its first report
	}
	i := slices.IndexFunc(r.Links, func(l cluster.Link) bool { return l.Address == address })
	switch {
	case r.Witness:
		return member + " is a witness"
	case r.Leaving:
		return member + " is stopping"
	case i < 0:
		return member + " has no such address in its configuration"
	case !r.Links[i].Carrier:
		return member + " has no carrier"
	case r.Links[i].Foreign != "":
		return "at " + member + " another host answers for it: " + r.Links[i].Foreign
	case !r.Links[i].Gateway && p.someGateway(address):
		return member + " does not reach its gateway"
	case p.cutFromPrimary(member):
		return member + " does not reach the primary"
	}
	return ""
}

// someGateway: a member that is there reaches a gateway. If none does, it is the
// gateway that is down.
func (p *pass) someGateway(address string) bool {
	for _, m := range p.members() {
		r := p.in.Reports[m]
		if p.there(m) && !r.Witness && slices.ContainsFunc(r.Links, func(l cluster.Link) bool { return l.Address == address && l.Gateway && l.Carrier }) {
			return true
		}
	}
	return false
}

// cutFromPrimary: that member cannot reach a primary that a majority reaches.
func (p *pass) cutFromPrimary(member string) bool {
	l := p.looks[p.state.Primary]
	if l == nil || l.reached < len(p.in.Voters)/2+1 || !slices.Contains(l.failed, member) {
		return false
	}
	for _, s := range p.in.Reports[member].Sights {
		if s.Backend == p.state.Primary {
			return s.Failures > p.in.Retries
		}
	}
	return false
}

// fittest returns the member that gets an address: the leader when it is fit,
// since it is known to be there; else the first by name; "" nobody is fit.
func (p *pass) fittest(address string) string {
	fit := slices.DeleteFunc(slices.Clone(p.in.Voters), func(m string) bool {
		_, reported := p.in.Reports[m]
		return !reported || p.unfit(m, address) != ""
	})
	if slices.Contains(fit, p.in.Self) {
		return p.in.Self
	}
	if len(fit) == 0 {
		return ""
	}
	return slices.MinFunc(fit, strings.Compare)
}
