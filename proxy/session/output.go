package session

// Output collects what one input produced for one peer. Runs of the input are
// remembered by their place and not copied; what the core made itself is copied
// into the output. Both keep their order.
type Output struct {
	runs []run
	own  []byte
}

// run is a range of the input (own false) or of Output.own.
type run struct {
	from, to int
	own      bool
}

// Empty reports whether there is nothing to write.
func (o *Output) Empty() bool { return len(o.runs) == 0 }

// Take appends the pieces to write, in order, to dst and empties the output. The
// pieces alias input, which is the slice given to the call that filled the
// output; what the core made itself belongs to the caller.
func (o *Output) Take(dst [][]byte, input []byte) [][]byte {
	for _, r := range o.runs {
		if r.own {
			dst = append(dst, o.own[r.from:r.to])
		} else {
			dst = append(dst, input[r.from:r.to])
		}
	}
	o.runs = o.runs[:0]
	o.own = nil
	return dst
}

// discard empties the output.
func (o *Output) discard() { o.runs, o.own = o.runs[:0], nil }

// forward adds a range of the input.
func (o *Output) forward(from, to int) { o.add(from, to, false) }

// write adds a copy of b.
func (o *Output) write(b []byte) {
	from := len(o.own)
	o.own = append(o.own, b...)
	o.add(from, len(o.own), true)
}

func (o *Output) add(from, to int, own bool) {
	if from == to {
		return
	}
	if k := len(o.runs) - 1; k >= 0 && o.runs[k].own == own && o.runs[k].to == from {
		o.runs[k].to = to
		return
	}
	o.runs = append(o.runs, run{from, to, own})
}
