package pgwire

import "encoding/binary"

// Severities of errors and notices, as in the fields S and V.
const (
	SeverityError   = "ERROR"
	SeverityFatal   = "FATAL"
	SeverityWarning = "WARNING"
)

// begin appends the type and room for the length, which end fills in.
func begin(dst []byte, typ byte) ([]byte, int) {
	return append(dst, typ, 0, 0, 0, 0), len(dst) + 1
}

func end(dst []byte, at int) []byte {
	binary.BigEndian.PutUint32(dst[at:], uint32(len(dst)-at))
	return dst
}

func appendString(dst []byte, s string) []byte {
	return append(append(dst, s...), 0)
}

// AppendEmpty appends a message without a body: Sync, Flush, Terminate,
// ParseComplete, BindComplete, CloseComplete, NoData, EmptyQueryResponse, CopyDone, ...
func AppendEmpty(dst []byte, typ byte) []byte {
	return append(dst, typ, 0, 0, 0, 4)
}

// AppendMessage appends a message of that type with that body.
func AppendMessage(dst []byte, typ byte, body []byte) []byte {
	dst, at := begin(dst, typ)
	return end(append(dst, body...), at)
}

// AppendError appends an ErrorResponse with the fields S, V, C, M and, where they
// are not empty, D and H. The arguments hold no NUL.
func AppendError(dst []byte, severity, code, message, detail, hint string) []byte {
	return appendReport(dst, ErrorResponse, severity, code, message, detail, hint)
}

// AppendNotice appends a NoticeResponse with the same fields as AppendError.
func AppendNotice(dst []byte, severity, code, message, detail, hint string) []byte {
	return appendReport(dst, NoticeResponse, severity, code, message, detail, hint)
}

func appendReport(dst []byte, typ byte, severity, code, message, detail, hint string) []byte {
	dst, at := begin(dst, typ)
	dst = appendString(append(dst, 'S'), severity)
	dst = appendString(append(dst, 'V'), severity)
	dst = appendString(append(dst, 'C'), code)
	dst = appendString(append(dst, 'M'), message)
	if detail != "" {
		dst = appendString(append(dst, 'D'), detail)
	}
	if hint != "" {
		dst = appendString(append(dst, 'H'), hint)
	}
	return end(append(dst, 0), at)
}

// AppendReadyForQuery appends ReadyForQuery with a transaction status.
func AppendReadyForQuery(dst []byte, status byte) []byte {
	return append(dst, ReadyForQuery, 0, 0, 0, 5, status)
}

// AppendParameterStatus appends one ParameterStatus.
func AppendParameterStatus(dst []byte, name, value string) []byte {
	dst, at := begin(dst, ParameterStatus)
	return end(appendString(appendString(dst, name), value), at)
}

// AppendBackendKeyData appends BackendKeyData; the secret has 4 bytes before
// protocol 3.2 and up to 256 from then on.
func AppendBackendKeyData(dst []byte, pid uint32, secret []byte) []byte {
	dst, at := begin(dst, BackendKeyData)
	dst = binary.BigEndian.AppendUint32(dst, pid)
	return end(append(dst, secret...), at)
}

// AppendNegotiateProtocolVersion appends NegotiateProtocolVersion: the newest
// version that both sides speak and the startup options that are not known.
func AppendNegotiateProtocolVersion(dst []byte, version uint32, options []string) []byte {
	dst, at := begin(dst, NegotiateProtocolVersion)
	dst = binary.BigEndian.AppendUint32(dst, version)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(options)))
	for _, o := range options {
		dst = appendString(dst, o)
	}
	return end(dst, at)
}

// AppendAuthentication appends an Authentication request with its data.
func AppendAuthentication(dst []byte, code AuthCode, data []byte) []byte {
	dst, at := begin(dst, Authentication)
	dst = binary.BigEndian.AppendUint32(dst, uint32(code))
	return end(append(dst, data...), at)
}

// AppendCommandComplete appends CommandComplete with a command tag.
func AppendCommandComplete(dst []byte, tag string) []byte {
	dst, at := begin(dst, CommandComplete)
	return end(appendString(dst, tag), at)
}

// AppendQuery appends a simple query.
func AppendQuery(dst []byte, sql string) []byte {
	dst, at := begin(dst, Query)
	return end(appendString(dst, sql), at)
}

// AppendSync appends Sync.
func AppendSync(dst []byte) []byte { return AppendEmpty(dst, Sync) }

// AppendParse appends Parse; the parameters' types are left to the server but for
// those given.
func AppendParse(dst []byte, name, sql string, types []uint32) []byte {
	dst, at := begin(dst, Parse)
	dst = appendString(appendString(dst, name), sql)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(types)))
	for _, t := range types {
		dst = binary.BigEndian.AppendUint32(dst, t)
	}
	return end(dst, at)
}

// AppendClose appends Close of a prepared statement (kind 'S') or portal ('P').
func AppendClose(dst []byte, kind byte, name string) []byte {
	dst, at := begin(dst, Close)
	return end(appendString(append(dst, kind), name), at)
}

// AppendDescribe appends Describe of a prepared statement (kind 'S') or portal ('P').
func AppendDescribe(dst []byte, kind byte, name string) []byte {
	dst, at := begin(dst, Describe)
	return end(appendString(append(dst, kind), name), at)
}

// AppendPassword appends PasswordMessage.
func AppendPassword(dst []byte, password string) []byte {
	dst, at := begin(dst, Password)
	return end(appendString(dst, password), at)
}

// AppendSASLInitialResponse appends the first message of a SASL exchange.
func AppendSASLInitialResponse(dst []byte, mechanism string, data []byte) []byte {
	dst, at := begin(dst, Password)
	dst = appendString(dst, mechanism)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(data)))
	return end(append(dst, data...), at)
}
