package configs

import _ "embed"

//go:embed pgproxy.yaml
var reference string

// Reference returns the commented reference file. It documents every key and loads as
// it is: its active keys have their default values, but for backends, which has none.
func Reference() string { return reference }
