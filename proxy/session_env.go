package proxy

import (
	"bytes"
	"cmp"
	"time"

	"github.com/pgproxy/pgproxy/internal/cluster"
	"github.com/pgproxy/pgproxy/lb"
	"github.com/pgproxy/pgproxy/proxy/session"
)

// sessionEnv answers what a session's core asks of its surroundings. It is used
// under the session's lock. Times are monotonic's.
type sessionEnv struct {
	shared *sessions
	own    *clientSession
	now    int64 // of the turn under way; 0: not read yet
	shard  int   // of the metrics, in which the session counts
	// counted is where the statements of the server that was in each slot last are.
	counted [session.Standby + 1]struct {
		backend string
		shard   *counterShard
	}

	settings lb.LexSettings
	scratch  lb.Scratch
	catalog  *catalogOf
	turn     lb.Turn
	// forced is the target of the first redirect that matches; "" none.
	forced    string
	redirects *lb.Redirects // that forced was taken from
	settled   bool          // a choice was made:
	home      string        // the server of the session's reads, "" the primary,
	since     int64         // at that time
	shunned   string        // a standby to which no connection could be made,
	until     int64         // and until when it is not tried again

	wrote *userFloor // where the user's last write is noted; nil: the session has not written
	asked int64      // when the batch under way was sent
}

// shunTime is for how long a session does not try a standby again that refused it.
const shunTime = time.Second

// distrustTime is for how long a shape that a standby refused goes to the primary.
const distrustTime = 10 * time.Minute

func newSessionEnv(sh *sessions, s *clientSession) *sessionEnv {
	e := &sessionEnv{
		shared:   sh,
		own:      s,
		shard:    int(s.id % uint64(sh.metrics.shards)),
		settings: lb.LexSettings{StandardConformingStrings: true, SafeEncoding: true},
		catalog:  sh.catalogs.of(s.client.database),
		turn:     lb.NewTurn(s.id),
	}
	if l := s.client.loop; l != nil { // where no other processor writes
		e.shard = l.index % sh.metrics.shards
	}
	return e
}

// tick gives the time of the core's calls that follow. A driver that has the time of its
// turn gives it before them. 0 ends a turn: who needs the time next reads the clock, once.
func (e *sessionEnv) tick(now int64) { e.now = now }

// time returns the time of the turn.
func (e *sessionEnv) time() int64 {
	if e.now == 0 {
		e.now = monotonic()
	}
	return e.now
}

// redirect keeps forced in step with the configuration.
func (e *sessionEnv) redirect() {
	if now := e.shared.redirects.Load(); now != e.redirects {
		e.redirects = now
		e.forced, _ = now.Match(e.own.client.user, e.own.client.database, e.own.client.appName)
	}
}

// Classify returns the verdict on a text for the session's database.
func (e *sessionEnv) Classify(sql []byte) *lb.Verdict {
	sh := e.shared
	cat, valid := e.catalog.get(e.time())
	classifier := sh.classifier.Load()
	v := classifier.Classify(cat, e.settings, sql, &e.scratch)
	switch {
	case v.Unknown:
		e.catalog.want()
	case v.Evaluates && !valid:
		w := notRead(v, "the catalog is being read again")
		w.Unknown = true
		return w
	case v.Read && classifier.Marked(e.own.client.database, &e.scratch, e.time()):
		return notRead(v, "a standby has refused it")
	}
	return v
}

// SetConfig tells what the calls of set_config in a statement set.
func (e *sessionEnv) SetConfig(sql []byte) ([]lb.ConfigChange, bool) {
	return lb.SetConfig(sql, e.settings)
}

// notRead is the verdict on a statement that must not be taken for a read now.
func notRead(v *lb.Verdict, why string) *lb.Verdict {
	w := *v
	w.Quiet = false
	if w.Read {
		w.Read, w.Why = false, why
	}
	return &w
}

