package auth

import (
	"context"
	"crypto/subtle"
	"runtime"
)

// hasher bounds the work with plaintext passwords. To check one against a SCRAM
// verifier, or to derive the keys for a server's, is 4096 rounds of HMAC, a
// millisecond or more of a core, so that only some run at once: a flood of logins
// must not take the CPU from the sessions.
type hasher struct {
	slots chan struct{}
}

func newHasher(atOnce int) *hasher {
	if atOnce <= 0 {
		atOnce = max(1, runtime.GOMAXPROCS(0)/2)
	}
	return &hasher{slots: make(chan struct{}, atOnce)}
}

// check compares a password with a verifier of user (PostgreSQL,
// plain_crypt_verify). cred is what the password can do on backends; nil: it is
// wrong. err is ctx's, or that the keys could not be derived.
func (h *hasher) check(ctx context.Context, v Verifier, user, password string) (cred *Credential, err error) {
	switch v.Kind {
	case VerifierMD5:
		if subtle.ConstantTimeCompare([]byte(md5Verifier(password, user)), []byte(v.MD5)) != 1 {
			return nil, nil
		}
		return NewPasswordCredential(password), nil
	case VerifierSCRAM:
		select {
		case h.slots <- struct{}{}:
			defer func() { <-h.slots }()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		keys, err := deriveKeys(password, v.SCRAM.Salt, v.SCRAM.Iterations)
		if err != nil {
			return nil, err
		}
		if subtle.ConstantTimeCompare(keys.ServerKey[:], v.SCRAM.ServerKey[:]) != 1 {
			return nil, nil
		}
		cred = NewPasswordCredential(password)
		cred.hasher = h
		cred.remember(keys)
		return cred, nil
	case VerifierNone:
	}
	return nil, nil
}
