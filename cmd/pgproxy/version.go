package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the linker (Makefile); empty in other builds.
var version string

// versionCommand prints which pgproxy this is.
type versionCommand struct {
	Stdout io.Writer
}

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version, the commit and the Go version",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c := versionCommand{Stdout: cmd.OutOrStdout()}
			return c.Run()
		},
	}
}

// Run prints one line.
func (c *versionCommand) Run() error {
	if _, err := fmt.Fprintln(c.Stdout, versionText()); err != nil {
		return fmt.Errorf("print version: %w", err)
	}
	return nil
}

// versionText is what SHOW pool_version answers.
func versionText() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	return versionLine(version, info)
}

// versionLine says what is known: a build outside of a clone has no commit.
func versionLine(version string, info *debug.BuildInfo) string {
	if version == "" {
		version = info.Main.Version
	}
	if version == "" {
		version = "(devel)"
	}
	commit := "unknown"
	modified := ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			commit = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = " (modified)"
		}
	}
	return fmt.Sprintf("pgproxy %s, commit %s%s, %s %s/%s",
		version, commit, modified, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
