// Package vip holds virtual addresses as kernel leases (rule S8).
//
// Who holds an address is decided elsewhere and asked for by Deps.Wanted. While it
// is wanted the address is on the interface with a lifetime of two seconds that is
// renewed every 400 ms, so that the kernel of a host whose pgproxy was killed or
// frozen gives it up 2.0 to 2.5 s after the last renewal. The package decides
// nothing, closes no connection and knows no other member but by its hardware
// address.
//
// What is on the interface: a prefix of the address alone (/32 or /128), deprecated,
// without a prefix route, for IPv4 of scope host. Linux ignores "deprecated" when it
// chooses the source of an IPv4 connection, but takes no address of scope host for a
// connection that leaves the host. A prefix route of the wider prefix would carry
// the address as its source, and its expiry would be that of the lease also where
// the host's own address made it. So the host needs an address of its own in the
// clients' subnet, or a route to it. Everybody can be answered but those that ask
// with arp_ignore 2 or above: a warning says so.
//
// Modes:
//
//	layer2  the address is probed for, taken and announced (default)
//	layer3  it is taken, neither probed for nor announced: the up command tells
//	        the network (BGP, a cloud's route)
//	hooks   the kernel's addresses are left alone: the up and down commands do all.
//	        A killed or frozen pgproxy then keeps what it holds until they run again
//
// The commands are run with PGPROXY_VIP_EVENT (up, down), PGPROXY_VIP_ADDRESS
// (without its prefix), PGPROXY_VIP_PREFIX (its length) and PGPROXY_VIP_INTERFACE,
// in each mode: up after the address was taken, down after it was given up or lost
// and once at start, when nobody knows how the last run ended. One that fails or
// takes longer than 10 s is repeated every 5 s while it is still the one to run; one
// that is under way when the opposite becomes due is killed.
//
// Guarantees:
//   - an address is set and renewed only while Wanted, read again before each call
//     into the kernel, is in the future; a call during which it ran out is undone
//   - at start and at stop every address of the configuration that has a lifetime is
//     removed; one without a lifetime is the operator's: Run refuses to start
//   - an address that a foreign host answers for is not taken
//
// Not guaranteed: that two hosts never have the address at the same time. The old
// holder's kernel answers for it up to 2.5 s after its pgproxy was killed or frozen;
// the announcements of the new one are repeated over that time.
//
// Who drives it: Run, by what Wanted and Changed say. Privileges: CAP_NET_ADMIN for
// the addresses, CAP_NET_RAW for the packets.
//
// Goroutines:
//
//	name     owner of                           fed by                        ends when
//	watcher  what is known of the interfaces    netlink, each minute          Run's ctx ends
//	keeper   one address: socket, kernel lease  Changed, watcher, its timers  Run's ctx ends, the
//	                                                                          address is removed
//	asker    the reachability of one gateway    its ticker                    Run's ctx ends
//	hooker   the commands of one address        its keeper                    its keeper ended and
//	                                                                          down was run
//
// Specifications: RFC 826 (ARP), RFC 5227 (probe and announcement), RFC 4861
// (neighbour discovery), RFC 4862 section 5.4 (its probe), rtnetlink(7), packet(7).
package vip
