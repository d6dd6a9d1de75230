package pcp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
)

// maxName bounds the names and addresses of orders, in bytes.
const maxName = 255

type nodeOrder struct {
	Node    string `json:"node"`
	InPlace bool   `json:"in_place,omitempty"`
}

type failoverOrder struct {
	On *bool `json:"on"`
}

type memberOrder struct {
	Name    string `json:"name"`
	Address string `json:"address,omitempty"`
	Witness bool   `json:"witness,omitempty"`
}

type addressOrder struct {
	Address string `json:"address"`
	Member  string `json:"member"`
}

type killOrder struct {
	Session uint64 `json:"session"`
}

// node reads an order about one backend. Only recover has more to say.
func (r *request) node() (nodeOrder, error) {
	var o nodeOrder
	if err := r.decode(&o); err != nil {
		return o, err
	}
	if err := text("node", o.Node); err != nil {
		return o, err
	}
	if o.InPlace && r.verb != "recover" {
		return o, refuse(http.StatusBadRequest, "in_place belongs to recover")
	}
	return o, nil
}

// text checks a name or an address of an order: it goes to logs and terminals.
func text(field, value string) error {
	if value == "" || len(value) > maxName {
		return refuse(http.StatusBadRequest, "%s of %d bytes, want 1 to %d", field, len(value), maxName)
	}
	if strings.ContainsFunc(value, func(c rune) bool { return !strconv.IsPrint(c) }) {
		return refuse(http.StatusBadRequest, "%s %q has characters that cannot be printed", field, value)
	}
	return nil
}

// propose has a command applied that this member's State allows; so what cannot be
// is refused with its reason before anybody else is asked. changed tells whether
// it makes a difference.
func (s *Server) propose(ctx context.Context, r *request, c cluster.Command) (next cluster.State, changed bool, err error) {
	c.At = time.Now()
	c.Reason = "ordered by " + r.by
	state := s.deps.Cluster.State()
	tried, err := cluster.Apply(*state, c)
	if err != nil {
		if inner := errors.Unwrap(err); inner != nil {
			err = inner // without the command's name
		}
		return cluster.State{}, false, conflict("%v", err)
	}
	if tried.Epoch == state.Epoch {
		return *state, false, nil
	}
	if err := s.quorum(); err != nil {
		return cluster.State{}, false, err
	}
	ctx, cancel := context.WithTimeout(ctx, orderTimeout)
	defer cancel()
	next, err = s.deps.Cluster.Propose(ctx, c)
	if errors.Is(err, context.DeadlineExceeded) {
		return next, false, refuse(http.StatusGatewayTimeout,
			"the leader has not answered within %v; the order may have been taken all the same, see events", orderTimeout)
	}
	if err != nil {
		return next, false, fmt.Errorf("the order has failed: %w", err)
	}
	return next, true, nil
}

// quorum refuses at once what would only wait.
func (s *Server) quorum() error {
	w := s.deps.Watchdog()
	switch {
	case !w.Quorum:
		return refuse(http.StatusServiceUnavailable, "%s has no quorum of members; nothing was changed", s.deps.Member)
	case w.Leader == "":
		return refuse(http.StatusServiceUnavailable, "the members have no leader yet; nothing was changed")
	}
	return nil
}

func (s *Server) attach(ctx context.Context, r *request) error {
	o, err := r.node()
	if err != nil {
		return err
	}
	if b := s.deps.Cluster.State().Backend(o.Node); b != nil && b.Status != cluster.StatusDetached && b.Rebuild {
		return conflict("%s is %s and has to be rebuilt: recover %s", b.Name, b.Status, b.Name)
	}
	if _, _, err := s.propose(ctx, r, cluster.Command{Kind: cluster.KindAttach, Backend: o.Node}); err != nil {
		return err
	}
	return r.out.end("%s is attached; it is used as soon as it is seen to work", o.Node)
}

func (s *Server) detach(ctx context.Context, r *request) error {
	o, err := r.node()
	if err != nil {
		return err
	}
	_, changed, err := s.propose(ctx, r, cluster.Command{Kind: cluster.KindDetach, Backend: o.Node})
	if err != nil {
		return err
	}
	if !changed {
		return conflict("%s is detached already", o.Node)
	}
	return r.out.end("%s is detached", o.Node)
}

func (s *Server) failover(ctx context.Context, r *request) error {
	var o failoverOrder
	if err := r.decode(&o); err != nil {
		return err
	}
	if o.On == nil {
		return refuse(http.StatusBadRequest, "on is missing")
	}
	word := map[bool]string{false: "off", true: "on"}[*o.On]
	_, changed, err := s.propose(ctx, r, cluster.Command{Kind: cluster.KindSetFailover, Off: !*o.On})
	if err != nil {
		return err
	}
	if !changed {
		return r.out.end("failover was %s already", word)
	}
	return r.out.end("failover is %s", word)
}

