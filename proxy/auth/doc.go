// Package auth decides who a client is and logs sessions in on backends.
//
// It holds the rules of pg_hba.conf, both sides of the authentication methods
// of PostgreSQL (SCRAM-SHA-256 and -PLUS, md5, password), the cache of
// verifiers that the auth query fills, and the password file for methods that
// give no key. What PostgreSQL itself would raise has PostgreSQL's SQLSTATE
// and text (version 15).
//
// It moves no bytes: the startup code of package proxy drives an [Exchange]
// towards the client and a [Login] towards a backend, message by message. It
// opens no file but those that a pg_hba.conf names with "@". Secrets live in
// memory only; the types that hold them print as redacted.
//
// How a client gets in:
//
//  1. [Authenticator.Start] matches the connection with the [HBA] rules, looks
//     the role up in the [Store] and returns the first [Step].
//  2. The driver sends Step.Send, reads one message while Step.Wait is set and
//     gives it to [Exchange.Next].
//  3. Step.Done holds the [Credential], from which [Credential.Login] makes the
//     client side of the same methods for each backend.
//
// Goroutines: one per lookup under way in a [Store] (see there); it ends with
// the lookup, at the latest after StoreConfig.Timeout.
//
// Specifications: PostgreSQL manual, "The pg_hba.conf File", "The Password
// File", "SASL Authentication" and "Message Flow"; RFC 5802 (SCRAM), RFC 7677
// (SCRAM-SHA-256), RFC 5929 (tls-server-end-point), RFC 4013 (SASLprep).
package auth
