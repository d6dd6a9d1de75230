package pgtest

import (
	"context"
	"syscall"
)

// Credential returns the user that runs the servers; nil: we do ourselves.
func (b Binaries) Credential() *syscall.Credential { return b.cred }

// MakeData makes a data directory of the servers' user with the roles of every
// server in it: a copy of the template, or with fresh by an initdb of its own. Its
// configuration files are the caller's to write.
func (b Binaries) MakeData(ctx context.Context, dir string, fresh bool) error {
	if fresh {
		if err := b.mkdir(dir); err != nil {
			return err
		}
		return b.initdb(ctx, dir, nil)
	}
	template, err := b.template(ctx, nil)
	if err != nil {
		return err
	}
	return copyDir(ctx, template, dir)
}

// CopyData copies the data directory of a server that does not run.
func (b Binaries) CopyData(ctx context.Context, from, to string) error { return copyDir(ctx, from, to) }

// ProcessesIn returns the processes of the server with that data directory, also
// when its postmaster is gone.
func ProcessesIn(dataDir string) []int { return processesIn(dataDir) }