func (s *Server) addMember(ctx context.Context, r *request) error {
	var o memberOrder
	if err := r.decode(&o); err != nil {
		return err
	}
	if err := errors.Join(text("name", o.Name), text("address", o.Address)); err != nil {
		return refuse(http.StatusBadRequest, "%v", err)
	}
	if host, port, err := net.SplitHostPort(o.Address); err != nil || host == "" || host == "*" || !isPort(port) {
		return refuse(http.StatusBadRequest, "address %q is not host:port", o.Address)
	}
	for _, m := range s.members() {
		switch {
		case m.Name != o.Name && m.Address == o.Address:
			return conflict("%s is the address of member %s", o.Address, m.Name)
		case m.Name == o.Name && m.Address == o.Address && (m.State == stateLeader || m.State == stateFollower):
			return conflict("%s is a member already", o.Name)
		}
	}
	err := s.member(ctx, func(ctx context.Context) error { return s.deps.AddMember(ctx, o.Name, o.Address, o.Witness) })
	if err != nil {
		return err
	}
	kind := "a member"
	if o.Witness {
		kind = "a witness"
	}
	return r.out.end("%s is %s", o.Name, kind)
}

func (s *Server) removeMember(ctx context.Context, r *request) error {
	var o memberOrder
	if err := r.decode(&o); err != nil {
		return err
	}
	if err := text("name", o.Name); err != nil {
		return err
	}
	members := s.members()
	if !hasMember(members, o.Name) {
		return conflict("no member %q", o.Name)
	}
	if len(members) == 1 {
		return conflict("%s is the only member", o.Name)
	}
	if err := s.member(ctx, func(ctx context.Context) error { return s.deps.RemoveMember(ctx, o.Name) }); err != nil {
		return err
	}
	return r.out.end("%s is no member any more", o.Name)
}

// member changes the membership.
func (s *Server) member(ctx context.Context, change func(context.Context) error) error {
	if err := s.quorum(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, orderTimeout)
	defer cancel()
	if err := change(ctx); err != nil {
		return fmt.Errorf("the order has failed: %w", err)
	}
	return nil
}

// members returns those who are, without those who only stand in a file.
func (s *Server) members() []MemberStatus {
	return slices.DeleteFunc(slices.Clone(s.deps.Watchdog().Members), func(m MemberStatus) bool { return m.State == stateNone })
}

func hasMember(members []MemberStatus, name string) bool {
	for _, m := range members {
		if m.Name == name {
			return true
		}
	}
	return false
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

func (s *Server) moveAddress(ctx context.Context, r *request) error {
	var o addressOrder
	if err := r.decode(&o); err != nil {
		return err
	}
	if err := errors.Join(text("address", o.Address), text("member", o.Member)); err != nil {
		return refuse(http.StatusBadRequest, "%v", err)
	}
	address, err := s.mayMove(ctx, o)
	if err != nil {
		return err
	}
	_, changed, err := s.propose(ctx, r, cluster.Command{Kind: cluster.KindHold, Address: address, Member: o.Member})
	if err != nil {
		return err
	}
	if !changed {
		return conflict("%s holds %s already", o.Member, address)
	}
	return r.out.end("%s moves to %s", address, o.Member)
}

// mayMove returns the address as the State has it, which an operator may name
// without the length of its prefix, when that member can hold it (S8).
func (s *Server) mayMove(ctx context.Context, o addressOrder) (string, error) {
	address := ""
	for _, a := range s.deps.Cluster.State().Addresses {
		bare, _, _ := strings.Cut(a.Address, "/")
		if a.Address == o.Address || bare == o.Address {
			address = a.Address
		}
	}
	if address == "" {
		return "", conflict("no virtual address %q", o.Address)
	}
	if !hasMember(s.members(), o.Member) {
		return "", conflict("no member %q", o.Member)
	}
	reports, err := s.reports(ctx)
	if err != nil {
		return "", err
	}
	report, ok := reports[o.Member]
	switch {
	case !ok:
		return "", conflict("%s is not connected with the leader", o.Member)
	case report.Witness:
		return "", conflict("%s is a witness", o.Member)
	}
	for _, l := range report.Links {
		switch {
		case l.Address != address:
		case !l.Carrier:
			return "", conflict("%s has no carrier on the interface of %s", o.Member, address)
		case !l.Gateway:
			return "", conflict("%s reaches no address of vip.check", o.Member)
		default:
			return address, nil
		}
	}
	return "", conflict("the configuration of %s does not have %s", o.Member, address)
}

// reports asks the leader, and leaves out who has not reported of late.
func (s *Server) reports(ctx context.Context) (map[string]cluster.Reported, error) {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	reports, err := s.deps.Reports(ctx)
	if err != nil {
		return nil, refuse(http.StatusServiceUnavailable, "ask the leader for the members' reports: %v", err)
	}
	now := time.Now()
	maps.DeleteFunc(reports, func(_ string, r cluster.Reported) bool { return now.Sub(r.At) > staleAfter })
	return reports, nil
}

func (s *Server) kill(_ context.Context, r *request) error {
	var o killOrder
	if err := r.decode(&o); err != nil {
		return err
	}
	if err := s.deps.Kill(o.Session); err != nil {
		return conflict("%v", err)
	}
	return r.out.end("session %d is ended", o.Session)
}

func (s *Server) stop(_ context.Context, r *request) error {
	if err := r.decode(&struct{}{}); err != nil {
		return err
	}
	defer s.deps.Stop()
	return r.out.end("%s stops", s.deps.Member)
}
