package session

// Output collects what one input produced for one peer. Runs of the input are
// remembered by their place and not copied; what the core made itself is copied
// into the output. Both keep their order.
type Output struct {
	runs []run
	own  []byte // of the pieces taken last, too, until something new is put out
}

// run is a range of the input (own false) or of Output.own.
type run struct {
	from, to int
	own      bool
}

// maxSpare bounds the buffer that an output keeps for what comes next, in bytes.
const maxSpare = 4 << 10

// Empty reports whether there is nothing to write.
func (o *Output) Empty() bool { return len(o.runs) == 0 }

// Take appends the pieces to write, in order, to dst and empties the output. The
// pieces alias input, which is the slice given to the call that filled the
// output, and a buffer of the output: they are valid until the next call of the core.
// Who writes later takes the buffer over by Swap.
func (o *Output) Take(dst [][]byte, input []byte) [][]byte {
	for _, r := range o.runs {
		if r.own {
			dst = append(dst, o.own[r.from:r.to])
		} else {
			dst = append(dst, input[r.from:r.to])
		}
	}
	o.runs = o.runs[:0]
	return dst
}

// Swap gives the caller the buffer of the pieces taken last, and the output another one
// in its place, of which nobody needs the bytes any more: most often the one of the
// last Swap. nil will do.
func (o *Output) Swap(spare []byte) (own []byte) {
	own, o.own = o.own, spare[:0]
	return own
}

// discard empties the output.
func (o *Output) discard() { o.runs = o.runs[:0] }

// forward adds a range of the input.
func (o *Output) forward(from, to int) { o.add(from, to, false) }

// write adds a copy of b.
func (o *Output) write(b []byte) { o.written(append(o.buffer(), b...)) }

// buffer returns what the core makes itself is to be appended to, for written.
func (o *Output) buffer() []byte {
	switch {
	case len(o.runs) > 0:
	case cap(o.own) > maxSpare:
		o.own = nil
	default:
		o.own = o.own[:0]
	}
	return o.own
}

// written adds what was appended to buffer.
func (o *Output) written(own []byte) {
	from := len(o.own)
	o.own = own
	o.add(from, len(own), true)
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
