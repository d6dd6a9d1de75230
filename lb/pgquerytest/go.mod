module github.com/pgproxy/pgproxy/lb/pgquerytest

go 1.26.0

replace github.com/pgproxy/pgproxy => ../..

require (
	github.com/pganalyze/pg_query_go/v6 v6.2.5
	github.com/pgproxy/pgproxy v0.0.0-00010101000000-000000000000
	google.golang.org/protobuf v1.36.12
)
