// Package operations tests what is copied from docs/operations.md and from the
// folder systemd as far as it can be where systemd does not run: systemd reads the
// unit without a remark, the polkit rule lets pgproxy do what it is for and nothing
// else, and the unit, the commands and configurations of the documentation and the
// program agree.
package operations