// Parameter notes the settings that decide how a text is read.
func (e *sessionEnv) Parameter(slot session.Slot, name, value []byte) {
	if sv := e.own.mu.servers[slot]; sv != nil {
		sv.loan.noteParameter(string(name), string(value))
	}
	if slot != session.Primary {
		return
	}
	switch string(name) {
	case "standard_conforming_strings":
		e.settings.StandardConformingStrings = string(value) == "on"
	case "client_encoding":
		e.settings.SafeEncoding = safeEncoding(value)
	}
}

// safeEncoding reports that no byte below 128 is part of a longer character
// (PostgreSQL manual, "Character Set Support": the encodings that a server
// allows are safe).
func safeEncoding(name []byte) bool {
	for _, unsafe := range []string{"SJIS", "SHIFT_JIS_2004", "BIG5", "GBK", "UHC", "GB18030", "JOHAB"} {
		if bytes.EqualFold(name, []byte(unsafe)) {
			return false
		}
	}
	return true
}

// Choose picks the server of a read: by redirect, else by weight.
func (e *sessionEnv) Choose(attached string, shown bool, hint lb.Target) string {
	cfg := &e.shared.cfg.Load().Balance
	r := e.shared.routing.Load()
	e.redirect()
	switch {
	case r == nil || cfg.Mode == lb.ModeOff || cfg.Consistency == lb.ConsistencyPrimary:
		return ""
	case !r.hasPrimary, hint == lb.ToStandby, e.forced == "standby":
		return e.someStandby(r, attached)
	case e.forced == "primary":
		return ""
	case e.forced != "":
		return e.ifUsable(r, e.forced)
	case e.atHome(cfg) && (e.home == "" || e.usable(r, e.home)):
		return e.home
	case !e.settled:
		// Among all new sessions each server gets its share exactly.
		if i := e.shared.wheel.Next(r.all); i >= 0 && !r.all[i].Primary {
			return e.settle(e.ifUsable(r, r.all[i].Name))
		}
		return e.settle("")
	case shown && e.usable(r, attached) && e.Crowded(attached):
		// It would hold a connection to one while it waits for one to the other.
		return e.settle(attached)
	case e.turn.Primary(r.primaryWeight, r.standbyWeight):
		return e.settle("")
	}
	return e.settle(e.someStandby(r, cmp.Or(attached, e.home)))
}

// Crowded reports that a session which went from that standby to the primary would stand
// in a long line for one of them.
func (e *sessionEnv) Crowded(standby string) bool {
	p := e.shared.pools
	return p.queued.Load() > 0 && p.crowded(e.own.client, e.shared.cluster.State().Primary, standby)
}

// anyStandby picks a standby for a session that cannot start on the primary; ""
// there is none, or reads go to the primary only.
func (e *sessionEnv) anyStandby() string {
	cfg := &e.shared.cfg.Load().Balance
	r := e.shared.routing.Load()
	if r == nil || cfg.Mode == lb.ModeOff || cfg.Consistency == lb.ConsistencyPrimary {
		return ""
	}
	return e.someStandby(r, "")
}

// someStandby keeps the session's standby, or picks another one by weight; "" there
// is none.
func (e *sessionEnv) someStandby(r *routing, attached string) string {
	if attached != "" && e.usable(r, attached) {
		return attached
	}
	if i := e.shared.standbyWheel.Next(r.standbys); i >= 0 {
		return e.ifUsable(r, r.standbys[i].Name)
	}
	return ""
}

func (e *sessionEnv) ifUsable(r *routing, name string) string {
	if e.usable(r, name) {
		return name
	}
	return ""
}

// usable reports that a standby may get reads of this session now.
func (e *sessionEnv) usable(r *routing, name string) bool {
	if name == e.shunned && e.time() < e.until {
		return false
	}
	for i := range r.standbys {
		if r.standbys[i].Name == name {
			return true
		}
	}
	return false
}

// homeTime is for how long a session that must not go back in time reads from the
// same server: to come back from the primary costs a wait for a sample.
const homeTime = time.Second

// atHome reports that the choice made last still holds.
func (e *sessionEnv) atHome(cfg *lb.Config) bool {
	switch {
	case !e.settled:
		return false
	case cfg.Mode == lb.ModeSession:
		return true
	case cfg.Consistency == lb.ConsistencyEventual:
		return false
	}
	return e.time()-e.since < int64(homeTime)
}

