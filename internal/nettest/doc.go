// Package nettest makes hosts of network namespaces on this machine: each has an
// interface eth0 whose other end is a port of a switch (a bridge in a namespace of
// its own). It serves the tests that need a kernel's addresses, ARP tables and
// broken links, and `pgproxy demo`; nothing in it needs package testing.
//
// Each Lab is an Ethernet of its own: several may run at the same time with the
// same addresses, and none is seen from outside unless AddRoot links it. Links
// break in three ways: Cut (the port forwards nothing, the carrier stays), Carrier
// (the cable is pulled) and CutFrom (nothing passes from one host to another).
//
// The namespaces are named pgproxy-PID-NUMBER-HOST after the process that made
// them, so `ip netns exec` works on them; those of a process that is gone are
// removed by the next New, with the processes in them. Close does the same.
//
// It needs root (CAP_SYS_ADMIN and CAP_NET_ADMIN), nsenter, and nft for CutFrom.
// Linux only. It starts no goroutines.
//
// Specifications: network_namespaces(7), setns(2), veth(4), bridge(8).
package nettest
