package simulation

import (
	"flag"
	"fmt"
	"runtime"
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

// play runs one schedule; a violation comes with the end of its trace.
func play(seed uint64, m mutant) error {
	err := newSim(seed, m, nil).run()
	if err == nil || m != noMutant {
		return err
	}
	return fmt.Errorf("seed %d: %w\n%s", seed, err, trace(seed, m, 120))
}

// trace plays a schedule again and returns its last lines.
func trace(seed uint64, m mutant, last int) string {
	var lines []string
	_ = newSim(seed, m, func(line string) { lines = append(lines, line) }).run()
	return strings.Join(lines[max(0, len(lines)-last):], "\n")
}

// TestSchedules plays schedules that differ in all that a seed decides.
func TestSchedules(t *testing.T) {
	if *only != 0 {
		t.Log("\n" + trace(*only, noMutant, 1<<30))
		if err := play(*only, noMutant); err != nil {
			t.Fatal(err)
		}
		return
	}
	var next atomic.Uint64
	var failed atomic.Int64
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for failed.Load() < int64(*most) {
				n := next.Add(1) - 1
				if n >= uint64(*seeds) {
					return
				}
				if err := play(*first+n, noMutant); err != nil {
					failed.Add(1)
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// TestMutants makes one mistake at a time and wants it found, as a violation of the
// rule that it breaks, within so many schedules.
func TestMutants(t *testing.T) {
	for m, want := range map[mutant]struct {
		rules string // any of them
		seeds uint64
	}{
		grantWithoutRound:     {"S1 S2", 2000},
		grantBeforeBarrier:    {"S1 S2", 2000},
		countFromReceipt:      {"S1 S2", 2000},
		takeUnapplied:         {"S1 S2", 2000},
		routeWithoutLease:     {"S1", 100},
		forwardWithoutLease:   {"S1 S2", 500},
		noBarrier:             {"S1 S2", 500},
		noWaitAfterElection:   {"S1 S2", 2000},
		acknowledgeEarly:      {"S1 S2", 500},
		promoteWithoutConfirm: {"S3", 2000},
		oneVoterIsEnough:      {"S4", 500},
		notTheNewest:          {"S5", 2000},
		syncForgotten:         {"S5", 2000},
		markForgotten:         {"S6", 2000},
		newerTimelineTouched:  {"S6", 2000},
		sameTimelineRewound:   {"S6", 2000},
		wipedVoterVotes:       {"raft", 2000},
	} {
		t.Run(m.String(), func(t *testing.T) {
			t.Parallel()
			for seed := uint64(1); seed <= want.seeds; seed++ {
				err := play(seed, m)
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
