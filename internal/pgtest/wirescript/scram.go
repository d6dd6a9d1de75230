package wirescript

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// scram is the client's side of SCRAM-SHA-256 without channel binding (RFC 5802,
// RFC 7677). PostgreSQL takes the user name from the startup message and ignores
// the one here.
type scram struct {
	password    string
	nonce       string // ours
	serverFirst string
	salted      []byte
	proofInput  string // AuthMessage
}

func newScram(password string) *scram {
	return &scram{password: password, nonce: rand.Text()}
}

func (s *scram) clientFirstBare() string { return "n=,r=" + s.nonce }

// first returns client-first-message.
func (s *scram) first() []byte { return []byte("n,," + s.clientFirstBare()) }

// final takes server-first-message and returns client-final-message.
func (s *scram) final(serverFirst []byte) ([]byte, error) {
	s.serverFirst = string(serverFirst)
	var nonce, salt64 string
	iterations := 0
	for part := range strings.SplitSeq(s.serverFirst, ",") {
		switch {
		case strings.HasPrefix(part, "r="):
			nonce = part[2:]
		case strings.HasPrefix(part, "s="):
			salt64 = part[2:]
		case strings.HasPrefix(part, "i="):
			n, err := strconv.Atoi(part[2:])
			if err != nil {
				return nil, fmt.Errorf("read iterations: %w", err)
			}
			iterations = n
		}
	}
	if !strings.HasPrefix(nonce, s.nonce) || len(nonce) == len(s.nonce) {
		return nil, errors.New("read server-first-message: the nonce does not continue ours")
	}
	salt, err := base64.StdEncoding.DecodeString(salt64)
	if err != nil {
		return nil, fmt.Errorf("read salt: %w", err)
	}
	if s.salted, err = pbkdf2.Key(sha256.New, s.password, salt, iterations, sha256.Size); err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	withoutProof := "c=biws,r=" + nonce
	s.proofInput = s.clientFirstBare() + "," + s.serverFirst + "," + withoutProof
	clientKey := mac(s.salted, "Client Key")
	storedKey := sha256.Sum256(clientKey)
	proof := make([]byte, sha256.Size)
	subtle.XORBytes(proof, clientKey, mac(storedKey[:], s.proofInput))
	return []byte(withoutProof + ",p=" + base64.StdEncoding.EncodeToString(proof)), nil
}

// verify checks server-final-message.
func (s *scram) verify(serverFinal []byte) error {
	want := "v=" + base64.StdEncoding.EncodeToString(mac(mac(s.salted, "Server Key"), s.proofInput))
	if string(serverFinal) != want {
		return errors.New("check server-final-message: the signature is wrong")
	}
	return nil
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}
