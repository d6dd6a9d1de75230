package simulation

import (
	"flag"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

var (
	seeds = flag.Int("seeds", schedules, "schedules to play")
	first = flag.Uint64("first", 1, "seed of the first")
	most  = flag.Int("most", 3, "violations after which to end")
	only  = flag.Uint64("seed", 0, "the one schedule to play, with its trace")
)

// play runs one schedule, and returns what happened in it. A violation of the rules
// by what is not a mutant comes with the end of its trace.
func play(seed uint64, m mutant) (map[string]int, error) {
	s := newSim(seed, m, nil)
	err := s.run()
	if err != nil && m == noMutant {
		lines := trace(seed)
		err = fmt.Errorf("seed %d: %w\n%s", seed, err, strings.Join(lines[max(0, len(lines)-120):], "\n"))
	}
	return s.truth.count, err
}

// trace plays a schedule again and returns what it says.
func trace(seed uint64) []string {
	var lines []string
	_ = newSim(seed, noMutant, func(line string) { lines = append(lines, line) }).run()
	return lines
}

// TestSchedules plays schedules that differ in all that a seed decides.
func TestSchedules(t *testing.T) {
	if *only != 0 {
		t.Log("\n" + strings.Join(trace(*only), "\n"))
		if _, err := play(*only, noMutant); err != nil {
			t.Fatal(err)
		}
		return
	}
	var next atomic.Uint64
	var failed atomic.Int64
	var wg sync.WaitGroup
	var mu sync.Mutex
	happened := map[string]int{}
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for failed.Load() < int64(*most) {
				n := next.Add(1) - 1
				if n >= uint64(*seeds) {
					return
				}
				count, err := play(*first+n, noMutant)
				if err != nil {
					failed.Add(1)
					t.Error(err)
				}
				mu.Lock()
				for what, n := range count {
					happened[what] += n
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for _, what := range slices.Sorted(maps.Keys(happened)) {
		t.Logf("%7d %s", happened[what], what)
	}
	if failed.Load() > 0 || *seeds < schedules {
		return
	}
	// The schedules are worth something only when what they are about happens in them.
	for _, what := range []string{
		"acknowledged", "lost", "promotions", "abandon", "begin", "end", "mark rebuild", "recover", "recovered", "sync",
		"agent: rewind", "agent: rebuild", "agent: fence", "agent: kill", "agent: stop cleanly", "agent: restart as primary",
		"members wiped", "leaders",
	} {
		if happened[what] == 0 {
			t.Errorf("%q never happened", what)
		}
	}
}

// TestSeedDecides plays schedules twice.
func TestSeedDecides(t *testing.T) {
	for seed := uint64(1); seed <= 10; seed++ {
		one, two := trace(seed), trace(seed)
		for i := range min(len(one), len(two)) {
			if one[i] != two[i] {
				t.Fatalf("seed %d:\n%s\nand then\n%s", seed, one[i], two[i])
			}
		}
		if len(one) != len(two) || len(one) < 10 {
			t.Errorf("seed %d: %d and %d lines", seed, len(one), len(two))
		}
	}
}

// TestMutants makes one mistake at a time and wants it found, as a violation of the
// rule that it breaks, within so many schedules.
func TestMutants(t *testing.T) {
	for m, want := range map[mutant]struct {
		rules string // any of them
		seeds uint64
	}{
		grantWithoutRound:     {"S1 S2", 500},
		grantBeforeBarrier:    {"S1 S2", 2000},
		countFromReceipt:      {"S1 S2", 500},
		takeUnapplied:         {"S1 S2", 2000},
		routeWithoutLease:     {"S1", 100},
		forwardWithoutLease:   {"S1 S2", 500},
		noBarrier:             {"S1 S2", 500},
		noWaitAfterElection:   {"S1 S2", 1000},
		acknowledgeEarly:      {"S1 S2", 500},
		promoteWithoutConfirm: {"S3", 500},
		oneVoterIsEnough:      {"S4", 500},
		notTheNewest:          {"S5", 500},
		syncForgotten:         {"S5", 1000},
		markForgotten:         {"S6", 500},
		newerTimelineTouched:  {"S6", 500},
		sameTimelineRewound:   {"S6", 1000},
		wipedVoterVotes:       {"raft", 1000},
	} {
		t.Run(m.String(), func(t *testing.T) {
			t.Parallel()
			for seed := uint64(1); seed <= want.seeds; seed++ {
				_, err := play(seed, m)
				if err == nil {
					continue
				}
				for rule := range strings.FieldsSeq(want.rules) {
					if strings.Contains(err.Error(), ": "+rule+":") {
						t.Logf("found by seed %d: %v", seed, err)
						return
					}
				}
			}
			t.Errorf("not found by %d schedules", want.seeds)
		})
	}
}
