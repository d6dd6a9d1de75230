package watchdog

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/pgproxy/pgproxy/internal/identity"
)

// peerKey is the context's key for the name of the member that calls.
type peerKey struct{}

// memberConn hides from net/http that a connection is TLS: its handshake is done, and
// net/http would speak only protocols whose names it knows.
type memberConn struct{ *tls.Conn }

// serve answers the other members' calls until ctx ends. All of them know the secret;
// bounds are there for what is broken, not for strangers.
func (w *Watchdog) serve(ctx context.Context, in net.Listener) {
	server := &http.Server{
		Handler:           w.verbs(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      time.Minute, // a probe waits for a server that hangs
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(w.log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			peer := ""
			if c, ok := c.(memberConn); ok {
				peer = identity.Peer(c.ConnectionState())
			}
			return context.WithValue(ctx, peerKey{}, peer)
		},
	}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.Serve(in); !errors.Is(err, http.ErrServerClosed) && ctx.Err() == nil {
		w.fail(fmt.Errorf("serve the members' calls: %w", err))
	}
}

// verbs are the calls. What becomes part of the truth is read strictly; a report of a
// newer program may say more than this one understands.
func (w *Watchdog) verbs() http.Handler {
	mux := http.NewServeMux()
	on(mux, "hello", lenient, func(_ context.Context, _ string, _ struct{}) (hello, error) { return w.hello() })
	on(mux, "nonce", strict, func(_ context.Context, _ string, q nonceRequest) (nonceAnswer, error) { return w.echo(q) })
	on(mux, "probe", lenient, func(ctx context.Context, _ string, q probeRequest) (leaseRequest, error) { return w.look(ctx, q) })
	on(mux, "cancel", lenient, func(ctx context.Context, _ string, q cancelRequest) (cancelAnswer, error) {
		return w.cancelHere(ctx, q), nil
	})
	leader(w, mux, "lease", lenient, func(ctx context.Context, l *leadership, member string, q leaseRequest) (leaseAnswer, error) {
		return l.lease(ctx, member, q)
	})
	leader(w, mux, "reports", lenient, func(_ context.Context, l *leadership, _ string, _ struct{}) (reportsAnswer, error) {
		return l.agedReports(), nil
	})
	leader(w, mux, "status", lenient, func(_ context.Context, l *leadership, _ string, _ struct{}) (Status, error) {
		return l.status(), nil
	})
	leader(w, mux, "propose", strict, func(ctx context.Context, l *leadership, _ string, q proposeRequest) (proposeAnswer, error) {
		return l.propose(ctx, q)
	})
	leader(w, mux, "confirm", strict, func(ctx context.Context, l *leadership, _ string, q Check) (struct{}, error) {
		return struct{}{}, l.check(ctx, q)
	})
	leader(w, mux, "join", strict, func(_ context.Context, l *leadership, member string, q joinRequest) (struct{}, error) {
		return struct{}{}, l.join(member, q)
	})
	leader(w, mux, "add", strict, func(ctx context.Context, l *leadership, _ string, q Member) (struct{}, error) {
		return struct{}{}, l.add(ctx, q)
	})
	leader(w, mux, "remove", strict, func(ctx context.Context, l *leadership, _ string, q Member) (struct{}, error) {
		return struct{}{}, l.remove(ctx, q.Name)
	})
	return mux
}

// Whether a request may have fields that this program does not know.
const (
	lenient = false
	strict  = true
)

// on registers a call. do is told the name of the member that calls.
func on[Q, A any](mux *http.ServeMux, verb string, strict bool, do func(ctx context.Context, member string, q Q) (A, error)) {
	mux.HandleFunc("POST /"+verb, func(rw http.ResponseWriter, r *http.Request) {
		var q Q
		err := readBody(http.MaxBytesReader(rw, r.Body, maxRequest), strict, &q)
		if err != nil {
			respond(rw, http.StatusBadRequest, newCallError(fmt.Errorf("call %s: %w", verb, err)))
			return
		}
		peer, _ := r.Context().Value(peerKey{}).(string)
		answer, err := do(r.Context(), peer, q)
		if err != nil {
			respond(rw, http.StatusConflict, newCallError(err))
			return
		}
		respond(rw, http.StatusOK, answer)
	})
}

// leader registers a call that only the leader answers.
func leader[Q, A any](w *Watchdog, mux *http.ServeMux, verb string, strict bool, do func(context.Context, *leadership, string, Q) (A, error)) {
	on(mux, verb, strict, func(ctx context.Context, member string, q Q) (A, error) {
		l := w.leader.Load()
		if l == nil {
			var none A
			return none, ErrNotLeader
		}
		return do(ctx, l, member, q)
	})
}

func readBody(from io.Reader, strict bool, into any) error {
	d := json.NewDecoder(from)
	if strict {
		d.DisallowUnknownFields()
	}
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("read request: bytes after its end")
	}
	return nil
}

func respond(rw http.ResponseWriter, status int, body any) {
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(body); err != nil {
		status = http.StatusInternalServerError
		b.Reset()
		fmt.Fprintf(&b, `{"error": %q}`, "encode answer: "+err.Error())
	}
	rw.Header().Set("Content-Type", "application/json")
	rw.WriteHeader(status)
	rw.Write(b.Bytes()) // the caller sees by itself what did not arrive
}

// ask has the leader do something: here when this member leads, else by a call.
func ask[A any](ctx context.Context, w *Watchdog, verb string, q any, here func(context.Context, *leadership) (A, error)) (A, error) {
	var answer A
	if l := w.leader.Load(); l != nil {
		return here(ctx, l)
	}
	to := w.leaderAddress()
	switch n := w.node.Load(); {
	case to == "":
		return answer, ErrNoLeader
	case to == n.address:
		return answer, ErrNotLeader // not yet, or no more
	}
	err := w.caller.call(ctx, to, verb, q, &answer)
	return answer, err
}

// askPatiently is ask that waits for a leader, at most findTimeout.
func askPatiently[A any](ctx context.Context, w *Watchdog, verb string, q any, here func(context.Context, *leadership) (A, error)) (A, error) {
	find := time.NewTimer(findTimeout)
	defer find.Stop()
	for {
		changed := w.leaderChanged.wait()
		answer, err := ask(ctx, w, verb, q, here)
		if !errors.Is(err, ErrNoLeader) && !errors.Is(err, ErrNotLeader) {
			return answer, err
		}
		// Neither has written anything. A follower that forwards to one who is no
		// longer the leader hears of the new one soon.
		retry := time.NewTimer(retryInterval)
		select {
		case <-ctx.Done():
		case <-find.C:
		case <-changed:
			retry.Stop()
			continue
		case <-retry.C:
			continue
		}
		retry.Stop()
		return answer, err
	}
}

const (
	findTimeout   = 3 * time.Second // for an election, with room
	retryInterval = 50 * time.Millisecond
)
