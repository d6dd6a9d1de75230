package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// replicationSettings are the ones of postgresql.auto.conf that say where a
// standby gets its log from and where it stops: the agent's to write, never kept.
var replicationSettings = []string{
	"primary_conninfo", "primary_slot_name", "recovery_target", "recovery_target_name", "recovery_target_time",
	"recovery_target_xid", "recovery_target_lsn", "recovery_target_action", "recovery_target_timeline", "recovery_target_inclusive",
}

// maxKept bounds a file of the configuration, in bytes. What is longer is a log.
const maxKept = 4 << 20

// ofServer tells whether a name at the top of a data directory is PostgreSQL's own
// (manual, "Database File Layout"): the others are this server's configuration, keys
// and certificates, which a copy from another server must not replace.
func ofServer(name string) bool {
	switch name {
	case "PG_VERSION", "base", "global", "current_logfiles", "postmaster.pid", "postmaster.opts", "standby.signal",
		"recovery.signal", "backup_label", "backup_label.old", "backup_manifest", "tablespace_map", "tablespace_map.old",
		"log", "pg_log", "lost+found", "core", markerInData:
		return true
	case "pg_hba.conf", "pg_ident.conf":
		return false
	}
	return strings.HasPrefix(name, "pg_") || strings.HasPrefix(name, "pgsql_tmp") || strings.HasSuffix(name, ".tmp")
}

// keep copies the configuration in a data directory to where it outlives it.
func (f files) keep(dataDir string) error {
	fresh := f.kept() + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return fmt.Errorf("keep configuration: %w", err)
	}
	if err := copyConfiguration(dataDir, fresh); err != nil {
		return fmt.Errorf("keep configuration: %w", err)
	}
	if err := os.RemoveAll(f.kept()); err != nil {
		return fmt.Errorf("keep configuration: %w", err)
	}
	return rename(fresh, f.kept())
}

// signature changes when the configuration in a data directory does.
func signature(dataDir string) string {
	var b strings.Builder
	_ = walkConfiguration(dataDir, func(rel string, info fs.FileInfo) error {
		fmt.Fprintf(&b, "%s %d %d\n", rel, info.Size(), info.ModTime().UnixNano())
		return nil
	})
	return b.String()
}

// restore replaces the configuration that came with a copy by the one that was
// kept. Without a kept one, as on a new host, the copy's stays.
func (f files) restore(dataDir string) error {
	if !exists(f.kept()) {
		return nil
	}
	entries, err := os.ReadDir(dataDir)
	if err != nil {
		return fmt.Errorf("restore configuration: %w", err)
	}
	for _, e := range entries {
		if !ofServer(e.Name()) {
			if err := os.RemoveAll(filepath.Join(dataDir, e.Name())); err != nil {
				return fmt.Errorf("restore configuration: %w", err)
			}
		}
	}
	if err := copyConfiguration(f.kept(), dataDir); err != nil {
		return fmt.Errorf("restore configuration: %w", err)
	}
	return nil
}

func copyConfiguration(from, to string) error {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	err := walkConfiguration(from, func(rel string, info fs.FileInfo) error {
		target := filepath.Join(to, rel)
		switch {
		case info.IsDir():
			return os.MkdirAll(target, info.Mode().Perm()|0o700)
		case info.Mode()&fs.ModeSymlink != 0:
			link, err := os.Readlink(filepath.Join(from, rel))
			if err != nil {
				return err
			}
			return os.Symlink(link, target)
		}
		content, err := os.ReadFile(filepath.Join(from, rel))
		if err != nil {
			return err
		}
		if err := writeFile(target, content); err != nil {
			return err
		}
		return os.Chmod(target, info.Mode().Perm())
	})
	return err
}

// walkConfiguration calls visit for all that is not PostgreSQL's own.
func walkConfiguration(dir string, visit func(rel string, info fs.FileInfo) error) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if filepath.Dir(rel) == "." && ofServer(rel) {
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone since
		}
		if err != nil {
			return err
		}
		plain := info.Mode().IsRegular() && info.Size() <= maxKept
		if !plain && !info.IsDir() && info.Mode()&fs.ModeSymlink == 0 {
			return nil
		}
		return visit(rel, info)
	})
}

// setReplication writes where a stopped standby gets its log from. Other settings
// of ALTER SYSTEM stay.
func setReplication(dataDir, conninfo, slot string) error {
	path := filepath.Join(dataDir, "postgresql.auto.conf")
	content, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read settings: %w", err)
	}
	var b bytes.Buffer
	for line := range strings.Lines(string(content)) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), "=")
		if !slices.Contains(replicationSettings, strings.ToLower(strings.TrimSpace(name))) {
			b.WriteString(strings.TrimRight(line, "\r\n") + "\n")
		}
	}
	// The file's own quoting (guc-file.l), as ALTER SYSTEM writes it.
	quote := strings.NewReplacer(`\`, `\\`, `'`, `''`)
	fmt.Fprintf(&b, "primary_conninfo = '%s'\nprimary_slot_name = '%s'\n", quote.Replace(conninfo), quote.Replace(slot))
	return writeFile(path, b.Bytes())
}

// setSignal says what a stopped server starts as.
func setSignal(dataDir string, standby bool) error {
	if err := remove(filepath.Join(dataDir, "recovery.signal")); err != nil {
		return err
	}
	path := filepath.Join(dataDir, "standby.signal")
	if !standby {
		return remove(path)
	}
	return writeFile(path, nil)
}
