package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// files is what the agent writes down in its own directory, data_dir/agent.
type files struct {
	dir string
}

// layout is what the running server has told about itself, remembered for when it
// does not run or its data directory is gone.
type layout struct {
	DataDirectory string            `json:"data_directory"`
	ConfigFile    string            `json:"config_file"`
	HBAFile       string            `json:"hba_file"`
	IdentFile     string            `json:"ident_file"`
	Version       int               `json:"version"`               // server_version_num
	Segment       uint64            `json:"segment"`               // bytes of a log file
	WALDirectory  string            `json:"wal_directory"`         // that pg_wal is a link to; "" it is none
	Tablespaces   map[string]string `json:"tablespaces,omitempty"` // OID to directory
}

// marker says that the data directory is not a server's: a rewind or a copy in
// place was begun and not finished. It stands here and, where that is there, in the
// data directory, which pg_rewind cleans of files that its source does not have.
type marker struct {
	InPlace bool `json:"in_place"`
}

const markerInData = "pgproxy.rewind"

func (f files) path(name string) string { return filepath.Join(f.dir, name) }
func (f files) passfile() string        { return f.path("pgpass") }
func (f files) kept() string            { return f.path("configuration") }

// prepare makes the directory and the password file that servers and programs of
// PostgreSQL read.
func (f files) prepare(user, password string) error {
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return fmt.Errorf("make the agent's directory: %w", err)
	}
	if password == "" {
		return remove(f.passfile())
	}
	escape := strings.NewReplacer(`\`, `\\`, `:`, `\:`)
	return writeFile(f.passfile(), fmt.Appendf(nil, "*:*:*:%s:%s\n", escape.Replace(user), escape.Replace(password)))
}

// read returns what Next needs of what is written down.
func (f files) read(dataDir string) (Files, error) {
	var out Files
	m, err := readJSON[marker](f.path("marker.json"))
	if err != nil {
		return Files{}, err
	}
	if m != nil {
		out.Marker, out.InPlace = true, m.InPlace
	}
	out.Marker = out.Marker || exists(filepath.Join(dataDir, markerInData))
	out.Fenced = exists(f.path("fenced"))
	swap, err := f.swap()
	if err != nil {
		return Files{}, err
	}
	out.Left = swap != nil
	text, err := os.ReadFile(f.path("rebuilt"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Files{}, fmt.Errorf("read the agent's files: %w", err)
	}
	if err == nil {
		if out.Rebuilt, err = strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64); err != nil {
			return Files{}, fmt.Errorf("read %s: %w", f.path("rebuilt"), err)
		}
	}
	return out, nil
}

func (f files) mark(dataDir string, m marker) error {
	if err := writeJSON(f.path("marker.json"), m); err != nil {
		return err
	}
	return f.markData(dataDir)
}

// markData puts the marker into the data directory, where there is one.
func (f files) markData(dataDir string) error {
	if !exists(filepath.Join(dataDir, "PG_VERSION")) {
		return nil
	}
	return writeFile(filepath.Join(dataDir, markerInData), nil)
}

// unmark takes the marker back, the one in the data directory last: it is what is
// left when this is interrupted and data_dir is lost.
func (f files) unmark(dataDir string) error {
	if err := remove(f.path("marker.json")); err != nil {
		return err
	}
	return remove(filepath.Join(dataDir, markerInData))
}

func (f files) setFenced(fenced bool) error {
	if fenced {
		return writeFile(f.path("fenced"), nil)
	}
	return remove(f.path("fenced"))
}

func (f files) setRebuilt(id uint64) error {
	return writeFile(f.path("rebuilt"), []byte(strconv.FormatUint(id, 10)+"\n"))
}

func (f files) layout() (layout, error) {
	l, err := readJSON[layout](f.path("server.json"))
	if l == nil || err != nil {
		return layout{}, err
	}
	return *l, nil
}

func (f files) setLayout(l layout) error { return writeJSON(f.path("server.json"), l) }

// readJSON returns nil when there is no such file.
func readJSON[T any](path string) (*T, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read file: %w", err)
	}
	v := new(T)
	if err := json.Unmarshal(content, v); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return v, nil
}

func writeJSON(path string, v any) error {
	content, err := json.MarshalIndent(v, "", "\t")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return writeFile(path, append(content, '\n'))
}

// writeFile replaces a file, on disk when it returns.
func writeFile(path string, content []byte) error {
	temp := path + ".tmp"
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write file: %w", err)
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return fmt.Errorf("write file: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

// remove removes a file that may be there, on disk when it returns.
func remove(path string) error {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove file: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

// rename moves a file or directory, on disk when it returns.
func rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return fmt.Errorf("rename: %w", err)
	}
	if err := syncDir(filepath.Dir(from)); err != nil {
		return err
	}
	return syncDir(filepath.Dir(to))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}
