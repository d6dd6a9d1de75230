package configs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
)

// maxSecret bounds a secret, in bytes.
const maxSecret = 64 << 10

// ReadSecret reads a file that holds one secret on one line. The end of the line is
// not part of it. The file must be as OpenSecret wants it.
func ReadSecret(path string) (string, error) {
	f, err := OpenSecret(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return "", fmt.Errorf("read secret file: %w", err)
	}
	if len(data) > maxSecret {
		return "", fmt.Errorf("secret file %s is longer than %d bytes", path, maxSecret)
	}
	secret := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	if secret == "" {
		return "", fmt.Errorf("secret file %s is empty", path)
	}
	if strings.ContainsAny(secret, "\r\n") {
		return "", fmt.Errorf("secret file %s has more than one line", path)
	}
	return secret, nil
}

// OpenSecret opens a regular file that only its owner can read. A file of root's may
// be readable by its group too, but nobody else may write it: PostgreSQL's rule for
// private keys (manual, "Secure TCP/IP Connections with SSL").
func OpenSecret(path string) (*os.File, error) {
	// O_NONBLOCK: opening a pipe must not wait for its other end.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open secret file: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open secret file: %w", err)
	}
	if err := checkSecretMode(info); err != nil {
		f.Close()
		return nil, fmt.Errorf("secret file %s %w", path, err)
	}
	return f, nil
}

func checkSecretMode(info os.FileInfo) error {
	mode := info.Mode()
	if !mode.IsRegular() {
		return fmt.Errorf("is not a regular file (%v)", mode)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("has no owner that the system would tell")
	}
	if st.Uid == 0 && mode.Perm()&0o037 != 0 {
		return fmt.Errorf("has mode %04o; it must be 0640 or less", mode.Perm())
	}
	if st.Uid != 0 && mode.Perm()&0o077 != 0 {
		return fmt.Errorf("has mode %04o; it must be 0600 or less, or 0640 and owned by root", mode.Perm())
	}
	return nil
}
