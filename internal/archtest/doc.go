// Package archtest holds the tests of the structure: which package may import
// which, and what the pure ones must leave alone. It contains nothing else; the
// rules and their reasons are the tables of its test, ARCHITECTURE.md draws them.
package archtest
