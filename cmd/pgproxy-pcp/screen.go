package main

import (
	"context"
	"strings"
	"time"
)

// unreadEvery is how often it is looked whether anybody still reads the output.
const unreadEvery = time.Second

// screen shows a table again and again: in place on a terminal, else one after the
// other with an empty line between them.
type screen struct {
	console  *console
	terminal bool
	drawn    bool
}

func (c *console) newScreen() *screen {
	return &screen{console: c, terminal: terminalWidth(c.file()) > 0}
}

// draw shows a table. Lines are overwritten one by one, so that nothing flickers
// (ECMA-48: CUP, EL, ED).
func (s *screen) draw(table string) error {
	first := !s.drawn
	s.drawn = true
	switch {
	case s.terminal:
		text := "\x1b[H"
		if first {
			text = "\x1b[H\x1b[2J"
		}
		return s.console.print(text + strings.ReplaceAll(table, "\n", "\x1b[K\n") + "\x1b[J")
	case first:
		return s.console.print(table)
	}
	return s.console.print("\n" + table)
}

// untilUnread returns a context that ends with ctx, and when the other end of a
// pipe that the output is written to is closed: without news nothing is written,
// and nobody would notice.
func (c *console) untilUnread(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	f := c.file()
	if f == nil {
		return ctx, cancel
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(unreadEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if unread(f) {
					cancel()
				}
			}
		}
	}()
	return ctx, func() {
		cancel()
		<-ended
	}
}
