package lb

import (
	"errors"
	"fmt"
	"hash/maphash"
	"regexp"
	"strings"
)

// Classifier tells reads from everything else. It is safe for concurrent use.
type Classifier struct {
	reads, writes map[string]bool
	harmless      map[string]bool // they leave the session as it was
	patterns      []*regexp.Regexp
	seed          maphash.Seed
	cache         *cache
	marks         marks
}

// NewClassifier returns a classifier for the lists, patterns and cache size of cfg.
// Its error names every pattern that is not a regular expression.
func NewClassifier(cfg Config) (*Classifier, error) {
	c := &Classifier{
		reads:    make(map[string]bool),
		writes:   make(map[string]bool),
		harmless: make(map[string]bool),
		seed:     maphash.MakeSeed(),
		cache:    newCache(cfg.CacheSize),
	}
	for _, f := range cfg.SessionFunctions {
		c.harmless[f] = true
	}
	for _, f := range cfg.ReadFunctions {
		c.reads[f] = true
	}
	for _, f := range cfg.WriteFunctions {
		c.writes[f] = true
	}
	var errs []error
	for i, p := range cfg.PrimaryPatterns {
		re, err := regexp.Compile(p)
		if err != nil {
			errs = append(errs, fmt.Errorf("compile primary_patterns[%d] %q: %w", i, p, err))
			continue
		}
		c.patterns = append(c.patterns, re)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return c, nil
}

// vouchedFor tells whether the operator says that a function or procedure leaves the
// session as it was.
func (c *Classifier) vouchedFor(name string) bool { return c.harmless[name] || c.reads[name] }

// Scratch is a buffer that one session reuses between calls. The zero value is
// ready. Marked reads the shape that the last Classify left in it.
type Scratch struct {
	key   []byte // shape, its flags, the catalog's identity
	shape int    // length of the shape with its flags
}

// noCatalog is the identity of a catalog that is not loaded.
var noCatalog [16]byte

// maxScratch is the size above which a buffer is not kept.
const maxScratch = 64 << 10

// fill computes the key of a text.
func (s *Scratch) fill(cat *Catalog, settings LexSettings, sql []byte) {
	if cap(s.key) > maxScratch {
		s.key = nil
	}
	s.key = appendShape(s.key[:0], settings, sql)
	s.shape = len(s.key)
	if cat == nil {
		s.key = append(s.key, noCatalog[:]...)
	} else {
		s.key = append(s.key, cat.id[:]...)
	}
}

// Classify judges sql, the text of a simple query or of a Parse message without its
// trailing NUL. cat is nil while the catalog of the session's database is not
// loaded. The verdict is shared and must not be changed.
func (c *Classifier) Classify(cat *Catalog, settings LexSettings, sql []byte, scratch *Scratch) *Verdict {
	scratch.fill(cat, settings, sql)
	hash := maphash.Bytes(c.seed, scratch.key)
	e := c.cache.get(hash, scratch.key)
	if e == nil {
		e = newEntry(hash, scratch.key, c.judge(cat, scratch.key[:scratch.shape]))
		c.cache.put(e)
	}
	// A pattern may look at literals and comments, which the shape lacks.
	if e.verdict.Read {
		for _, p := range c.patterns {
			if p.Match(sql) {
				return &e.matched
			}
		}
	}
	return &e.verdict
}

// inSession are the effects after which a session that cannot tell which statement
// of several had them no longer knows its names and settings.
const inSession = EffectPrepare | EffectDeallocate | EffectSet | EffectResetAll | EffectDiscardAll

// judge makes the verdict of a shape.
func (c *Classifier) judge(cat *Catalog, shape []byte) Verdict {
	flags := shape[len(shape)-1]
	statements := split(tokens(string(shape[:len(shape)-1])))
	v := Verdict{Read: true, Statements: len(statements)}
	switch {
	case flags&flagHintPrimary != 0:
		v.Hint = ToPrimary
	case flags&flagHintStandby != 0:
		v.Hint = ToStandby
	}
	settings := true
	v.Quiet = flags&(flagBroken|flagDoubtful|flagUnsafe|flagNames|flagEncoding) == 0
	for _, st := range statements {
		p := judgement{c: c, cat: cat, vouched: v.Hint == ToStandby}
		p.statement(st)
		v.Effects |= p.effects
		v.Custom = append(v.Custom, p.custom...)
		v.Settings = append(v.Settings, p.settings...)
		settings = settings && p.effects&EffectSet != 0
		v.Quiet = v.Quiet && p.quiet
		v.Unknown = v.Unknown || p.unknown
		v.Evaluates = v.Evaluates || p.evaluates
		if !p.read {
			v.Read, v.Why = false, p.why
		}
		if len(statements) == 1 {
			v.Show, v.Name, v.Inner = p.show, p.name, p.inner
			v.Savepoint, v.Rollback = p.savepoint, p.rollback
			v.Silent = silent(st)
		}
	}
	switch {
	case flags&flagBroken != 0:
		v.deny("not lexically valid")
	case flags&(flagDoubtful|flagUnsafe|flagNames) != 0:
		v.deny("ambiguous text")
	case v.Hint == ToPrimary:
		v.deny("hint")
	}
	if flags&(flagEncoding|flagNames) != 0 {
		v.Effects |= EffectMayChangeState | EffectUnknownInSession
		v.Savepoint = NoSavepoint
	}
	if len(statements) == 1 && flags&unsure == 0 && v.Effects&EffectSetConfig != 0 {
		if _, ok := statements[0].setConfig(false); ok {
			v.Effects &^= EffectMayChangeState | EffectLeftover
		}
	}
	switch {
	case !settings || len(v.Settings) == 0 || v.Effects&EffectUnknownInSession != 0:
		v.Settings = nil
		if len(statements) > 1 && v.Effects&inSession != 0 {
			v.Effects |= EffectUnknownInSession
		}
	case len(v.Settings) == 1:
		v.Setting, v.Settings = v.Settings[0], nil
	}
	return v
}

// silent reports INSERT, UPDATE and DELETE without RETURNING.
func silent(st statement) bool {
	return (st.at(0).is("insert") || st.at(0).is("update") || st.at(0).is("delete")) && !st.has("returning")
}

// deny takes Read back.
func (v *Verdict) deny(why string) {
	v.Read, v.Inner = false, false
	v.Why = why
}

// judgement is the verdict on one statement in the making.
type judgement struct {
	c       *Classifier
	cat     *Catalog
	vouched bool // by the hint for a standby

	read, unknown, inner bool
	evaluates, quiet     bool
	why                  string
	effects              Effect
	show, name           string
	settings, custom     []string
	savepoint            Savepoint
	rollback             bool
}

// no says why the statement is not a read.
func (p *judgement) no(why string) { p.read, p.why = false, why }

// scan runs a scan over st and takes its effects. Calls of functions that nobody
// knows may change the session.
func (p *judgement) scan(st statement, queries bool) scan {
	s := scan{c: p.c, cat: p.cat, queries: queries}
	s.run(st)
	p.effects |= s.effects
	p.evaluates = true
	p.unknown = p.unknown || s.unknown != "" || p.cat == nil
	if s.unknown != "" && !p.vouched {
		p.effects |= EffectMayChangeState
	}
	return s
}

// query judges a SELECT, VALUES, TABLE or WITH, parenthesised or not, or a list of
// expressions.
func (p *judgement) query(st statement) {
	s := p.scan(st, true)
	if s.unknown == "" && p.cat == nil {
		s.unknown = "the catalog"
	}
	p.quiet = s.structure == "" && s.unknown == "" && !s.keeps && p.effects == 0
	switch {
	case s.structure != "":
		p.no(s.structure)
		p.into(st)
	case p.vouched:
		p.read, p.unknown = true, false
	case s.doubt != "":
		p.no(s.doubt)
	case s.unknown != "":
		p.no(s.unknown + " is not known")
	default:
		p.read = true
	}
}

// into finds what SELECT INTO creates.
func (p *judgement) into(st statement) {
	for i, t := range st {
		if !t.is("into") || st.at(i-1).is("insert") || st.at(i-1).is("merge") {
			continue
		}
		if st.at(i+1).is("local") || st.at(i+1).is("global") {
			i++
		}
		if next := st.at(i + 1); next.is("temp") || next.is("temporary") || strings.HasPrefix(next.text, "pg_temp") {
			p.effects |= EffectTemp
		} else {
			p.effects |= EffectDDL
		}
		return
	}
}
