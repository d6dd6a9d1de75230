// Package systemd tests what stands in the folder systemd as far as it can be
// tested where systemd does not run: systemd reads the unit without a remark, the
// polkit rule lets pgproxy do what it is for and nothing else, and the unit, the
// commands of the documentation and the program agree.
package systemd
