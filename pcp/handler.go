package pcp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// refusal is an error with the HTTP status that it is answered with.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return r.text }

func refuse(status int, format string, args ...any) error {
	return &refusal{status, fmt.Sprintf(format, args...)}
}

// conflict is an order that cannot be as things are.
func conflict(format string, args ...any) error {
	return refuse(http.StatusConflict, format, args...)
}

// statusOf returns what an error is answered with.
func statusOf(err error) int {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.status
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return http.StatusGatewayTimeout
	}
	return http.StatusServiceUnavailable
}

// request is one request of an operator who may make it.
type request struct {
	*http.Request
	by   string // who asks
	verb string
	body []byte
	out  *answer
}

// flag tells whether the request has ?name=1.
func (r *request) flag(name string) bool {
	v := r.URL.Query().Get(name)
	return v == "1" || v == "true"
}

// decode reads the order. A field that is not known is an error: it might be what
// the operator cared for.
func (r *request) decode(into any) error {
	d := json.NewDecoder(strings.NewReader(string(r.body)))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return refuse(http.StatusBadRequest, "the request is malformed: %v", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return refuse(http.StatusBadRequest, "the request is malformed: something follows its end")
	}
	return nil
}

// verb is one request that the server knows.
type verb func(ctx context.Context, r *request) error

func (s *Server) verbs() map[string]verb {
	return map[string]verb{
		"GET nodes":    s.nodes,
		"GET watchdog": s.watchdog,
		"GET health":   s.health,
		"GET pools":    s.pools,
		"GET sessions": s.sessions,
		"GET events":   s.events,
		"GET config":   s.config,

		"POST attach":          s.settled(s.attach),
		"POST detach":          s.settled(s.detach),
		"POST recover":         s.settled(s.recover),
		"POST promote":         s.settled(s.promote),
		"POST failover":        s.settled(s.failover),
		"POST pause":           s.settled(s.pause),
		"POST resume":          s.settled(s.resume),
		"POST watchdog/add":    s.addMember,
		"POST watchdog/remove": s.removeMember,
		"POST vip/move":        s.settled(s.moveAddress),
		"POST kill":            s.kill,
		"POST profile":         s.profile,
		"POST reload":          s.reload,
		"POST stop":            s.stop,
	}
}

// settled makes an order wait for the State to be known: a member that has just been
// started reads its log first, and would refuse by what was long ago.
func (s *Server) settled(run verb) verb {
	return func(ctx context.Context, r *request) error {
		late := time.NewTimer(reportWait)
		defer late.Stop()
		select {
		case <-s.deps.Ready:
			return run(ctx, r)
		case <-late.C:
			return refuse(http.StatusServiceUnavailable, "%s does not know the state of the cluster yet; nothing was changed", s.deps.Member)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// handler answers all requests of a listener.
func (s *Server) handler() http.Handler {
	verbs := s.verbs()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out := newAnswer(w)
		name, ok := strings.CutPrefix(r.URL.Path, "/v1/")
		run, known := verbs[r.Method+" "+name]
		if !ok || !known {
			name = ""
		}
		err := s.answer(r, name, run, out)
		if err != nil {
			out.fail(err)
		}
		s.metrics.count(name, out.status)
		if err != nil || r.Method == http.MethodPost && name != "" {
			s.report(r, name, out, err)
		}
	})
}

// answer runs one request.
func (s *Server) answer(r *http.Request, name string, run verb, out *answer) error {
	by, err := s.operator(r)
	if err != nil {
		return err
	}
	out.by = by
	if run == nil || name == "" {
		return refuse(http.StatusNotFound, "unknown request %s %s", r.Method, r.URL.Path)
	}
	body, err := readBody(out, r)
	if err != nil {
		return err
	}
	return run(r.Context(), &request{Request: r, by: by, verb: name, body: body, out: out})
}

// readBody reads a body of bounded size in bounded time.
func readBody(out *answer, r *http.Request) ([]byte, error) {
	out.readDeadline(time.Now().Add(readTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(out.w, r.Body, maxBody))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, refuse(http.StatusRequestEntityTooLarge, "the request is longer than %d bytes", maxBody)
	}
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "read the request: %v", err)
	}
	out.readDeadline(time.Time{}) // net/http notices from now on when the client leaves
	return body, nil
}

// report logs an order and what came of it, and what was refused at most once a
// minute.
func (s *Server) report(r *http.Request, name string, out *answer, err error) {
	if out.status == http.StatusForbidden || out.status == http.StatusUnauthorized {
		now := time.Now().Unix()
		if last := s.refused.Load(); now-last >= 60 && s.refused.CompareAndSwap(last, now) {
			s.log.Warn("operator refused", "peer", r.RemoteAddr, "error", err)
		}
		return
	}
	if errors.Is(err, errLeft) {
		return
	}
	if err != nil {
		s.log.Info("operator's request failed", "verb", name, "by", out.by, "error", err)
		return
	}
	s.log.Info("operator's order", "verb", name, "by", out.by, "result", out.done)
}
