// Package identity makes the certificates by which the members of one watchdog
// know each other, out of the secret that they share and nothing else.
//
// The secret gives, by HKDF (RFC 5869), an Ed25519 authority: the same key and the
// same certificate on every member, byte for byte. Each process signs itself a
// certificate with its member name and a key that lives in its memory only.
// Connections are TLS 1.3 and mutual: who cannot show a certificate of the
// authority does not know the secret, and is refused in the handshake, before a
// byte of it is looked at.
//
// What it guarantees: a peer knows the secret. What it does not: that it is the
// member that it says, since whoever has the secret can make any certificate.
// There is no revocation: a secret that became known is replaced on every member.
//
// No clock is read for the verification, so hosts whose clocks disagree connect.
//
// Goroutines: none.
package identity
