package main

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"testing"
)

// TestChangedFile: a file is taken when it is another one and nobody writes to it.
func TestChangedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := &reloader{path: path, tried: sha256.Sum256([]byte("first"))}
	looks := func(want ...bool) {
		t.Helper()
		for i, w := range want {
			if got := r.changed(); got != w {
				t.Fatalf("look %d: changed %t", i, got)
			}
		}
	}
	write("first")
	looks(false, false)
	write("half of the sec")
	looks(false)
	write("half of the second")
	looks(false, true, true)
	r.tried = sha256.Sum256([]byte("half of the second"))
	looks(false)
	write("half of the second") // with another time, and the same content
	looks(false, false)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	looks(false, false)
	write("a third one")
	looks(false, true)
}
