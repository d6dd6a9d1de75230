package main

import (
	"os"
	"regexp"
	"testing"

	"github.com/pgproxy/pgproxy/configs"
)

// The README's configuration is what new users copy.
func TestReadmeConfigurationLoads(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(readme, -1)
	if len(blocks) != 1 {
		t.Fatalf("%d yaml blocks in README.md, want 1", len(blocks))
	}
	f := configs.Parse("README.md", blocks[0][1])
	if len(f.Faults) > 0 || len(f.Warnings) > 0 {
		t.Errorf("faults %v, warnings %v", f.Faults, f.Warnings)
	}
}