// settle makes a server the session's home; "" is the primary.
func (e *sessionEnv) settle(name string) string {
	e.settled, e.home, e.since = true, name, e.time()
	return name
}

// avoid keeps the session from trying a standby again at once.
func (e *sessionEnv) avoid(backend string) {
	e.shunned, e.until = backend, e.time()+int64(shunTime)
}

// Show returns the SELECT that stands for one of pgpool's SHOW commands.
func (e *sessionEnv) Show(name string) string { return e.shared.reporter.sql(name, e.own) }

// Samples returns the latest log positions, nil when they are not the recorded
// primary's.
func (e *sessionEnv) Samples() *cluster.Samples {
	samples, state := e.shared.sampler.Samples(), e.shared.cluster.State()
	if samples == nil || samples.Primary != state.Primary || samples.Timeline != state.Timeline {
		return nil
	}
	return samples
}

// Mark returns the round of sampling that has begun last.
func (e *sessionEnv) Mark() uint64 { return e.shared.sampler.Mark() }

// RequestSample asks for a new round.
func (e *sessionEnv) RequestSample() { e.shared.sampler.Request() }

// Floors reports whether the session must see its writes and not go back in time.
func (e *sessionEnv) Floors() bool {
	return e.shared.cfg.Load().Balance.Consistency == lb.ConsistencySession
}

// Confirms: a session that must not go back in time asks.
func (e *sessionEnv) Confirms() bool { return e.Floors() }

// ListensAgain: the operator chooses.
func (e *sessionEnv) ListensAgain() bool { return e.shared.cfg.Load().Listen.OnFailover == ListenKeep }

// Distrust sends statements of that shape to the primary for a while.
func (e *sessionEnv) Distrust(sql []byte) {
	now := e.time()
	e.shared.classifier.Load().MarkPrimary(e.own.client.database, e.settings, sql, now, now+int64(distrustTime))
}

// CatalogChanged has the catalog of the session's database read again.
func (e *sessionEnv) CatalogChanged() { e.catalog.invalidate() }

// CloseIdle closes the connections to that server that nobody uses. The server
// waits for their end for a while by itself.
func (e *sessionEnv) CloseIdle(slot session.Slot) {
	if sv := e.own.mu.servers[slot]; sv != nil {
		backend := sv.loan.backend
		e.own.spawn(func() { e.shared.pools.closeIdle(backend) })
	}
}

// Wrote notes the user's last write.
func (e *sessionEnv) Wrote() {
	e.wrote = e.shared.floors.note(e.wrote, e.own.client.user, e.Mark())
}

// counters returns what counts for the server in a slot; nil: there is none.
func (e *sessionEnv) counters(slot session.Slot) *counterShard {
	sv := e.own.mu.servers[slot]
	if sv == nil {
		return nil
	}
	c := &e.counted[slot]
	if c.shard == nil || c.backend != sv.loan.backend {
		c.backend, c.shard = sv.loan.backend, &e.shared.metrics.of(sv.loan.backend)[e.shard]
	}
	return c.shard
}

// Completed counts a statement by its command tag.
func (e *sessionEnv) Completed(slot session.Slot, tag []byte) {
	if c := e.counters(slot); c != nil {
		c.completed(slot, tag)
	}
	e.own.clock.committed = e.own.clock.committed || string(tag) == "COMMIT"
}

// Failed counts an error.
func (e *sessionEnv) Failed(slot session.Slot, fatal bool) {
	if c := e.counters(slot); c != nil {
		c.failed(fatal)
	}
}

// Routed notes when a batch was sent.
func (e *sessionEnv) Routed(session.Slot) { e.asked = e.time() }

// Answered measures how long it took.
func (e *sessionEnv) Answered(slot session.Slot) {
	e.shared.metrics.duration[routeOf(slot)].observe(e.shard, time.Duration(e.time()-e.asked))
	e.own.clock.answered = true
}

// monotonic reads the monotonic clock, in nanoseconds since the start.
func monotonic() int64 { return int64(time.Since(processStart)) }

var processStart = time.Now()
