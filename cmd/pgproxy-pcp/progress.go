package main

import (
	"fmt"
	"math"
	"strings"
	"unicode/utf8"

	"github.com/pgproxy/pgproxy/pcp"
)

// step is how far a recovery goes between two plain lines.
const step = 0.05

// bar shows how far a recovery is: one line that is drawn again on a terminal,
// plain lines elsewhere, objects with -o json.
type bar struct {
	console *console
	node    string
	width   int // of the terminal in columns; 0: it is none
	drawn   bool
	last    pcp.Progress
	lines   int
}

func (c *console) newBar(node string) *bar {
	return &bar{console: c, node: node, width: terminalWidth(c.file())}
}

// show draws it again.
func (b *bar) show(p pcp.Progress) error {
	switch {
	case b.console.json():
		return b.console.value(p, "")
	case b.width > 0:
		b.drawn = true
		return b.console.print("\r" + b.line(p, b.width-1) + "\x1b[K")
	case b.lines > 0 && !b.worth(p):
		return nil
	}
	b.lines++
	b.last = p
	return b.console.print(plain(b.node, p) + "\n")
}

// worth tells whether there is enough news for a plain line.
func (b *bar) worth(p pcp.Progress) bool {
	if p.Task != b.last.Task || (p.Progress == nil) != (b.last.Progress == nil) {
		return true
	}
	if p.Progress == nil {
		return p.Detail != b.last.Detail
	}
	return math.Abs(*p.Progress-*b.last.Progress) >= step || *p.Progress >= 1 && *b.last.Progress < 1
}

// end leaves the cursor on a line of its own.
func (b *bar) end() error {
	if !b.drawn {
		return nil
	}
	return b.console.print("\n")
}

// line is the bar in that many columns.
func (b *bar) line(p pcp.Progress, width int) string {
	text := plain(b.node, p)
	if p.Progress != nil {
		const cells = 30
		full := int(math.Round(cells * min(max(*p.Progress, 0), 1)))
		text = fmt.Sprintf("%s: %s [%s%s] %4s  %s", printable(b.node), printable(p.Task),
			strings.Repeat("#", full), strings.Repeat(".", cells-full), percent(*p.Progress), printable(p.Detail))
	}
	text = strings.TrimSpace(text)
	if utf8.RuneCountInString(text) > width {
		text = string([]rune(text)[:max(width, 0)])
	}
	return text
}

// plain says it without a bar.
func plain(node string, p pcp.Progress) string {
	parts := []string{node + ":"}
	for _, part := range []string{p.Task, optional(p.Progress, percent), p.Detail} {
		if part != "" && part != "-" {
			parts = append(parts, part)
		}
	}
	return printable(strings.Join(parts, " "))
}
