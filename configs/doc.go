// Package configs is the configuration tree of pgproxy: the file pgproxy.yaml.
//
// It does four things: it reads the file strictly, fills in the defaults, checks
// every value, and keeps the commented reference file (Reference), which is the
// documentation of all keys. All faults of a file are reported at once, each with
// line, column and YAML path; sections whose function this version does not have
// are accepted with a warning.
//
// It opens none of the files that a configuration names; ReadSecret and OpenSecret
// are for those who do. Secrets never stand in the configuration itself.
//
// The sections' types belong to the packages that use them (proxy, lb, health);
// what has no package yet is declared here. Relative paths in the file are relative
// to the directory of the file.
//
// cmd/pgproxy drives it. The file is YAML 1.2 without anchors, aliases and tags.
package configs
