package lb

import (
	"errors"
	"fmt"
	"regexp"
)

// Redirects are the compiled redirect rules. They are immutable.
type Redirects struct {
	rules []redirectRule
}

type redirectRule struct {
	user, database, application *regexp.Regexp // nil: anything
	to                          string
}

// NewRedirects compiles the rules. Its error names every pattern that is not a
// regular expression.
func NewRedirects(rules []Redirect) (*Redirects, error) {
	r := &Redirects{}
	var errs []error
	compile := func(i int, field, pattern string) *regexp.Regexp {
		if pattern == "" {
			return nil
		}
		if _, err := regexp.Compile(pattern); err != nil { // alone: "a)(b" would pass below
			errs = append(errs, fmt.Errorf("compile redirects[%d].%s %q: %w", i, field, pattern, err))
			return nil
		}
		return regexp.MustCompile(`\A(?:` + pattern + `)\z`)
	}
	for i, rule := range rules {
		r.rules = append(r.rules, redirectRule{
			user:        compile(i, "user", rule.User),
			database:    compile(i, "database", rule.Database),
			application: compile(i, "application", rule.Application),
			to:          rule.To,
		})
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return r, nil
}

// Match returns where the reads of a session go: "primary", "standby" or the name of
// a backend. ok is false when no rule matches. The first rule that does wins.
func (r *Redirects) Match(user, database, application string) (to string, ok bool) {
	for _, rule := range r.rules {
		if matches(rule.user, user) && matches(rule.database, database) && matches(rule.application, application) {
			return rule.to, true
		}
	}
	return "", false
}

func matches(re *regexp.Regexp, value string) bool {
	return re == nil || re.MatchString(value)
}
