package auth

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"io"
	"strconv"
	"strings"
)

// errInvalidProof: the client does not know the password. The exchange says it
// with a text that names the user.
var errInvalidProof = errors.New("invalid SCRAM proof")

// SCRAMServer is the server side of one SCRAM-SHA-256 exchange. It behaves as
// PostgreSQL 15 does (auth-scram.c), in its checks, their order and its texts:
//
//   - the user name in the exchange is ignored, that of the startup packet counts;
//   - authorization identities and mandatory extensions are refused;
//   - "y" (the client thinks that we cannot bind) is a downgrade attack when
//     -PLUS was offered.
//
// A doomed one (unknown user, no usable verifier, expired password) does the
// same work with a mock verifier and fails where a wrong proof does.
type SCRAMServer struct {
	verifier SCRAMVerifier
	doomed   bool
	plus     bool           // the client chose -PLUS
	binding  ChannelBinding // nil: -PLUS was not offered
	rand     io.Reader

	state           scramState
	bindingFlag     byte // of the gs2 header: n, y or p
	clientFirstBare string
	serverFirst     string
	nonce           string // of both sides
}

type scramState uint8

const (
	scramUnknown scramState = iota
	scramFirst              // the client-first-message is next
	scramFinal              // the client-final-message is next
	scramDone
)

// NewSCRAMServer starts an exchange after the client has chosen mechanism.
// binding is nil where -PLUS was not offered.
func NewSCRAMServer(v SCRAMVerifier, doomed bool, mechanism string, binding ChannelBinding, rand io.Reader) (*SCRAMServer, error) {
	s := &SCRAMServer{verifier: v, doomed: doomed, binding: binding, rand: rand, state: scramFirst}
	switch {
	case mechanism == mechSCRAM:
	case mechanism == mechSCRAMPlus && binding != nil:
		s.plus = true
	default:
		return nil, &Error{Code: codeProtocolViolation, Message: "client selected an invalid SASL authentication mechanism"}
	}
	return s, nil
}

// First takes the client-first-message and returns the server-first-message.
func (s *SCRAMServer) First(message []byte) ([]byte, error) {
	if s.state != scramFirst {
		panic("BUG: SCRAMServer.First is called twice")
	}
	text, err := scramText(message)
	if err != nil {
		return nil, err
	}
	clientNonce, err := s.readFirst(text)
	if err != nil {
		return nil, err
	}
	own, err := newNonce(s.rand)
	if err != nil {
		return nil, err
	}
	s.nonce = clientNonce + own
	s.serverFirst = "r=" + s.nonce +
		",s=" + base64.StdEncoding.EncodeToString(s.verifier.Salt) +
		",i=" + strconv.Itoa(s.verifier.Iterations)
	s.state = scramFinal
	return []byte(s.serverFirst), nil
}

// Final takes the client-final-message. On success it returns the
// server-final-message and the keys that log in as this user elsewhere.
func (s *SCRAMServer) Final(message []byte) ([]byte, SCRAMKeys, error) {
	if s.state != scramFinal {
		panic("BUG: SCRAMServer.Final is called without First")
	}
	s.state = scramDone
	text, err := scramText(message)
	if err != nil {
		return nil, SCRAMKeys{}, err
	}
	withoutProof, nonce, proof, err := s.readFinal(text)
	if err != nil {
		return nil, SCRAMKeys{}, err
	}
	if nonce != s.nonce {
		return nil, SCRAMKeys{}, &Error{Code: codeProtocolViolation, Message: "invalid SCRAM response", Detail: "Nonce does not match."}
	}

	// ClientKey = ClientProof XOR HMAC(StoredKey, AuthMessage); its hash is StoredKey.
	signed := authMessage(s.clientFirstBare, s.serverFirst, withoutProof)
	clientKey := xorKeys(proof, hmacSHA256(s.verifier.StoredKey[:], signed))
	stored := sha256.Sum256(clientKey[:])
	equal := subtle.ConstantTimeCompare(stored[:], s.verifier.StoredKey[:]) == 1
	signature := hmacSHA256(s.verifier.ServerKey[:], signed)
	if !equal || s.doomed {
		return nil, SCRAMKeys{}, errInvalidProof
	}
	keys := SCRAMKeys{
		ClientKey:  clientKey,
		ServerKey:  s.verifier.ServerKey,
		Salt:       s.verifier.Salt,
		Iterations: s.verifier.Iterations,
	}
	return []byte("v=" + base64.StdEncoding.EncodeToString(signature[:])), keys, nil
}

