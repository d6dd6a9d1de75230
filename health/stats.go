package health

import "time"

// Stats counts the health checks of one backend. A check is a probe and its
// retries (SHOW pool_health_check_stats).
type Stats struct {
	Total, Success, Fail uint64
	Skip                 uint64 // checks that could not be made for a reason of our own
	Retry, MaxRetry      uint64 // probes after the first one: of all checks, of one

	// Durations are of checks that were not skipped.
	MinDuration, MaxDuration, TotalDuration time.Duration

	Last, LastSuccess, LastSkip, LastFail time.Time // zero: never
}

// AverageRetry returns the retries of a check.
func (s Stats) AverageRetry() float64 {
	if s.Total == 0 {
		return 0
	}
	return float64(s.Retry) / float64(s.Total)
}

// AverageDuration returns the time that a check took.
func (s Stats) AverageDuration() time.Duration {
	if n := s.Success + s.Fail; n > 0 {
		return s.TotalDuration / time.Duration(n)
	}
	return 0
}

// skipped returns s after a check that could not be made.
func (s Stats) skipped(at time.Time) Stats {
	s.Total++
	s.Skip++
	s.Last, s.LastSkip = at, at
	return s
}

// checked returns s after a check that ended at that time.
func (s Stats) checked(at time.Time, took time.Duration, retries int, ok bool) Stats {
	s.Total++
	s.Retry += uint64(retries)
	s.MaxRetry = max(s.MaxRetry, uint64(retries))
	if s.Success+s.Fail == 0 || took < s.MinDuration {
		s.MinDuration = took
	}
	s.MaxDuration = max(s.MaxDuration, took)
	s.TotalDuration += took
	s.Last = at
	if ok {
		s.Success++
		s.LastSuccess = at
	} else {
		s.Fail++
		s.LastFail = at
	}
	return s
}
