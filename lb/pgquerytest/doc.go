// Package pgquerytest holds the classifier against PostgreSQL's own parser.
//
// It is a module of its own because the parser (pg_query_go) needs cgo, which
// pgproxy itself is built without.
package pgquerytest
