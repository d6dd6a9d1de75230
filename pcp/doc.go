// Package pcp is the operator's API: Server answers on a member, Client asks, and
// StatusPage shows the same to a browser.
//
// It decides nothing. What an operator orders becomes a command of the cluster's
// log, checked by cluster.Apply on this member's State before it is proposed, so
// that an order that cannot be is refused with the reason and changes nothing.
// Any member takes any order; the log forwards it to the leader. Pools, sessions,
// kill, profile, reload, stop and what was observed are those of the member that is asked.
//
// # Who may
//
// On the Unix socket: the operating system's user that the server runs as, and root
// (unix(7), SO_PEERCRED). On TCP, always TLS 1.3, one of
//
//   - Protocol: mutual TLS with certificates derived from the members' secret;
//   - the token: a client that shows it (RFC 6750, Authorization: Bearer). The
//     server's certificate is derived from the token, so that a client that has it
//     trusts no other server. Other HTTP clients, which offer http/1.1 or nothing
//     as their protocol (RFC 7301), get the same certificate and need the token too.
//
// Both secrets stand or fall with their entropy: one of pgproxy keygen is meant.
//
// # The API
//
// HTTP/1.1 with JSON. Errors are {"error": "..."} with a status of 4xx or 5xx.
//
//	GET  /v1/nodes     []Node           ?watch=1: a stream, an item at each change
//	GET  /v1/watchdog  Watchdog
//	GET  /v1/health    []Health
//	GET  /v1/pools     []Pool
//	GET  /v1/sessions  []Session
//	GET  /v1/events    []cluster.Event  ?follow=1: a stream, an item for each new one
//	GET  /v1/config    Running
//	POST /v1/attach    {"node"}
//	POST /v1/detach    {"node"}
//	POST /v1/recover   {"node", "in_place"}     a stream of Progress
//	POST /v1/promote   {"node"}                 a stream of cluster.Event
//	POST /v1/failover  {"on"}
//	POST /v1/pause     {"wait_seconds"}         a stream of nothing
//	POST /v1/resume    {}
//	POST /v1/watchdog/add     {"name", "address", "witness"}
//	POST /v1/watchdog/remove  {"name"}
//	POST /v1/vip/move  {"address", "member"}
//	POST /v1/kill      {"session"}
//	POST /v1/profile   {"seconds"}              a stream of one profile, in base64
//	POST /v1/reload    {}
//	POST /v1/stop      {}
//
// An order is answered with {"done": "what happened"}. A stream is a sequence of
// lines {"item": ...}, and of {} at least every five seconds; its last line is
// {"done": ...} or {"error": ...}, and one that ends without such a line was
// interrupted: what was ordered goes on. Numbers that are not known are null.
//
// # Goroutines
//
//	name       owner of                  fed by            ends when
//	Run        both listeners            ctx               ctx ends
//	listener   one listener, its place   the network       ctx ends
//	handler    one connection            net/http          its peer or ctx ends
package pcp
