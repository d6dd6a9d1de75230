package auth

import (
	"crypto/md5"
	"crypto/subtle"
	"encoding/hex"
)

// md5SaltLen is the length in bytes of the salt in AuthenticationMD5Password.
const md5SaltLen = 4

// md5Verifier returns what pg_authid holds after "md5": the user is the salt.
func md5Verifier(password, user string) string {
	sum := md5.Sum([]byte(password + user))
	return hex.EncodeToString(sum[:])
}

// md5Response answers AuthenticationMD5Password (PostgreSQL manual, "Message
// Flow"): "md5" || md5(verifier || salt). Who has the verifier needs no password.
func md5Response(verifier string, salt [md5SaltLen]byte) string {
	sum := md5.Sum(append([]byte(verifier), salt[:]...))
	return "md5" + hex.EncodeToString(sum[:])
}

// md5Matches checks a client's answer.
func md5Matches(verifier string, salt [md5SaltLen]byte, response string) bool {
	return subtle.ConstantTimeCompare([]byte(md5Response(verifier, salt)), []byte(response)) == 1
}
