// Package proxy is the data path: it accepts clients, authenticates them, and
// runs their sessions on server connections from its pools.
package proxy
