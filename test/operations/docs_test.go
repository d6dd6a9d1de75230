package operations

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/pgproxy/pgproxy/configs"
)

// pages are what users read.
var pages = []string{"README.md", "ARCHITECTURE.md", "CHANGELOG.md", "docs/operations.md", "docs/failover.md", "docs/configuration.md", "docs/balancing.md", "docs/transparency.md"}

// TestDocumentedCommandsExist: what stands behind pgproxy and pgproxy-pcp in the
// pages is a command of theirs, and every option one of that command.
func TestDocumentedCommandsExist(t *testing.T) {
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", dir+"/", "./cmd/...")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	mention := regexp.MustCompile("(?:^    |`|sudo |\\| |-u postgres |    bin/)(pgproxy-pcp|pgproxy)((?: [a-z][a-z-]*)+)((?: [A-Za-z0-9./:<>=-]+)*)")
	found := 0
	for _, page := range pages {
		for line := range strings.Lines(readFile(t, filepath.Join(root, page))) {
			for _, m := range mention.FindAllStringSubmatch(line, -1) {
				found++
				if why := checkCommand(dir, m[1], strings.Fields(m[2]), m[3]); why != "" {
					t.Errorf("%s: %q: %s", page, strings.TrimSpace(m[0]), why)
				}
			}
		}
	}
	if found < 20 {
		t.Errorf("%d commands found in the pages: the pattern misses them", found)
	}
	for _, name := range []string{"pgproxy", "pgproxy-pcp"} {
		if checkCommand(dir, name, []string{"levitate"}, "") == "" {
			t.Errorf("%s levitate is taken for a command: the test cannot fail", name)
		}
	}
}

// checkCommand asks the program for the help of the longest command that words
// begin with; the rest are arguments, where that command has no others below it.
func checkCommand(dir, program string, words []string, rest string) string {
	help := ""
	for n := min(2, len(words)); n > 0 && help == ""; n-- {
		out, err := exec.Command(filepath.Join(dir, program), append(words[:n:n], "--help")...).CombinedOutput()
		if err == nil && regexp.MustCompile(`(?m)^  `+program+` `+strings.Join(words[:n], " ")+`( |$)`).Match(out) {
			help = string(out)
			if _, below, ok := strings.Cut(help, "\nAvailable Commands:\n"); ok && n < len(words) && !strings.Contains(below, "\n  "+words[n]+" ") {
				return "no such command below " + words[n-1]
			}
		}
	}
	if help == "" {
		return "no such command"
	}
	for _, option := range regexp.MustCompile(` (--?[a-z][a-z-]*)`).FindAllStringSubmatch(rest, -1) {
		if !regexp.MustCompile(`[ ,]` + option[1] + `\b`).MatchString(help) {
			return "no option " + option[1]
		}
	}
	return ""
}

// TestDocumentedKeysExist: `section.key` in the pages is a key of the configuration.
func TestDocumentedKeysExist(t *testing.T) {
	found := 0
	for _, page := range pages {
		for _, m := range regexp.MustCompile("`([a-z_]+(?:\\.[a-z_]+)+)[`:]").FindAllStringSubmatch(readFile(t, filepath.Join(root, page)), -1) {
			path := strings.Split(m[1], ".")
			section, ok := yamlField(reflect.TypeFor[configs.Config](), path[0])
			if !ok {
				continue // a file, a package
			}
			found++
			for _, key := range path[1:] {
				if section, ok = yamlField(section, key); !ok {
					t.Errorf("%s: no key %s in the configuration", page, m[1])
					break
				}
			}
		}
	}
	if found < 10 {
		t.Errorf("%d keys found in the pages: the pattern misses them", found)
	}
}

func yamlField(t reflect.Type, name string) (reflect.Type, bool) {
	for t.Kind() == reflect.Slice || t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil, false
	}
	for f := range t.Fields() {
		tag, option, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if tag == name {
			return f.Type, true
		}
		if option == "inline" {
			if inner, ok := yamlField(f.Type, name); ok {
				return inner, true
			}
		}
	}
	return nil, false
}

// TestDocumentedMetricsExist: a metric of the pages is made somewhere.
func TestDocumentedMetricsExist(t *testing.T) {
	var sources strings.Builder
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "test" || d.Name() == "node_modules" || strings.HasPrefix(d.Name(), ".") && path != root):
			return fs.SkipDir
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // another test's
		}
		sources.Write(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		for _, m := range regexp.MustCompile(`\bpgproxy_([a-z_]+)`).FindAllStringSubmatch(readFile(t, filepath.Join(root, page)), -1) {
			if !regexp.MustCompile(`"(pgproxy_)?` + m[1] + `"`).MatchString(sources.String()) {
				t.Errorf("%s: nothing makes the metric %s", page, m[0])
			}
		}
	}
}

// TestDocumentedConfigurationLoads: the configuration of the ten steps has no fault,
// and the fragments are parts of one that has none.
func TestDocumentedConfigurationLoads(t *testing.T) {
	doc := readFile(t, root+"/docs/operations.md")
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(doc, -1)
	if len(blocks) != 3 {
		t.Fatalf("%d yaml blocks in docs/operations.md, want the three hosts, the witness and the commands of systemctl", len(blocks))
	}
	whole := blocks[0][1]
	parse := func(what, text string) {
		f := configs.Parse("docs/operations.md", []byte(text))
		if len(f.Faults) > 0 || len(f.Warnings) > 0 {
			t.Errorf("%s: faults %v, warnings %v", what, f.Faults, f.Warnings)
		}
	}
	parse("three hosts", whole)
	members := regexp.MustCompile(`(?s)  members:\n(    - [^\n]*\n)+`)
	withWitness := members.ReplaceAllLiteralString(whole, strings.TrimPrefix(blocks[1][1], "watchdog:\n"))
	withWitness = regexp.MustCompile(`(?m)^  - \{name: h3.*\n`).ReplaceAllString(withWitness, "")
	parse("two hosts and a witness", withWitness)
	witness := regexp.MustCompile(`(?ms)^agent:.*?^watchdog:`).ReplaceAllString(withWitness, "watchdog:")
	witness = regexp.MustCompile(`(?ms)^vip:.*?^pcp:`).ReplaceAllString(witness, "pcp:")
	parse("the witness", strings.Replace(witness, "name: h1 ", "name: w ", 1))
	parse("systemctl", strings.Replace(whole, "agent:\n", blocks[2][1], 1))
}

// TestDocumentedFilesExist: a path in the pages leads somewhere.
func TestDocumentedFilesExist(t *testing.T) {
	found := 0
	for _, page := range pages {
		text := readFile(t, filepath.Join(root, page))
		for _, m := range regexp.MustCompile("`([a-z_]+(?:/[A-Za-z0-9_.*-]+)+)`").FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(root, strings.Split(m[1], "/")[0])); err != nil || strings.HasPrefix(m[1], "bin/") || strings.HasSuffix(m[1], "/...") {
				continue // another project's; made by make build; a whole tree
			}
			found++
			if files, err := filepath.Glob(filepath.Join(root, m[1])); err != nil || len(files) == 0 {
				t.Errorf("%s: there is no %s", page, m[1])
			}
		}
		for _, m := range regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`).FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s: link to %s: %v", page, m[1], err)
			}
		}
	}
	if found < 20 {
		t.Errorf("%d paths found in the pages: the pattern misses them", found)
	}
}
