package main

import (
	"context"
	"crypto/tls"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgproxy/pgproxy/failover"
	"github.com/pgproxy/pgproxy/internal/identity"
	"github.com/pgproxy/pgproxy/pcp"
	"github.com/pgproxy/pgproxy/proxy"
)

// newOperator makes the operator's interface; nil where none is asked for.
func (m *member) newOperator(id *identity.Identity, registry prometheus.Registerer) (*pcp.Server, error) {
	if m.cfg.PCP.Listen == "" && m.cfg.PCP.UnixSocket == "" {
		return nil, nil
	}
	token, err := readSecret("pcp.token_file", m.cfg.PCP.TokenFile)
	if err != nil {
		return nil, err
	}
	var members *tls.Config
	if id != nil {
		members = id.ServerTLS(pcp.Protocol)
	}
	return pcp.New(m.cfg.PCP, m.operatorDeps(members, token, registry))
}

func (m *member) operatorDeps(members *tls.Config, token string, registry prometheus.Registerer) pcp.Deps {
	return pcp.Deps{
		Member: m.cfg.Name, Managed: m.cfg.Failover.Mode == failover.ModeManaged,
		Cluster: m.watchdog, Ready: m.watchdog.Ready(), Reports: m.watchdog.AllReports,
		Watchdog: m.watchdogStatus, AddMember: m.watchdog.Add, RemoveMember: m.watchdog.Remove,
		Observations: m.monitor.Observations, Checks: m.checks,
		Pools: m.pools, Sessions: m.sessions, Kill: m.kill, Paused: m.paused,
		Stop: func() { m.stop() }, Reload: m.reload, Running: m.runs,
		TLS: members, Token: token, Logger: m.log, Registerer: registry,
	}
}

func (m *member) pools() []pcp.Pool {
	if m.server == nil {
		return nil
	}
	var all []pcp.Pool
	for _, p := range m.server.Pools() {
		all = append(all, pcp.Pool(p))
	}
	return all
}

func (m *member) sessions() []pcp.Session {
	if m.server == nil {
		return nil
	}
	var all []pcp.Session
	for _, s := range m.server.Sessions() {
		pinned := make([]pcp.Pin, len(s.Pinned))
		for i, p := range s.Pinned {
			pinned[i] = pcp.Pin(p)
		}
		all = append(all, pcp.Session{
			ID: s.ID, User: s.User, Database: s.Database, Client: s.Client, Application: s.Application,
			State: s.State, Backend: strings.Join(s.Backends, " "), Began: s.Began, Pinned: pinned,
		})
	}
	return all
}

// paused is about the sessions of this member; a witness has none.
func (m *member) paused() (inForce bool, running int) {
	if m.server == nil {
		return m.watchdog.State().Paused != nil, 0
	}
	return m.server.Paused()
}

func (m *member) kill(id uint64) error {
	if m.server == nil {
		return proxy.ErrNoSession
	}
	return m.server.Kill(id)
}

func (m *member) watchdogStatus() pcp.WatchdogStatus {
	s := m.watchdog.Status(context.Background())
	out := pcp.WatchdogStatus{Leader: s.Leader, Term: s.Term, Quorum: s.Quorum}
	for _, member := range s.Members {
		out.Members = append(out.Members, pcp.MemberStatus{
			Name: member.Name, Address: member.Address, Witness: member.Witness, State: string(member.State),
		})
	}
	return out
}

func (m *member) checks(backend string) pcp.Checks {
	s := m.monitor.Stats(backend)
	c := pcp.Checks{
		Total: s.Total, Success: s.Success, Fail: s.Fail, Skip: s.Skip, Retry: s.Retry,
		MaxDuration: s.MaxDuration.Seconds(), MinDuration: s.MinDuration.Seconds(), AverageDuration: s.AverageDuration().Seconds(),
	}
	for at, to := range map[*time.Time]**time.Time{&s.LastSuccess: &c.LastSuccess, &s.LastFail: &c.LastFail} {
		if !at.IsZero() {
			*to = at
		}
	}
	return c
}
