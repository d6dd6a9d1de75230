package simulation

import "time"

// network is the links between hosts. Every message travels by itself: it may be
// late, lost, overtaken, and arrive again.
type network struct {
	cut    [][]bool          // from, to
	joined [][]time.Duration // when a link was mended last
}

func newNetwork(hosts int) network {
	n := network{cut: make([][]bool, hosts), joined: make([][]time.Duration, hosts)}
	for i := range n.cut {
		n.cut[i], n.joined[i] = make([]bool, hosts), make([]time.Duration, hosts)
	}
	return n
}

// send has f called on the host to, unless the message is lost.
func (s *sim) send(from, to int, f func()) {
	s.carry(from, to, f)
	if s.net.reaches(from, to) && s.now < s.healed && s.chance(s.shape.double) {
		s.after(s.between(0, 4*time.Second), func() { s.arrive(from, to, f) })
	}
}

// carry is send over a connection that gives each byte once.
func (s *sim) carry(from, to int, f func()) {
	if from == to {
		s.after(s.between(10*time.Microsecond, 100*time.Microsecond), f)
		return
	}
	if !s.net.reaches(from, to) || s.now < s.healed && s.chance(s.shape.loss) {
		return
	}
	delay := s.between(100*time.Microsecond, 2*time.Millisecond)
	if s.now < s.healed && s.chance(s.shape.late) {
		delay = s.between(0, 1500*time.Millisecond)
	}
	s.after(delay, func() { s.arrive(from, to, f) })
}

func (s *sim) arrive(from, to int, f func()) {
	if s.net.reaches(from, to) {
		f()
	}
}

func (n *network) reaches(from, to int) bool { return !n.cut[from][to] }

// cutLink cuts a link in one direction, or mends it.
func (s *sim) cutLink(from, to int, cut bool) {
	n := &s.net
	if n.cut[from][to] && !cut {
		n.joined[from][to] = s.now
	}
	n.cut[from][to] = cut
}

// isolate cuts a host off from all others, or joins it again.
func (s *sim) isolate(host int, cut bool) {
	for i := range s.members {
		if i != host {
			s.cutLink(i, host, cut)
			s.cutLink(host, i, cut)
		}
	}
}

// connected tells whether two hosts reach each other, and have for that long.
func (s *sim) connected(a, b int, d time.Duration) bool {
	n := &s.net
	return a == b || n.reaches(a, b) && n.reaches(b, a) && s.now-n.joined[a][b] >= d && s.now-n.joined[b][a] >= d
}
