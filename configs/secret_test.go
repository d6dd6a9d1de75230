package configs

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func writeSecret(t *testing.T, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // the mode of WriteFile is under the umask
		t.Fatal(err)
	}
	return path
}

func TestReadSecret(t *testing.T) {
	tests := []struct {
		name    string
		content string
		want    string
		err     string // with FILE for the path
	}{
		{name: "newline", content: "s3cret\n", want: "s3cret"},
		{name: "no newline", content: "s3cret", want: "s3cret"},
		{name: "crlf", content: "s3cret\r\n", want: "s3cret"},
		{name: "spaces stay", content: " s3 cret \n", want: " s3 cret "},
		{name: "empty", content: "", err: "secret file FILE is empty"},
		{name: "only a newline", content: "\n", err: "secret file FILE is empty"},
		{name: "two lines", content: "a\nb\n", err: "secret file FILE has more than one line"},
		{name: "two newlines", content: "a\n\n", err: "secret file FILE has more than one line"},
		{name: "too long", content: strings.Repeat("x", maxSecret+1), err: "secret file FILE is longer than 65536 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := writeSecret(t, tt.content, 0o600)
			got, err := ReadSecret(path)
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			message := ""
			if err != nil {
				message = strings.ReplaceAll(err.Error(), path, "FILE")
			}
			if message != tt.err {
				t.Errorf("got error %q, want %q", message, tt.err)
			}
		})
	}
}

// fileInfo is a file with any mode and owner, which only root could make.
type fileInfo struct {
	mode os.FileMode
	uid  uint32
}

func (f fileInfo) Name() string       { return "secret" }
func (f fileInfo) Size() int64        { return 1 }
func (f fileInfo) Mode() os.FileMode  { return f.mode }
func (f fileInfo) ModTime() time.Time { return time.Time{} }
func (f fileInfo) IsDir() bool        { return f.mode.IsDir() }
func (f fileInfo) Sys() any           { return &syscall.Stat_t{Uid: f.uid} }

func TestSecretMode(t *testing.T) {
	tests := []struct {
		mode os.FileMode
		uid  uint32
		err  string
	}{
		{mode: 0o600, uid: 0},
		{mode: 0o400, uid: 0},
		{mode: 0o640, uid: 0},
		{mode: 0o440, uid: 0},
		{mode: 0o660, uid: 0, err: "has mode 0660; it must be 0640 or less"},
		{mode: 0o644, uid: 0, err: "has mode 0644; it must be 0640 or less"},
		{mode: 0o602, uid: 0, err: "has mode 0602; it must be 0640 or less"},
		{mode: 0o600, uid: 1000},
		{mode: 0o400, uid: 1000},
		{mode: 0o640, uid: 1000, err: "has mode 0640; it must be 0600 or less, or 0640 and owned by root"},
		{mode: 0o604, uid: 1000, err: "has mode 0604; it must be 0600 or less, or 0640 and owned by root"},
		{mode: 0o600 | os.ModeSocket, uid: 0, err: "is not a regular file (Srw-------)"},
	}
	for _, tt := range tests {
		message := ""
		if err := checkSecretMode(fileInfo{tt.mode, tt.uid}); err != nil {
			message = err.Error()
		}
		if message != tt.err {
			t.Errorf("mode %04o, owner %d: got %q, want %q", tt.mode, tt.uid, message, tt.err)
		}
	}
}

func TestReadSecretRefuses(t *testing.T) {
	dir := t.TempDir()
	if _, err := ReadSecret(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: got %v, want one that is os.ErrNotExist", err)
	}
	if _, err := ReadSecret(dir); err == nil || !strings.Contains(err.Error(), "is not a regular file") {
		t.Errorf("directory: got %v", err)
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadSecret(pipe); err == nil || !strings.Contains(err.Error(), "is not a regular file") {
		t.Errorf("pipe: got %v", err)
	}
	open := writeSecret(t, "s3cret\n", 0o644)
	if _, err := ReadSecret(open); err == nil || !strings.Contains(err.Error(), open+" has mode 0644") {
		t.Errorf("readable by others: got %v, want one with path and mode", err)
	}
}
