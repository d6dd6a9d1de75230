package auth

import (
	"crypto"
	_ "crypto/sha256" // the hashes that certificates are signed with
	_ "crypto/sha512"
	"crypto/x509"
)

// endpointBindingName is the only type of channel binding that PostgreSQL knows.
const endpointBindingName = "tls-server-end-point"

// ChannelBinding is the tls-server-end-point data of a TLS connection, a hash
// of the server's certificate; nil where there is none.
type ChannelBinding []byte

// EndpointBinding returns the channel binding data for a server's leaf
// certificate: its hash by the function of its signature, SHA-256 in place of
// MD5 and SHA-1 (RFC 5929, section 4.1). It is nil where the signature has no
// single hash function (Ed25519), or one that is not known here: then -PLUS is
// neither offered nor chosen.
func EndpointBinding(leaf *x509.Certificate) ChannelBinding {
	var h crypto.Hash
	switch leaf.SignatureAlgorithm {
	case x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.ECDSAWithSHA1,
		x509.SHA256WithRSA, x509.DSAWithSHA256, x509.ECDSAWithSHA256, x509.SHA256WithRSAPSS:
		h = crypto.SHA256
	case x509.SHA384WithRSA, x509.ECDSAWithSHA384, x509.SHA384WithRSAPSS:
		h = crypto.SHA384
	case x509.SHA512WithRSA, x509.ECDSAWithSHA512, x509.SHA512WithRSAPSS:
		h = crypto.SHA512
	default:
		return nil
	}
	d := h.New()
	d.Write(leaf.Raw)
	return d.Sum(nil)
}
