package auth

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// maxIterations bounds the work that a backend can ask of us (about five
// seconds of one core); PostgreSQL's default is 4096.
const maxIterations = 1 << 24

// ErrKeyMismatch says that the backend's verifier is not the one that the keys were
// recovered from (the password was changed, or the server lags). Invalidate
// the role in the Store and let the client authenticate again.
var ErrKeyMismatch = errors.New("the server's password verifier differs from the one the client authenticated with")

// SCRAMClient is the client side of one SCRAM-SHA-256 exchange (RFC 5802). It
// works with the keys of a user or with what derives them from a password.
type SCRAMClient struct {
	keys    func(salt []byte, iterations int) (SCRAMKeys, error)
	header  string // gs2-header
	binding string // value of "c" in the final message
	nonce   string
	bare    string // client-first-message-bare

	serverSignature [keyLen]byte
}

// NewSCRAMClient starts an exchange. plus: the server offers -PLUS. binding is
// nil without TLS or where the server's certificate allows none. keys returns
// the keys for the salt and iteration count that the server names.
func NewSCRAMClient(plus bool, binding ChannelBinding, keys func(salt []byte, iterations int) (SCRAMKeys, error), rand io.Reader) (*SCRAMClient, error) {
	c := &SCRAMClient{keys: keys}
	switch {
	case plus && binding != nil:
		c.header = "p=" + endpointBindingName + ",,"
		c.binding = bindingInput(binding)
	case !plus && binding != nil:
		c.header = "y,," // a server that did offer it notices the downgrade
	default:
		c.header = "n,,"
	}
	if c.binding == "" {
		c.binding = base64.StdEncoding.EncodeToString([]byte(c.header))
	}
	var err error
	if c.nonce, err = newNonce(rand); err != nil {
		return nil, err
	}
	c.bare = "n=,r=" + c.nonce // PostgreSQL takes the user from the startup packet
	return c, nil
}

// Mechanism returns the name to select.
func (c *SCRAMClient) Mechanism() string {
	if c.header[0] == 'p' {
		return mechSCRAMPlus
	}
	return mechSCRAM
}

// First returns the client-first-message.
func (c *SCRAMClient) First() []byte { return []byte(c.header + c.bare) }

// Final takes the server-first-message and returns the client-final-message.
func (c *SCRAMClient) Final(serverFirst []byte) ([]byte, error) {
	nonce, salt, iterations, err := c.readServerFirst(string(serverFirst))
	if err != nil {
		return nil, fmt.Errorf("read SCRAM server-first-message: %w", err)
	}
	keys, err := c.keys(salt, iterations)
	if err != nil {
		return nil, err
	}
	withoutProof := "c=" + c.binding + ",r=" + nonce
	message := authMessage(c.bare, string(serverFirst), withoutProof)
	stored := sha256.Sum256(keys.ClientKey[:])
	proof := xorKeys(keys.ClientKey, hmacSHA256(stored[:], message))
	c.serverSignature = hmacSHA256(keys.ServerKey[:], message)
	return []byte(withoutProof + ",p=" + base64.StdEncoding.EncodeToString(proof[:])), nil
}

func (c *SCRAMClient) readServerFirst(text string) (nonce string, salt []byte, iterations int, err error) {
	r := attrReader{s: text}
	if strings.IndexByte(text, 0) >= 0 {
		return "", nil, 0, errors.New("NUL in text")
	}
	if nonce, err = r.value('r'); err != nil {
		return "", nil, 0, err
	}
	if !strings.HasPrefix(nonce, c.nonce) || len(nonce) == len(c.nonce) || !isPrintable(nonce) {
		return "", nil, 0, errors.New("invalid nonce")
	}
	s, err := r.value('s')
	if err != nil {
		return "", nil, 0, err
	}
	if salt, err = decodeBase64(s); err != nil || len(salt) == 0 {
		return "", nil, 0, errors.New("invalid salt")
	}
	i, err := r.value('i')
	if err != nil {
		return "", nil, 0, err
	}
	n, err := strconv.ParseUint(i, 10, 32)
	if err != nil || n < 1 || n > maxIterations {
		return "", nil, 0, fmt.Errorf("invalid iteration count %q", sanitizeString(i))
	}
	if r.peek() != 0 {
		return "", nil, 0, errors.New("garbage at the end")
	}
	return nonce, salt, int(n), nil
}

// Verify takes the server-final-message. nil: the server knows the verifier.
func (c *SCRAMClient) Verify(serverFinal []byte) error {
	text := string(serverFinal)
	if reason, ok := strings.CutPrefix(text, "e="); ok {
		return fmt.Errorf("read SCRAM server-final-message: the server answers %q", sanitizeString(reason))
	}
	r := attrReader{s: text}
	value, err := r.value('v')
	if err != nil {
		return fmt.Errorf("read SCRAM server-final-message: %w", err)
	}
	signature, err := decodeBase64(value)
	if err != nil || r.peek() != 0 {
		return errors.New("read SCRAM server-final-message: malformed server signature")
	}
	if subtle.ConstantTimeCompare(signature, c.serverSignature[:]) != 1 {
		return errors.New("read SCRAM server-final-message: incorrect server signature")
	}
	return nil
}
