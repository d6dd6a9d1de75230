package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// minVersion is the oldest major version that pgtest looks for.
const minVersion = 15

// programs must be in a bin directory for it to be taken: a directory with the
// client programs only will not do.
var programs = []string{"postgres", "initdb", "pg_basebackup"}

// Binaries is an installation of PostgreSQL and the user that runs it.
type Binaries struct {
	Dir   string // of postgres, initdb, pg_basebackup
	Major int

	cred *syscall.Credential // nil: as ourselves
}

// FindBinaries takes the newest installation of version 15 or later from where
// the packages of Debian and Red Hat put them, or else from PATH.
func FindBinaries() (Binaries, error) {
	var dirs []string
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return Binaries{}, fmt.Errorf("find PostgreSQL: %w", err)
		}
		dirs = append(dirs, found...)
	}
	dirs = append(dirs, filepath.SplitList(os.Getenv("PATH"))...)

	var best Binaries
	for _, dir := range dirs {
		major, ok := installedVersion(dir)
		if ok && major >= minVersion && major > best.Major {
			best = Binaries{Dir: dir, Major: major}
		}
	}
	if best.Dir == "" {
		return Binaries{}, fmt.Errorf("find PostgreSQL: no directory with %s of version %d or later in /usr/lib/postgresql/*/bin, /usr/pgsql-*/bin or PATH (Debian: apt-get install postgresql)",
			strings.Join(programs, ", "), minVersion)
	}
	cred, err := serverCredential()
	if err != nil {
		return Binaries{}, err
	}
	best.cred = cred
	return best, nil
}

// installedVersion asks postgres in dir for its major version.
func installedVersion(dir string) (major int, ok bool) {
	for _, p := range programs {
		if _, err := os.Stat(filepath.Join(dir, p)); err != nil {
			return 0, false
		}
	}
	out, err := exec.Command(filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return 0, false
	}
	// "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"
	words := strings.Fields(string(out))
	if len(words) < 3 {
		return 0, false
	}
	digits := words[2] // "15.18", "19devel", "18beta1"
	if i := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		digits = digits[:i]
	}
	major, err = strconv.Atoi(digits)
	return major, err == nil
}

// serverCredential returns the identity of the user postgres when we are root,
// as which postgres and initdb refuse to run.
func serverCredential() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil //nolint:nilnil // no credential is a valid answer: run as ourselves
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("find the user that runs PostgreSQL: %w", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("read uid of %s: %w", u.Username, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("read gid of %s: %w", u.Username, err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// Command prepares a program of the installation, to run as the servers' user
// in English and UTC, so that messages are the same everywhere.
func (b Binaries) Command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(b.Dir, program), args...)
	cmd.Env = []string{"PATH=" + b.Dir + ":/usr/bin:/bin", "LC_ALL=C", "TZ=UTC"}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Credential: b.cred}
	return cmd
}

// run runs a program to its end and puts what it wrote into the error.
func (b Binaries) run(ctx context.Context, stdin, program string, args ...string) error {
	cmd := b.Command(ctx, program, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("run %s: %w: %s", program, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// own gives path to the servers' user.
func (b Binaries) own(path string) error {
	if b.cred == nil {
		return nil
	}
	if err := os.Lchown(path, int(b.cred.Uid), int(b.cred.Gid)); err != nil {
		return fmt.Errorf("give %s to the servers' user: %w", path, err)
	}
	return nil
}

// mkdir makes a directory of the servers' user.
func (b Binaries) mkdir(path string) error {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make directory: %w", err)
	}
	return b.own(path)
}

// writeFile writes a file of the servers' user.
func (b Binaries) writeFile(path, content string) error {
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		return fmt.Errorf("write file: %w", err)
	}
	return b.own(path)
}
