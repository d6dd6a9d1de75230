package proxy

import (
	"strconv"
	"sync"
	"testing"
)

func TestFloors(t *testing.T) {
	f := newFloors()
	want := func(user string, mark uint64, ok bool) {
		t.Helper()
		if got, known := f.of(user); known != ok || ok && got != mark {
			t.Errorf("%s: %d, %t, want %d, %t", user, got, known, mark, ok)
		}
	}
	want("a", 0, false)
	first := f.note(nil, "a", 0) // before any sample was asked for
	want("a", 0, true)
	want("b", 0, false)
	second := f.note(nil, "a", 7)
	if f.note(first, "a", 5) != second { // read before the other one's, noted after it
		t.Error("two sessions of a user have floors of their own")
	}
	want("a", 7, true)
	f.note(first, "a", 8)
	want("a", 8, true)
}

// A user who was forgotten is remembered again at the next write of a session that knew
// the old floor.
func TestFloorsAreBounded(t *testing.T) {
	f := newFloors()
	kept := f.note(nil, "kept", 1)
	for i := 0; kept.mark.Load() != forgotten; i++ {
		f.note(nil, strconv.Itoa(i), 2)
		if n := len(f.mu.byUser); n > maxFloors {
			t.Fatalf("%d users", n)
		}
	}
	if _, ok := f.of("kept"); ok {
		t.Error("not forgotten")
	}
	f.note(kept, "kept", 3)
	if mark, ok := f.of("kept"); !ok || mark != 3 {
		t.Errorf("%d, %t, want 3", mark, ok)
	}
}

// The floor is that of the highest mark, however the sessions meet.
func TestFloorsOfManySessions(t *testing.T) {
	f := newFloors()
	var sessions sync.WaitGroup
	for i := range uint64(8) {
		sessions.Go(func() {
			var at *userFloor
			for mark := range uint64(1000) {
				at = f.note(at, "u", mark*8+i)
			}
		})
	}
	sessions.Wait()
	if mark, ok := f.of("u"); !ok || mark != 7999 {
		t.Errorf("%d, %t, want 7999", mark, ok)
	}
}

// BenchmarkFloors is a write of each of several sessions of one user, many of them
// between two samples.
func BenchmarkFloors(b *testing.B) {
	f := newFloors()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		var at *userFloor
		for i := uint64(0); pb.Next(); i++ {
			at = f.note(at, "user", i/64)
		}
	})
}