// scramText refuses messages that are not text.
func scramText(message []byte) (string, error) {
	if len(message) == 0 {
		return "", malformed("The message is empty.")
	}
	text := string(message)
	if strings.IndexByte(text, 0) >= 0 {
		return "", malformed("Message length does not match input length.")
	}
	return text, nil
}

// readFirst parses the client-first-message and returns the client's nonce.
func (s *SCRAMServer) readFirst(text string) (nonce string, err error) {
	r := attrReader{s: text}
	if err := s.readBindingFlag(&r); err != nil {
		return "", err
	}
	switch c := r.peek(); c {
	case ',':
		r.pos++
	case 'a':
		return "", &Error{Code: codeFeatureNotSupported, Message: "client uses authorization identity, but it is not supported"}
	default:
		return "", malformed("Unexpected attribute \"%s\" in client-first-message.", sanitizeChar(c))
	}
	s.clientFirstBare = text[r.pos:]

	if r.peek() == 'm' {
		return "", &Error{Code: codeFeatureNotSupported, Message: "client requires an unsupported SCRAM extension"}
	}
	if _, err := r.value('n'); err != nil {
		return "", err
	}
	if nonce, err = r.value('r'); err != nil {
		return "", err
	}
	if !isPrintable(nonce) {
		return "", &Error{Code: codeProtocolViolation, Message: "non-printable characters in SCRAM nonce"}
	}
	for r.peek() != 0 { // optional extensions are ignored
		if _, _, err := r.next(); err != nil {
			return "", err
		}
	}
	return nonce, nil
}

// readBindingFlag reads gs2-cbind-flag and the comma behind it.
func (s *SCRAMServer) readBindingFlag(r *attrReader) error {
	flag := r.peek()
	switch flag {
	case 'n', 'y':
		if s.plus {
			return malformed("The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel binding data.")
		}
		if flag == 'y' && s.binding != nil {
			return &Error{
				Code:    codeInvalidAuthorization,
				Message: "SCRAM channel binding negotiation error",
				Detail:  "The client supports SCRAM channel binding but thinks the server does not.  However, this server does support channel binding.",
			}
		}
		r.pos++
		if c := r.peek(); c != ',' {
			return malformed("Comma expected, but found character \"%s\".", sanitizeChar(c))
		}
		r.pos++
	case 'p':
		if !s.plus {
			return malformed("The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message includes channel binding data.")
		}
		name, err := r.value('p')
		if err != nil {
			return err
		}
		if name != endpointBindingName {
			return &Error{Code: codeProtocolViolation, Message: "unsupported SCRAM channel-binding type \"" + sanitizeString(name) + "\""}
		}
	default:
		return malformed("Unexpected channel-binding flag \"%s\".", sanitizeChar(flag))
	}
	s.bindingFlag = flag
	return nil
}

// readFinal parses the client-final-message.
func (s *SCRAMServer) readFinal(text string) (withoutProof, nonce string, proof [keyLen]byte, err error) {
	r := attrReader{s: text}
	binding, err := r.value('c')
	if err != nil {
		return "", "", proof, err
	}
	if err := s.checkBinding(binding); err != nil {
		return "", "", proof, err
	}
	if nonce, err = r.value('r'); err != nil {
		return "", "", proof, err
	}
	for {
		before := r.pos - 1 // the comma
		attr, value, err := r.next()
		if err != nil {
			return "", "", proof, err
		}
		if attr != 'p' { // an optional extension
			continue
		}
		b, err := decodeBase64(value)
		if err != nil || len(b) != keyLen {
			return "", "", proof, malformed("Malformed proof in client-final-message.")
		}
		if r.peek() != 0 {
			return "", "", proof, malformed("Garbage found at the end of client-final-message.")
		}
		return text[:before], nonce, [keyLen]byte(b), nil
	}
}

// checkBinding compares the gs2 header and, for -PLUS, the binding data.
func (s *SCRAMServer) checkBinding(value string) error {
	if !s.plus {
		if value != base64.StdEncoding.EncodeToString([]byte{s.bindingFlag, ',', ','}) {
			return &Error{Code: codeProtocolViolation, Message: "unexpected SCRAM channel-binding attribute in client-final-message"}
		}
		return nil
	}
	if value != bindingInput(s.binding) {
		return &Error{Code: codeInvalidAuthorization, Message: "SCRAM channel binding check failed"}
	}
	return nil
}

// bindingInput is the value of "c" with channel binding.
func bindingInput(binding ChannelBinding) string {
	input := append([]byte("p="+endpointBindingName+",,"), binding...)
	return base64.StdEncoding.EncodeToString(input)
}
