package lb

import "strings"

// kind is what a token of a shape is.
type kind uint8

const (
	kindUnknown kind = iota
	kindWord         // unquoted identifier or keyword, folded
	kindQuoted       // quoted identifier
	kindLiteral      // constant or parameter
	kindText         // string constant whose value is known
	kindSelf         // one character
)

// token is one token of a shape.
type token struct {
	text  string
	value string // of a string constant that the shape keeps
	kind  kind
	label bool // a name that is being defined here: a parenthesis behind it is no call
	match int  // of "(" and ")": the index of its partner in the statement, -1 none
}

func (t token) is(word string) bool { return t.kind == kindWord && t.text == word }
func (t token) self(c byte) bool    { return t.kind == kindSelf && t.text[0] == c }
func (t token) ident() bool         { return t.kind == kindWord || t.kind == kindQuoted }
func (t token) literal() bool       { return t.kind == kindLiteral || t.kind == kindText }

// statement is the tokens of one statement without its semicolon.
type statement []token

// at returns the token at i, the zero token where there is none.
func (s statement) at(i int) token {
	if i < 0 || i >= len(s) {
		return token{}
	}
	return s[i]
}

// words tells whether the tokens from i on are these keywords.
func (s statement) words(i int, words ...string) bool {
	for n, w := range words {
		if !s.at(i + n).is(w) {
			return false
		}
	}
	return true
}

// part returns a copy of the tokens from i up to j as a statement of its own.
func (s statement) part(i, j int) statement {
	if i >= j {
		return nil
	}
	return paired(append(statement(nil), s[i:j]...))
}

// has tells whether the word occurs anywhere.
func (s statement) has(word string) bool {
	for _, t := range s {
		if t.is(word) {
			return true
		}
	}
	return false
}

// tokens decodes a shape without its flags.
func tokens(shape string) []token {
	var out []token
	for i := 0; i < len(shape); {
		start := i + 1
		switch c := shape[i]; c {
		case tagWord:
			for i = start; i < len(shape) && class[shape[i]]&classIdentCont != 0; i++ {
			}
			out = append(out, token{kind: kindWord, text: shape[start:i]})
		case tagQuoted:
			end := start + strings.IndexByte(shape[start:], 0)
			out = append(out, token{kind: kindQuoted, text: shape[start:end]})
			i = end + 1
		case tagLiteral:
			out = append(out, token{kind: kindLiteral, text: "?"})
			i = start
		case tagText:
			end := start + strings.IndexByte(shape[start:], 0)
			out = append(out, token{kind: kindText, text: "?", value: shape[start:end]})
			i = end + 1
		default:
			out = append(out, token{kind: kindSelf, text: shape[i:start]})
			i = start
		}
	}
	return out
}

// split cuts at the semicolons that end statements and drops empty ones, as the
// grammar does: not inside parentheses (CREATE RULE) and not inside the body of a
// function in standard SQL (CREATE FUNCTION ... BEGIN ATOMIC ... END).
func split(ts []token) []statement {
	var out []statement
	start, depth, body := 0, 0, false
	for i, t := range ts {
		switch {
		case t.self('('):
			depth++
		case t.self(')'):
			depth--
		case t.is("atomic") && i > start && ts[i-1].is("begin") && createsRoutine(ts[start:i]):
			body = true
		case body && depth == 0 && t.is("end") && (ts[i-1].self(';') || ts[i-1].is("atomic")):
			body = false // every statement of the body has its semicolon
		case t.self(';') && depth <= 0 && !body:
			if i > start {
				out = append(out, paired(ts[start:i]))
			}
			start, depth = i+1, 0
		}
	}
	if start < len(ts) {
		out = append(out, paired(ts[start:]))
	}
	return out
}

// createsRoutine tells whether a statement starts like CREATE FUNCTION or PROCEDURE.
func createsRoutine(s statement) bool {
	i := 1
	if s.words(1, "or", "replace") {
		i = 3
	}
	return s.at(0).is("create") && (s.at(i).is("function") || s.at(i).is("procedure"))
}

// paired fills in the partners of the parentheses of a statement.
func paired(s statement) statement {
	var open []int
	for i := range s {
		s[i].match = -1
		switch {
		case s[i].self('('):
			open = append(open, i)
		case s[i].self(')') && len(open) > 0:
			j := open[len(open)-1]
			open = open[:len(open)-1]
			s[i].match, s[j].match = j, i
		}
	}
	return s
}

// balanced tells whether every parenthesis has its partner. A statement where one
// has none is an error, and a semicolon in it did not end it.
func (s statement) balanced() bool {
	for _, t := range s {
		if (t.self('(') || t.self(')')) && t.match < 0 {
			return false
		}
	}
	return true
}

// maxName is NAMEDATALEN - 1: PostgreSQL cuts longer identifiers.
const maxName = 63

// name returns an identifier as PostgreSQL stores it: cut to 63 bytes, not inside a
// UTF-8 character.
func (t token) name() string {
	if len(t.text) <= maxName {
		return t.text
	}
	end := maxName
	for end > 0 && t.text[end]&0xC0 == 0x80 {
		end--
	}
	return t.text[:end]
}
